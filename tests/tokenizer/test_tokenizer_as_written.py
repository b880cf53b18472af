"""A tokenizer.json is used as it is written, whatever class the folder names; the file alone is the judge."""

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers as pre

import oracle_tokenizers as oracle
from conjoin import tokenizer as room
from conjoin.errors import ConjoinWarning, TokenizerError
from conjoin.tokenizer import AutoTokenizer, Tokenizer
from conjoin.tokenizer.files.sample import SAMPLE, Sample, check_same
from tokenizer_pipelines import byte_level, framed, pieces, with_added, words
from tokenizer_samples import RAW, SENTENCES, TEXTS, raw_folder, write_json

PROBE = [*SAMPLE, *TEXTS, "2023 Hello caf\u00e9", "a \U0001f999\nb"]
SPLIT = Regex(r"\p{N}|[^\s\p{N}]+|\s+")
BYTE_LEVEL: dict[str, Callable[[], Backend]] = {
    "digits": lambda: byte_level(pre.Sequence([pre.Digits(True), pre.ByteLevel(add_prefix_space=False)])),
    "split": lambda: byte_level(
        pre.Sequence([pre.Split(SPLIT, "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    ),
    "lower": lambda: byte_level(normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
    "ignore-merges": lambda: byte_level(ignore_merges=True),
    "frame": lambda: framed(with_added(byte_level(), AddedToken("<|a|>", special=True), "<|b|>"), "<|a|>", "<|b|>"),
    "prefix-space": lambda: byte_level(pre.ByteLevel(add_prefix_space=True)),
}
WORDS: dict[str, Callable[[], Backend]] = {
    "cased": lambda: words(normalizers.BertNormalizer(lowercase=False, strip_accents=False)),
    "nfc-lower": lambda: words(normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])),
    "no-normalizer": words,
    "spaces-only": lambda: words(normalizers.BertNormalizer(), pre.WhitespaceSplit()),
    "short-words": lambda: words(normalizers.BertNormalizer(), max_input_chars_per_word=3),
    "prefix": lambda: words(normalizers.BertNormalizer(), continuing_subword_prefix="@@"),
    "frame": lambda: framed(words(normalizers.Lowercase()), "[MASK]", "[CLS]"),
}
PIECES: dict[str, Callable[[], Backend]] = {
    "bytes": pieces,
    "first": lambda: with_added(
        pieces(
            pre.Metaspace(prepend_scheme="first"),
            decoder=decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]),
        ),
        "<",
    ),
    "no-bytes": lambda: pieces(byte_fallback=False, decoder=decoders.Metaspace()),
    "lower": lambda: pieces(normalizer=normalizers.Lowercase()),
    "frame": lambda: framed(pieces(), "<s>", "</s>"),
    "byte-split": lambda: pieces(pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace(prepend_scheme="never")])),
}


def t5_words() -> Backend:
    """T5's own way to cut words."""
    return pieces(pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace(prepend_scheme="always")]))


BYTE_LEVEL_CLASSES = ["GPT2", "Roberta", "Bart", "OPT", "GPTNeoX", "Qwen2", "Llama"]
BYTE_LEVEL_TYPES = ["gpt2", "roberta", "bart", "opt", "gpt_neox", "qwen2", "llama", "mistral"]
WORD_CLASSES, WORD_TYPES = ["Bert", "DistilBert", "Electra"], ["bert", "distilbert", "electra", "modernbert"]
PIECE_CLASSES = ["T5", "XLMRoberta", "Camembert", "Albert", "MBart", "MBart50"]
PIECE_TYPES = ["t5", "mt5", "xlm-roberta", "camembert", "albert", "mbart", "umt5"]

CASES = [
    *((name, make, BYTE_LEVEL_CLASSES, BYTE_LEVEL_TYPES) for name, make in BYTE_LEVEL.items()),
    *((name, make, WORD_CLASSES, WORD_TYPES) for name, make in WORDS.items()),
    *((name, make, PIECE_CLASSES, PIECE_TYPES) for name, make in PIECES.items()),
]


def write(folder: Path, backend: Backend, model_type: str | None = None, **config: Any) -> Path:
    """A folder with a tokenizer.json, and settings where they are given."""
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    if config:
        write_json(folder / "tokenizer_config.json", config)
    if model_type is not None:
        write_json(folder / "config.json", {"model_type": model_type})
    return folder


def load(folder: Path, **overrides: Any) -> Tokenizer:
    found = AutoTokenizer.from_pretrained(folder, **overrides)
    assert isinstance(found, Tokenizer)
    return found


def assert_as_written(ours: Tokenizer, file: Backend) -> None:
    """Ids, tokens, offsets and text are those of the file, framed and bare, one by one and in pairs."""
    expected, found = file.encode_batch(PROBE), ours(PROBE, return_offsets_mapping=True)
    assert found.input_ids == [row.ids for row in expected]
    assert found.offset_mapping == [row.offsets for row in expected]
    bare = [row.ids for row in file.encode_batch(PROBE, add_special_tokens=False)]
    assert ours(PROBE, add_special_tokens=False).input_ids == bare
    assert ours.batch_decode(bare) == file.decode_batch(bare, skip_special_tokens=False)
    assert ours("a b", "c").input_ids == file.encode("a b", "c").ids
    assert ours.get_vocab() == file.get_vocab()


@pytest.mark.parametrize(("name", "make", "classes", "types"), CASES, ids=[f"{case[2][0]}-{case[0]}" for case in CASES])
def test_no_class_and_no_model_type_changes_what_a_file_does(
    name: str, make: Callable[[], Backend], classes: list[str], types: list[str], tmp_path: Path
) -> None:
    file = make()
    for index, cls in enumerate([*classes, "PreTrained"]):
        folder = write(tmp_path / cls, file, tokenizer_class=f"{cls}Tokenizer{'Fast' * (index % 2)}")
        ours = load(folder)
        assert_as_written(ours, file)
        ours.save_pretrained(tmp_path / "saved")
        saved = json.loads((tmp_path / "saved" / "tokenizer.json").read_text(encoding="utf-8"))
        assert saved == json.loads(file.to_str())
        assert_as_written(load(tmp_path / "saved"), file)
        if cls != "PreTrained":
            assert_as_written(getattr(room, f"{cls}Tokenizer").from_pretrained(folder), file)
    for model_type in types:
        assert_as_written(load(write(tmp_path / model_type, file, model_type=model_type)), file)


def test_a_class_names_only_tokens_that_the_file_has(tmp_path: Path) -> None:
    ours = load(write(tmp_path / "a", words(), tokenizer_class="BertTokenizer"))
    assert ours.special_tokens_map == {
        "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"
    }  # fmt: skip
    ours = load(write(tmp_path / "b", byte_level(), tokenizer_class="GPT2Tokenizer"))
    assert ours.special_tokens_map == {}
    ours = load(write(tmp_path / "c", pieces(), tokenizer_class="T5Tokenizer"))
    assert (ours.eos_token_id, ours.pad_token_id, ours.extra_special_tokens) == (1, 0, [])
    assert len(ours) == pieces().get_vocab_size()
    ours = load(write(tmp_path / "d", framed(pieces(), "<s>", "</s>"), tokenizer_class="MBartTokenizer"))
    assert ours.extra_special_tokens == []


def test_the_unknown_token_is_the_one_of_the_model(tmp_path: Path) -> None:
    backend = Backend(models.WordPiece({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    ours = load(write(tmp_path, backend, tokenizer_class="BertTokenizer"))
    assert (ours.unk_token, ours.unk_token_id, ours("b").input_ids) == ("<unk>", 0, [0])
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "unk_token": "a"})
    with pytest.warns(ConjoinWarning, match=r"unk_token = 'a' there, '<unk>' in tokenizer\.json"):
        load(tmp_path)


def test_a_role_is_skipped_in_decoding_and_changes_no_cut(tmp_path: Path) -> None:
    file = framed(pieces(), "<s>", "</s>")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "additional_special_tokens": ["<s>"]}
    ours = load(write(tmp_path, file, **config))
    assert ours("b </s>").input_ids == file.encode("b </s>").ids
    assert ours.decode(file.encode("a b").ids, skip_special_tokens=True) == "a b"
    assert ours.decode(file.encode("a b").ids) == "<s> a b</s>"
    ours.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.decode(file.encode("a b").ids, skip_special_tokens=True) == "a b"


def test_a_token_that_only_the_settings_name_is_added_at_the_end(tmp_path: Path) -> None:
    ours = load(write(tmp_path, byte_level(), tokenizer_class="GPT2Tokenizer", pad_token="<pad>"))
    assert ours.pad_token_id == len(ours) - 1 == byte_level().get_vocab_size()
    assert ours("a<pad>").input_ids[-1] == ours.pad_token_id


@pytest.mark.parametrize(
    ("make", "config", "message"),
    [
        (WORDS["cased"], {"do_lower_case": True}, r"do_lower_case = True there, False in tokenizer\.json"),
        (WORDS["cased"], {"strip_accents": True}, r"strip_accents = True there, False in"),
        (WORDS["spaces-only"], {"do_lower_case": False}, r"do_lower_case = False there, True in"),
        (WORDS["cased"], {"tokenize_chinese_chars": False}, r"tokenize_chinese_chars = False there, True in"),
        (WORDS["no-normalizer"], {"tokenize_chinese_chars": True}, r"tokenize_chinese_chars = True there, False in"),
        (BYTE_LEVEL["digits"], {"add_prefix_space": True}, r"add_prefix_space = True there, False in"),
        (BYTE_LEVEL["prefix-space"], {"add_prefix_space": False}, r"add_prefix_space = False there, True in"),
        (PIECES["first"], {"legacy": True}, r"legacy = True there, False in"),
        (PIECES["bytes"], {"legacy": False}, r"legacy = False there, True in"),
        (PIECES["first"], {"prepend_scheme": "always"}, r"prepend_scheme = 'always' there, 'first' in"),
        (PIECES["lower"], {"keep_accents": False}, r"keep_accents = False there, True in"),
        (PIECES["bytes"], {"extra_ids": 7}, r"extra_ids = 7 there, 0 in"),
        (PIECES["frame"], {"add_bos_token": False, "bos_token": "<s>"}, r"add_bos_token = False there, True in"),
        (PIECES["bytes"], {"add_eos_token": True, "eos_token": "</s>"}, r"add_eos_token = True there, False in"),
    ],
)
def test_a_setting_that_contradicts_the_file_warns_once_with_both_sides(
    make: Callable[[], Backend], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = make()
    cls = "T5Tokenizer" if "extra_ids" in config else "PreTrainedTokenizerFast"
    folder = write(tmp_path / "a", file, tokenizer_class=cls, **config)
    with pytest.warns(ConjoinWarning, match=message) as caught:
        ours = load(folder)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert_as_written(ours, file)
    ours.save_pretrained(tmp_path / "saved")
    assert_as_written(load(tmp_path / "saved"), file)  # the truth is saved, so it warns no more


def test_settings_that_agree_with_the_file_say_nothing(tmp_path: Path) -> None:
    said: dict[str, Any] = {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": True}
    said["add_prefix_space"] = False
    assert_as_written(
        load(write(tmp_path / "a", WORDS["cased"](), tokenizer_class="BertTokenizer", **said)), WORDS["cased"]()
    )
    said = {"legacy": False, "prepend_scheme": "first", "add_prefix_space": True, "extra_ids": 0}
    assert_as_written(
        load(write(tmp_path / "b", PIECES["first"](), tokenizer_class="T5Tokenizer", **said)), PIECES["first"]()
    )


@pytest.mark.parametrize(
    ("make", "asked", "text", "tokens"),
    [
        (WORDS["cased"], {"do_lower_case": True}, "HELLO", ["hello"]),
        (WORDS["cased"], {"do_lower_case": True, "strip_accents": True}, "CAF\u00c9", ["cafe"]),
        (WORDS["spaces-only"], {"do_lower_case": False}, "Hello", ["Hello"]),
        (byte_level, {"add_prefix_space": True}, "a2", ["\u0120a", "2"]),
        (BYTE_LEVEL["prefix-space"], {"add_prefix_space": False}, "a2", ["a", "2"]),
        (PIECES["bytes"], {"add_prefix_space": False}, "b a", ["b", "\u2581a"]),
        (PIECES["bytes"], {"legacy": False}, "b a", ["\u2581", "b", "\u2581a"]),
        (t5_words, {"legacy": False}, " b  a\nb ", ["\u2581", "b", "\u2581a", "\u2581", "b"]),
        (PIECES["first"], {"legacy": True}, "b<b", ["\u2581", "b", "<", "\u2581", "b"]),
        (PIECES["first"], {"prepend_scheme": "never"}, "b<b", ["b", "<", "b"]),
    ],
)
def test_what_the_caller_asks_for_is_done(
    make: Callable[[], Backend], asked: dict[str, Any], text: str, tokens: list[str], tmp_path: Path
) -> None:
    ours = load(write(tmp_path, make(), tokenizer_class="PreTrainedTokenizerFast"), **asked)
    assert ours.tokenize(text) == tokens
    text = " ".join(text.split()) if make is t5_words else text
    expected = "cafe" if "strip_accents" in asked else text.lower() if asked == {"do_lower_case": True} else text
    decoded = {"{'legacy': True}": "b< b", "{'add_prefix_space': True}": " a2"}  # as the file's own decoder has it
    assert ours.decode(ours(text).input_ids) == decoded.get(str(asked), expected)
    ours.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.tokenize(text) == tokens


@pytest.mark.parametrize(
    ("make", "asked"),
    [
        (WORDS["nfc-lower"], {"do_lower_case": False}),
        (WORDS["no-normalizer"], {"strip_accents": True}),
        (WORDS["cased"], {"do_lower_case": "no"}),
        (WORDS["cased"], {"add_prefix_space": True}),
        (BYTE_LEVEL["digits"], {"legacy": False}),
        (PIECES["bytes"], {"prepend_scheme": "sometimes"}),
    ],
)
def test_what_the_pipeline_has_no_step_for_is_refused(
    make: Callable[[], Backend], asked: dict[str, Any], tmp_path: Path
) -> None:
    (name,) = asked
    with pytest.raises(TokenizerError, match=f"{name} = .* was asked for"):
        load(write(tmp_path, make(), tokenizer_class="PreTrainedTokenizerFast"), **asked)


def test_the_caller_decides_about_bos_and_eos(tmp_path: Path) -> None:
    roles = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    bare, both = (
        write(tmp_path / "a", pieces(), **roles),
        write(tmp_path / "b", framed(pieces(), "<s>", "</s>"), **roles),
    )
    inner = pieces().encode("a b").ids
    assert load(bare, add_bos_token=True)("a b").input_ids == [3, *inner]
    assert load(bare, add_bos_token=True, add_eos_token=True)("a b").input_ids == [3, *inner, 1]
    assert load(both, add_bos_token=False)("a b").input_ids == [*inner, 1]
    ours = load(both)
    assert (ours.add_bos_token, ours.add_eos_token) == (True, True)
    ours.add_eos_token = False
    assert ours("a b").input_ids == [3, *inner]  # bos is still there


def test_a_token_that_the_caller_names_takes_its_place_in_the_frame(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", framed(words(), "[CLS]", "[SEP]"), tokenizer_class="BertTokenizer")
    ours = load(folder, sep_token="[X]", unk_token="[MASK]")
    assert ours("Hello \U0001f999").tokens() == ["[CLS]", "Hello", "[MASK]", "[X]"]
    with pytest.raises(TokenizerError, match=r"unk_token = 'nothing' was asked for, but the vocabulary"):
        load(folder, unk_token="nothing")


def test_t5_over_an_xlm_roberta_file_keeps_the_frame(tmp_path: Path) -> None:
    folder = raw_folder("xlm-roberta", tmp_path / "raw")
    room.XLMRobertaTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "json")
    write_json(tmp_path / "json" / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"})
    assert_as_written(load(tmp_path / "json"), Backend.from_file(str(tmp_path / "json" / "tokenizer.json")))


@pytest.mark.parametrize("kind", RAW)
def test_what_is_saved_is_what_is_loaded_again(kind: str, tmp_path: Path) -> None:
    folder = raw_folder(kind, tmp_path / "raw")
    name = json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"]
    ours = getattr(room, name).from_pretrained(folder)
    ours.save_pretrained(tmp_path / "a")
    again = load(tmp_path / "a")
    assert again.backend.to_str() == ours.backend.to_str()
    assert again.special_tokens_map == ours.special_tokens_map
    again.save_pretrained(tmp_path / "b")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (
            json.loads((tmp_path / "a" / file).read_text()).items()
            <= json.loads((tmp_path / "b" / file).read_text()).items()
        )


READ_BY_BOTH: dict[str, tuple[str, Callable[[], Backend]]] = {
    "cased": ("BertTokenizer", lambda: framed(WORDS["cased"](), "[CLS]", "[SEP]")),
    "spaces": ("BertTokenizer", WORDS["spaces-only"]),
    "prefix": ("BertTokenizer", WORDS["prefix"]),
    "digits": ("GPT2Tokenizer", BYTE_LEVEL["digits"]),
    "lower": ("RobertaTokenizer", BYTE_LEVEL["lower"]),
    "bytes": ("T5Tokenizer", PIECES["bytes"]),
    "first": ("XLMRobertaTokenizer", PIECES["first"]),
}


@pytest.mark.parametrize("kind", READ_BY_BOTH)
def test_transformers_reads_what_we_save_though_its_class_builds_another_pipeline(kind: str, tmp_path: Path) -> None:
    """A class that would build another pipeline is not named to it; ours comes back all the same."""
    name, make = READ_BY_BOTH[kind]
    ours = load(write(tmp_path / "a", make(), tokenizer_class=name))
    ours.save_pretrained(tmp_path / "b")
    theirs, again = oracle.load(tmp_path / "b"), load(tmp_path / "b")
    assert type(again) is type(ours)
    assert dict(again(SENTENCES)) == dict(ours(SENTENCES)) == oracle.call(theirs, SENTENCES)
    again.save_pretrained(tmp_path / "c")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "b" / file).read_text() == (tmp_path / "c" / file).read_text()


def test_mbart_reads_its_language_off_the_frame_of_the_file(tmp_path: Path) -> None:
    folder = raw_folder("mbart", tmp_path / "raw")
    room.MBartTokenizer.from_pretrained(folder, src_lang="ro_RO").save_pretrained(tmp_path / "json")
    config = json.loads((tmp_path / "json" / "tokenizer_config.json").read_text())
    del config["src_lang"], config["tgt_lang"]
    write_json(tmp_path / "json" / "tokenizer_config.json", config)
    ours = load(tmp_path / "json")
    assert isinstance(ours, room.MBartTokenizer)
    assert (ours.src_lang, ours.tgt_lang) == ("ro_RO", "ro_RO")
    assert ours("a").tokens()[-1] == "ro_RO"
    ours.src_lang = "de_DE"
    assert ours("a").tokens()[-1] == "de_DE"
    assert load(tmp_path / "json", src_lang="fr_XX")("a").tokens()[-1] == "fr_XX"
    write_json(tmp_path / "json" / "tokenizer_config.json", config | {"src_lang": "en_XX"})
    with pytest.warns(ConjoinWarning, match=r"frames texts with ro_RO, .* says src_lang = 'en_XX': en_XX is used"):
        assert load(tmp_path / "json")("a").tokens()[-1] == "en_XX"


def test_a_folder_with_another_familys_vocabulary_is_told_which_class_reads_it(tmp_path: Path) -> None:
    folder = raw_folder("xlm-roberta", tmp_path)
    (folder / "tokenizer_config.json").unlink()
    write_json(folder / "config.json", {"model_type": "bert"})
    with pytest.raises(OSError, match=r"(?s)no vocab\.txt.*The files fit: .*XLMRobertaTokenizer.*hint: XLMRobertaTok"):
        load(folder)


def test_a_pipeline_that_differs_from_its_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(self: Tokenizer) -> None:
        self.backend.normalizer = normalizers.Lowercase()

    monkeypatch.setattr(room.GPT2Tokenizer, "finish", spoil)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: in .The Quick brown .* by the file alone"):
        load(write(tmp_path, byte_level(), tokenizer_class="GPT2Tokenizer"))


def test_a_pipeline_with_dropout_loads(tmp_path: Path) -> None:
    assert load(write(tmp_path, byte_level(dropout=0.5), tokenizer_class="GPT2Tokenizer"))("hello").input_ids


def test_the_check_at_load_takes_a_few_milliseconds() -> None:
    backend = byte_level()
    first = Sample.of(backend, "file")
    begun = time.perf_counter()
    check_same(first, Sample.of(backend, "file"), "file", frames=True)
    assert time.perf_counter() - begun < 0.05


def test_a_file_without_a_class_in_its_folder_makes_no_noise(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (BYTE_LEVEL["digits"], WORDS["prefix"], PIECES["first"]):
            assert_as_written(load(write(tmp_path, kind())), kind())


@pytest.mark.parametrize("space", [False, True])
def test_deberta_keeps_the_first_space_of_a_text_without_a_prefix_space(space: bool, tmp_path: Path) -> None:
    """Its tokenizer.json then says "first": that is no contradiction, and what is asked for instead is applied."""
    oracle.load(raw_folder("deberta", tmp_path), "DebertaV2Tokenizer", add_prefix_space=space).save_pretrained(
        tmp_path / "theirs"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, turned = (
            AutoTokenizer.from_pretrained(tmp_path / "theirs"),
            AutoTokenizer.from_pretrained(tmp_path / "theirs", add_prefix_space=not space),
        )
    for ours, said in ((plain, space), (turned, not space)):
        ours.save_pretrained(tmp_path / "ours")
        assert json.loads((tmp_path / "ours" / "tokenizer_config.json").read_text())["add_prefix_space"] is said
        theirs = oracle.load(tmp_path / "theirs", "DebertaV2Tokenizer", add_prefix_space=said)
        again = oracle.load(tmp_path / "ours", "DebertaV2Tokenizer")
        for text in (*TEXTS, "fox[MASK]fox [SEP] fox"):
            assert ours(text)["input_ids"] == theirs(text)["input_ids"] == again(text)["input_ids"], text
