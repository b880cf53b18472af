"""Bytes as pieces: SentencePiece's byte fallback as `sentencepiece` has it, and ByT5 as transformers has it."""

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

import oracle_tokenizers as oracle
from conjoin import tokenizer as room
from conjoin.errors import NoTokenizerError, TokenizerError
from conjoin.join.tokenizers import has_tokenizer, load_tokenizer
from conjoin.tokenizer import AutoTokenizer, ByT5Tokenizer, Tokenizer
from tokenizer_samples import ALBERT_SPM, ODD, SENTENCES, T5_SPM, TEXTS, UNIGRAM, write_json, write_spm

FAMILIES = {
    "T5Tokenizer": ("spiece.model", T5_SPM),
    "XLMRobertaTokenizer": ("sentencepiece.bpe.model", UNIGRAM),
    "CamembertTokenizer": ("sentencepiece.bpe.model", UNIGRAM),
    "MBartTokenizer": ("sentencepiece.bpe.model", UNIGRAM),
    "MBart50Tokenizer": ("sentencepiece.bpe.model", UNIGRAM),
    "AlbertTokenizer": ("spiece.model", ALBERT_SPM),
}
NAMES_A_TOKEN = ("<s>", "[CLS]", "<extra_id_0>", "\u2581")  # these and a visible space at the start are not its texts
BYTES = ["a \U0001f999", "a\n\U0001f999", "\U0001d538 \u0f04", "<0x41>b a<0x0A> <0x4>", " lead  two\n\nlines\t "]
PLAIN = [*BYTES, *(text for text in TEXTS if not any(token in text for token in NAMES_A_TOKEN))]


def load(folder: Path, **overrides: Any) -> Tokenizer:
    found = AutoTokenizer.from_pretrained(folder, **overrides)
    assert isinstance(found, Tokenizer)
    return found


def with_bytes(name: str, folder: Path, *, rule: str = "nmt_nfkc", **config: Any) -> Tokenizer:
    """A family over a .model file with a piece for every byte."""
    file, options = FAMILIES[name]
    write_spm(folder, file, **options | {"vocab_size": 700, "byte_fallback": True, "normalization_rule_name": rule})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": name, **config})
    return load(folder)


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc", "identity"])
@pytest.mark.parametrize("name", ["T5Tokenizer", "XLMRobertaTokenizer", "CamembertTokenizer", "MBartTokenizer"])
def test_a_model_with_bytes_is_cut_and_joined_as_sentencepiece_does(name: str, rule: str, tmp_path: Path) -> None:
    """Whether a newline is a byte or a space is the file's own rule."""
    ours = with_bytes(name, tmp_path, rule=rule)
    judge = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / FAMILIES[name][0]))
    ours.save_pretrained(tmp_path / "saved")
    for tokenizer in (ours, load(tmp_path / "saved")):
        for text in PLAIN:
            pieces = judge.EncodeAsPieces(text)
            assert tokenizer.tokenize(text) == pieces, text
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.decode(ids) == judge.DecodePieces(pieces)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_text_is_lost_in_a_model_with_bytes(name: str, tmp_path: Path) -> None:
    ours = with_bytes(name, tmp_path)
    for text in ("a \U0001f999", "\u0f04\U0001f44d\U0001f3fd b", "\U0001d173"):
        ids = ours(text).input_ids
        assert ours.unk_token_id not in ids
        assert ours.decode(ids, skip_special_tokens=True) == text


def test_a_model_without_bytes_has_no_fallback(tmp_path: Path) -> None:
    write_spm(tmp_path, "spiece.model", **T5_SPM)
    ours = room.T5Tokenizer.from_pretrained(tmp_path)
    assert ours.unk_token_id in ours("a \U0001f999").input_ids


def test_t5_without_legacy_puts_no_space_after_an_added_token(tmp_path: Path) -> None:
    write_spm(tmp_path, "spiece.model", **T5_SPM)
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "legacy": False})
    judge = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    ours = load(tmp_path)
    assert [ours.tokenize(text) for text in PLAIN] == [judge.EncodeAsPieces(text) for text in PLAIN]
    ours.add_tokens(["<"])
    ours.save_pretrained(tmp_path / "saved")
    for tokenizer in (ours, load(tmp_path / "saved")):
        for text in ("a<b", "a < b", "a <b<c d"):
            assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    always = load(tmp_path, legacy=True)
    always.add_tokens(["<"])
    assert always.decode(always("a<b", add_special_tokens=False).input_ids) == "a< b"


@pytest.fixture(scope="session")
def byt5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """Ours and theirs, from a folder with nothing but settings."""
    folder = tmp_path_factory.mktemp("byt5")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125})
    return load(folder), oracle.load(folder, "ByT5Tokenizer")


def test_byt5_needs_no_file_and_gives_transformers_ids(byt5: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    ours, theirs = byt5
    assert isinstance(ours, ByT5Tokenizer)
    assert ours("<pl>").input_ids == [63, 115, 111, 65, 1]
    assert (ours.pad_token_id, ours.eos_token_id, ours.unk_token_id, len(ours)) == (0, 1, 2, len(theirs))
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    texts = [*TEXTS, "a <pad> b", "x<unk>y", "<extra_id_0> x<extra_id_124>", *BYTES]
    texts = [text for text in texts if not text.endswith("</s>")]
    for text in texts:
        ids = theirs(text).input_ids
        assert ours(text).input_ids == ids, text
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours(texts, texts[::-1]).input_ids == theirs(texts, texts[::-1]).input_ids


def test_byt5_gives_every_byte_back(byt5: tuple[Tokenizer, Any]) -> None:
    ours, _ = byt5
    for text in ("".join(map(chr, range(0x800))), "\ufffd", *ODD, *SENTENCES):
        ids = ours(text, add_special_tokens=False).input_ids
        if not any(token in text for token in ours.all_special_tokens):
            assert ids == [byte + 3 for byte in text.encode()]
            assert ours.decode(ids) == text


@given(ids=st.lists(st.integers(0, 383), max_size=12), skip=st.booleans())
def test_bytes_that_are_no_utf8_are_left_out_as_in_transformers(
    byt5: tuple[Tokenizer, Any], ids: list[int], skip: bool
) -> None:
    ours, theirs = byt5
    assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("saved_by", ["ours", "theirs"])
def test_byt5_is_saved_and_read_by_both(byt5: tuple[Tokenizer, Any], saved_by: str, tmp_path: Path) -> None:
    byt5[saved_by == "theirs"].save_pretrained(tmp_path)
    ours, theirs = load(tmp_path), oracle.load(tmp_path)
    assert isinstance(ours, ByT5Tokenizer)
    text = "d\u00e9 <extra_id_3>\U0001f999"
    assert ours(text).input_ids == theirs(text).input_ids == byt5[1](text).input_ids
    assert ours.init_kwargs["extra_ids"] == 125


def test_byt5_has_as_many_sentinels_as_the_settings_say(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 3})
    ours = load(tmp_path, additional_special_tokens=["<x>"])
    assert ours.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_2>", "<x>"]) == [259, 261, 262]
    assert len(load(tmp_path, extra_ids=0)) == 259
    with pytest.raises(TokenizerError, match="extra_ids = -1, expected a whole number"):
        load(tmp_path, extra_ids=-1)


def test_a_model_finds_byt5s_tokenizer_though_there_is_no_vocabulary(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "t5", "tokenizer_class": "ByT5Tokenizer"})
    assert has_tokenizer(tmp_path)
    assert isinstance(load_tokenizer(tmp_path), ByT5Tokenizer)
    write_json(tmp_path / "config.json", {"model_type": "t5", "name": "ByT5"})
    assert not has_tokenizer(tmp_path)
    with pytest.raises(NoTokenizerError):
        load_tokenizer(tmp_path)


def test_a_folder_without_files_is_not_taken_for_byt5(tmp_path: Path) -> None:
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"})
    with pytest.raises(OSError, match=r"no tokenizer\.json and no spiece\.model, which T5Tokenizer reads"):
        load(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())
