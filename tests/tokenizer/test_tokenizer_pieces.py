"""Families with raw files only: ids, tokens and text equal transformers', which cuts by sentencepiece or in Python."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

import oracle_tokenizers as oracle
from conjoin import tokenizer as room
from conjoin.errors import ConjoinError, FileError, MissingBackend, TokenizerError
from conjoin.tokenizer import AutoTokenizer
from conjoin.tokenizer.m2m100 import M2M100_LANGUAGES
from conjoin.tokenizer.nllb import NLLB_LANGUAGES
from tokenizer_samples import (
    ODD,
    PEGASUS_SPM,
    PIECES,
    ROBERTA_TOKENS,
    SENTENCES,
    TEXTS,
    UNIGRAM,
    pieces_folder,
    raw_folder,
    spm_pieces,
    write_byte_level,
    write_json,
    write_m2m100,
    write_marian,
    write_spm,
)

CODES = [
    ">>fra<< Hello the fox",
    ">>xxx<<the",
    " >>fra<< the",
    "the >>fra<< fox",
    ">>deu<<",
    ">> a",
    "__en__ the __fr__",
]
SHORT = {"padding": True, "truncation": True, "max_length": 11}


def class_of(folder: Path) -> str:
    return json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"]


def both(folder: Path) -> tuple[Any, Any]:
    name = class_of(folder)
    return getattr(room, name).from_pretrained(folder), oracle.load(folder, name)


def assert_equal(ours: Any, theirs: Any, texts: list[str]) -> None:
    """Hold one of our tokenizers to one of theirs, which knows no offsets."""
    assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.get_vocab() == theirs.get_vocab()
    facts = ("padding_side", "model_max_length", "pad_token_id", "eos_token_id", "bos_token_id")
    assert [getattr(ours, name) for name in facts] == [getattr(theirs, name) for name in facts]
    vocab = ours.get_vocab()
    for text in texts:
        expected = oracle.call(theirs, text)
        assert dict(ours(text)) == {name: expected[name] for name in ours.model_input_names}, text
        tokens = [[token if token in vocab else None for token in each.tokenize(text)] for each in (ours, theirs)]
        assert tokens[0] == tokens[1], text
        labels = ours(text_target=text)["input_ids"]
        assert labels == oracle.call(theirs, text_target=text)["input_ids"], text
        own = expected["input_ids"] if theirs.init_kwargs.get("separate_vocabs") is not True else labels
        for ids in (own, labels):
            for skip in (False, True):
                how: dict[str, Any] = {"skip_special_tokens": skip}
                assert ours.decode(ids, **how) == theirs.decode(ids, **how), text
    words = [text.split() or ["a"] for text in texts]
    for how in (SHORT, {"add_special_tokens": False}):
        assert ours(texts, **how)["input_ids"] == oracle.call(theirs, texts, **how)["input_ids"]
        split = {**how, "is_split_into_words": True}
        assert ours(words, **split)["input_ids"] == oracle.call(theirs, words, **split)["input_ids"]
    assert ours(texts, texts[::-1])["input_ids"] == oracle.call(theirs, texts, texts[::-1])["input_ids"]


@pytest.mark.parametrize("kind", PIECES)
def test_raw_files_give_transformers_ids_and_text(kind: str, tmp_path: Path) -> None:
    ours, theirs = both(pieces_folder(kind, tmp_path / "raw"))
    assert_equal(ours, theirs, TEXTS + CODES)
    ours.save_pretrained(tmp_path / "ours")
    assert not (tmp_path / "ours" / "tokenizer.json").exists()
    theirs.save_pretrained(tmp_path / "theirs")
    for folder in (tmp_path / "ours", tmp_path / "theirs"):
        again = AutoTokenizer.from_pretrained(folder)
        assert type(again) is type(ours)
        assert_equal(again, oracle.load(folder), SENTENCES[:4] + ODD[-6:])


@pytest.mark.parametrize("kind", ["marian-codes", "m2m100", "wmt21", "blenderbot-small", "biogpt"])
def test_pieces_know_their_places_in_the_text(kind: str, tmp_path: Path) -> None:
    ours, _ = both(pieces_folder(kind, tmp_path))
    text = "The quick  brown fox."
    batch = ours(text, return_offsets_mapping=True)
    spans = batch["offset_mapping"]
    assert [text[slice(*span)].strip().lower() for span in spans] == [
        "" if token in ours.all_special_tokens and token != ours.unk_token else text[slice(*span)].strip().lower()
        for token, span in zip(batch.tokens(), spans, strict=True)
    ]
    assert (
        "".join(text[slice(*span)] for span in dict.fromkeys(spans)).replace(" ", "") == "Thequickbrownfox."
    )  # the first space is nowhere
    rows = ours([["The", "quick"], ["fox"]], is_split_into_words=True, return_offsets_mapping=True)
    assert [word for word in dict.fromkeys(rows.word_ids(0)) if word is not None] == [0, 1]
    assert max(end for _, end in rows["offset_mapping"][0]) == len("quick")
    long = ours(
        text, max_length=5, truncation=True, stride=1, return_overflowing_tokens=True, return_offsets_mapping=True
    )
    assert max(span[1] for row in long["offset_mapping"] for span in row) == len(text)
    assert len(long["input_ids"][0]) == 5


@pytest.mark.parametrize("kind", ["marian-separate", "m2m100", "blenderbot-small"])
def test_copies_and_added_tokens(kind: str, tmp_path: Path) -> None:
    folder = pieces_folder(kind, tmp_path / "raw")
    ours, theirs = both(folder)
    before = ours("the fox <new>")["input_ids"]
    copies = [copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    for tokenizer in (ours, theirs):
        assert tokenizer.add_tokens(["<new>"]) == 1
    assert ours("the fox<new> a")["input_ids"] == theirs("the fox<new> a")["input_ids"]
    assert len(ours) - 1 in ours("the fox <new>")["input_ids"]
    assert [each("the fox <new>")["input_ids"] for each in copies] == [before] * 3
    ours.save_pretrained(tmp_path / "ours")
    again: Any = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert again("the fox<new> a")["input_ids"] == oracle.load(tmp_path / "ours")("the fox<new> a")["input_ids"]
    assert len(again) - 1 in again("<new>")["input_ids"]


def test_marian_puts_the_targets_language_in_front_of_sources(tmp_path: Path) -> None:
    folder = pieces_folder("marian-codes", tmp_path)
    ours: Any = AutoTokenizer.from_pretrained(folder)
    theirs = oracle.load(folder)
    assert ours.lang_code_to_id == {code: ours.get_vocab()[f">>{code}<<"] for code in ("fra", "deu", "zho_Hans")}
    plain = ours("the fox")["input_ids"]
    ours.tgt_lang = "fr"
    assert (ours.tgt_lang, ours.target_language) == ("fra", None)
    assert ours("the fox")["input_ids"] == theirs(">>fra<< the fox")["input_ids"]
    assert ours(">>deu<< the fox")["input_ids"] == theirs(">>deu<< the fox")["input_ids"]
    assert ours("the fox", text_target="the fox")["labels"] == theirs(text_target="the fox")["input_ids"]
    assert ours("the fox", add_special_tokens=False)["input_ids"] == plain[:-1]
    batch = ours("the fox", truncation=True, max_length=3, return_offsets_mapping=True)
    assert (len(batch["input_ids"]), batch["offset_mapping"][:2]) == (3, [(0, 0), (0, 3)])
    ours.save_pretrained(tmp_path / "saved")
    again: Any = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("the fox")["input_ids"] == ours("the fox")["input_ids"]
    ours.tgt_lang = "zh"
    assert ours.tgt_lang == "zho_Hans"
    with pytest.raises(TokenizerError, match=r"'rus' is none that this MarianTokenizer knows.*fra, deu"):
        ours.tgt_lang = "rus"
    with pytest.raises(TokenizerError, match="reads every language of its sources without a code"):
        ours.src_lang = "en"


def test_m2m100_has_its_languages_even_where_no_file_lists_them(tmp_path: Path) -> None:
    """transformers 5.23 takes `__en__` in a text apart then, and shows it in results."""
    write_m2m100(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["additional_special_tokens"]
    write_json(tmp_path / "tokenizer_config.json", config)
    ours, theirs = both(tmp_path)
    assert list(ours.lang_code_to_id) == list(M2M100_LANGUAGES)
    assert ours.lang_code_to_id == theirs.lang_code_to_id
    for text in SENTENCES:
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"]
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids[1:], skip_special_tokens=True)


def test_languages_of_pieces_frame_both_sides(tmp_path: Path) -> None:
    for kind, source, target in (("m2m100", "ru", "zh"), ("plbart", "python", "en"), ("plbart-multi", "go", "php")):
        folder = pieces_folder(kind, tmp_path / kind)
        ours, theirs = both(folder)
        for tokenizer, code in ((ours, target), (theirs, {"en": "en_XX"}.get(target, target))):
            tokenizer.src_lang, tokenizer.tgt_lang = source, code
        for text in SENTENCES[:3]:
            assert ours(text, text_target=text)["labels"] == oracle.call(theirs, text_target=text)["input_ids"]
            assert ours(text)["input_ids"] == oracle.call(theirs, text)["input_ids"]
        ours.save_pretrained(tmp_path / "saved")
        again: Any = AutoTokenizer.from_pretrained(tmp_path / "saved")
        assert (again.src_lang, again.tgt_lang) == (ours.src_lang, ours.tgt_lang)


def test_plbart_of_seven_languages_has_no_mask(tmp_path: Path) -> None:
    """transformers 5.23 names one, whose id is that of unknown text."""
    folder = pieces_folder("plbart-multi", tmp_path)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["mask_token"]
    write_json(folder / "tokenizer_config.json", config)
    ours, theirs = both(folder)
    assert (theirs.mask_token, theirs.mask_token_id) == ("<mask>", theirs.unk_token_id)
    assert (ours.mask_token, ours.mask_token_id) == (None, None)
    assert ours.get_vocab() == theirs.get_vocab() and "<mask>" not in ours.get_vocab()
    assert ours.src_lang == "en_XX" and theirs.src_lang == "__en_XX__"
    assert all(ours(text)["input_ids"] == theirs(text)["input_ids"] for text in SENTENCES)
    ours.save_pretrained(tmp_path / "ours")
    assert oracle.load(tmp_path / "ours").mask_token is None


def test_nllb_numbers_languages_as_its_checkpoints_do(tmp_path: Path) -> None:
    """transformers 5.23 forgets the languages of a .model file alone."""
    listed: Any = AutoTokenizer.from_pretrained(raw_folder("nllb", tmp_path / "nllb"))
    config = json.loads((tmp_path / "nllb" / "tokenizer_config.json").read_text())
    for key in ("added_tokens_decoder", "additional_special_tokens"):
        del config[key]
    write_json(tmp_path / "nllb" / "tokenizer_config.json", config)
    ours: Any = AutoTokenizer.from_pretrained(tmp_path / "nllb")
    assert ours.get_vocab() == listed.get_vocab()
    assert [ours(text)["input_ids"] for text in TEXTS] == [listed(text)["input_ids"] for text in TEXTS]
    assert ours.convert_tokens_to_ids("<mask>") == len(ours) - 1
    assert ours.lang_code_to_id["eng_Latn"] == len(ours) - 1 - len(NLLB_LANGUAGES) + 46  # 256047 in the checkpoints


def test_nllb_frames_texts_by_its_settings_and_not_by_its_file(tmp_path: Path) -> None:
    """The checkpoints' tokenizer.json has the frame of legacy_behaviour, which is off by default."""
    folder = raw_folder("nllb-legacy", tmp_path / "raw")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "json")
    config = json.loads((tmp_path / "json" / "tokenizer_config.json").read_text())
    for key in ("legacy_behaviour", "src_lang", "tgt_lang"):
        config.pop(key, None)
    write_json(tmp_path / "json" / "tokenizer_config.json", config)
    ours, theirs = both(tmp_path / "json")
    for text in SENTENCES:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours("a").tokens()[0] == "eng_Latn"


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("en", "eng_Latn"),
        ("fr", "fra_Latn"),
        ("ara", "arb_Arab"),
        ("zho_Hant", "zho_Hant"),
        ("de-latn", None),
        ("pt", "por_Latn"),
    ],
)
def test_short_codes_mean_the_only_language_that_they_can(word: str, code: str | None, tmp_path: Path) -> None:
    ours: Any = AutoTokenizer.from_pretrained(raw_folder("nllb", tmp_path))
    if code is None:
        with pytest.raises(TokenizerError, match=r"is none .* Near it: deu_Latn"):
            ours.tgt_lang = word
    else:
        ours.tgt_lang = word
        assert ours.tgt_lang == code
        assert ours.target_language.id == ours.convert_tokens_to_ids(code)
    with pytest.raises(TokenizerError, match=r"'zh' is none .* Near it: .*zho_Hans, zho_Hant"):
        ours.src_lang = "zh"
    assert ours.src_lang == "fra_Latn"


def test_pegasus_numbers_its_masks_as_its_checkpoints_do(tmp_path: Path) -> None:
    """transformers 5.23 swaps them where tokenizer_config.json names both, as google/pegasus-* do."""
    write_spm(tmp_path, "spiece.model", **PEGASUS_SPM)
    named = {"mask_token": "<mask_2>", "mask_token_sent": "<mask_1>"}
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "PegasusTokenizer", **named})
    ours: Any = AutoTokenizer.from_pretrained(tmp_path)
    ids = ours.convert_tokens_to_ids(["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk_102>", "<unk>"])
    assert ids == [0, 1, 2, 3, 4, 104, 105]


def test_xglm_reads_its_model_file(tmp_path: Path) -> None:
    """transformers 5.23 reads XGLM's tokenizer.json only."""
    write_spm(tmp_path, "sentencepiece.bpe.model", **UNIGRAM)
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "XGLMTokenizer"})
    ours: Any = AutoTokenizer.from_pretrained(tmp_path)
    pieces = spm_pieces(**UNIGRAM)
    assert ours.get_vocab()["<madeupword6>"] == len(ours) - 1 == len(pieces) + 7
    assert all(ours.get_vocab()[piece] == index + 1 for index, piece in enumerate(pieces) if index > 2)
    ours.save_pretrained(tmp_path / "saved")
    theirs = oracle.load(tmp_path / "saved", "XGLMTokenizer")
    assert [ours(text)["input_ids"] for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]
    assert ours("a", "b")["input_ids"] == theirs("a", "b")["input_ids"]


def test_deberta_without_a_prefix_space_has_one_at_the_start_of_a_text(tmp_path: Path) -> None:
    folder = raw_folder("deberta", tmp_path)
    ours = room.DebertaV2Tokenizer.from_pretrained(folder, add_prefix_space=False)
    theirs = oracle.load(folder, "DebertaV2Tokenizer", add_prefix_space=False)
    for text in TEXTS:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]


def test_blenderbot_ends_texts(tmp_path: Path) -> None:
    """As its tokenizer.json does; transformers 5.23 forgets it where there is none."""
    write_byte_level(tmp_path, ROBERTA_TOKENS)
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BlenderbotTokenizer"})
    ours, theirs = both(tmp_path)
    for text in TEXTS:
        assert ours(text)["input_ids"] == [*theirs(text, add_special_tokens=False)["input_ids"], theirs.eos_token_id]


def test_raw_files_are_read_before_a_tokenizer_json_as_in_transformers(tmp_path: Path) -> None:
    folder = pieces_folder("marian", tmp_path / "marian")
    raw_folder("bert", tmp_path / "bert")
    AutoTokenizer.from_pretrained(tmp_path / "bert").save_pretrained(tmp_path / "bert")
    (folder / "tokenizer.json").write_bytes((tmp_path / "bert" / "tokenizer.json").read_bytes())
    ours, theirs = both(folder)
    assert ours(SENTENCES[0])["input_ids"] == theirs(SENTENCES[0])["input_ids"]
    assert type(AutoTokenizer.from_pretrained(folder)) is room.MarianTokenizer
    ours.save_pretrained(tmp_path / "bert")  # over another tokenizer
    assert type(AutoTokenizer.from_pretrained(tmp_path / "bert")) is room.MarianTokenizer


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        ("marian", "vocab.json", "[1]", "expected a JSON object"),
        ("marian", "vocab.json", "{}", "the vocabulary is empty"),
        ("marian", "vocab.json", '{"</s>": 0, "a": 1}', "has no '<unk>'"),
        ("marian", "vocab.json", '{"</s>": 0, "<unk>": 0}', "share an id"),
        ("marian", "vocab.json", '{"</s>": "0", "<unk>": 1}', "expected a whole number"),
        ("marian", "target.spm", "version https://git-lfs.github.com/spec/v1", "not a readable SentencePiece model"),
        ("marian", "source.spm", None, "source.spm"),
        ("marian-separate", "target_vocab.json", None, "no target_vocab.json"),
        ("marian-separate", "target_vocab.json", '{"<unk>": 0, "</s>": 1, "<pad>": 2}', "a model ends texts in one id"),
        ("m2m100", "sentencepiece.bpe.model", "", "holds no pieces"),
        ("m2m100", "tokenizer_config.json", '{"language_codes": "all"}', "expected one of: m2m100, wmt21"),
        ("plbart", "tokenizer_config.json", '{"language_codes": 3}', "expected one of: base, multi"),
        ("blenderbot-small", "merges.txt", "#version: 0.2\na\n", "expected two pieces"),
    ],
)
def test_damaged_files_are_named(kind: str, name: str, content: str | None, message: str, tmp_path: Path) -> None:
    folder = pieces_folder(kind, tmp_path)
    cls = getattr(room, class_of(folder))
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises((TokenizerError, FileError), match=message):
        cls.from_pretrained(folder)


def test_what_these_families_cannot_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = both(pieces_folder("marian", tmp_path / "marian"))
    with pytest.raises(TokenizerError, match="is not made of a tokenizers"):
        room.MarianTokenizer(ours.backend)
    folder = pieces_folder("biogpt", tmp_path / "biogpt")
    monkeypatch.setitem(__import__("sys").modules, "sacremoses", None)
    with pytest.raises(MissingBackend, match="package sacremoses"):
        AutoTokenizer.from_pretrained(folder)
    assert issubclass(MissingBackend, ConjoinError)


def test_a_model_type_names_the_family_of_raw_files(tmp_path: Path) -> None:
    write_marian(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    write_json(tmp_path / "config.json", {"model_type": "marian"})
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is room.MarianTokenizer
