"""Damaged and hostile tokenizer files: refused with the file and the limit, before anything is taken or dies."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer as Backend
from tokenizers import models

from conjoin import limits
from conjoin import tokenizer as room
from conjoin.errors import TokenizerError
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.tokenizer.formats.sentencepiece import merges_of
from conjoin.tokenizer.rust import no_panics
from tokenizer_samples import raw_folder, write_json

AutoTokenizer: Any = room.AutoTokenizer


@pytest.fixture
def as_it_stands(tmp_path: Path) -> Path:
    """A folder whose tokenizer.json is taken as it stands."""
    backend = Backend(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0)], 0))
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def change(path: Path, **values: Any) -> None:
    """Write other values into a JSON object."""
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | values)


def charsmap(size: int, rest: bytes) -> str:
    return base64.b64encode(size.to_bytes(4, "little") + rest).decode()


@pytest.mark.parametrize("deep", [False, True], ids=["alone", "in a sequence"])
@pytest.mark.parametrize(
    ("table", "message"),
    [
        (charsmap(2**32 - 4, b"\0" * 8), "4,294,967,292 of its 12 bytes are a trie"),
        (charsmap(5, b"\0" * 8), "5 of its 12 bytes"),
        ("AA==", "of its 1 bytes"),
        ("?", "not base64"),
        (7, "not base64"),
    ],
    ids=["gigabytes", "uneven", "short", "no base64", "a number"],
)
def test_a_normalisation_table_is_as_long_as_it_says(as_it_stands: Path, table: Any, message: str, deep: bool) -> None:
    step = {"type": "Precompiled", "precompiled_charsmap": table}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "NFC"}, step]} if deep else step
    change(as_it_stands / "tokenizer.json", normalizer=normalizer)
    with pytest.raises(TokenizerError, match=rf"tokenizer\.json: .*{message}"):
        AutoTokenizer.from_pretrained(as_it_stands)


@pytest.mark.parametrize("kind", ["t5", "xlm-roberta", "llama"])
def test_a_sentencepiece_file_asks_for_no_more_than_it_holds(kind: str, tmp_path: Path) -> None:
    path = next(raw_folder(kind, tmp_path).glob("*.model"))
    model = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    model.ParseFromString(path.read_bytes())
    model.normalizer_spec.precompiled_charsmap = (2**32 - 4).to_bytes(4, "little") + b"\0" * 100
    path.write_bytes(model.SerializeToString())
    with pytest.raises(TokenizerError, match=rf"{path.name}: the normalisation table says that 4,294,967,292"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_a_table_that_rust_panics_over_while_encoding_is_named(as_it_stands: Path) -> None:
    trie = b"\xff" * 4  # one unit, which leads outside the trie
    change(
        as_it_stands / "tokenizer.json",
        normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap(4, trie + b"x\0")},
    )
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: the tokenizers library broke down"):
        AutoTokenizer.from_pretrained(as_it_stands)  # encodes a sample
    tokenizer = Tokenizer(Backend.from_file(str(as_it_stands / "tokenizer.json")))
    for _ in range(2):  # the second time, the library's own lock may be broken
        with pytest.raises(TokenizerError, match="this tokenizer: the tokenizers library broke down"):
            tokenizer("ab")


def test_only_panics_become_errors() -> None:
    for kind in (KeyboardInterrupt, SystemExit, ZeroDivisionError):
        with pytest.raises(kind), no_panics("file"):
            raise kind


@pytest.mark.parametrize("index", [2**31, limits.VOCAB, -1, 1e999, 0.5, "1", None, True], ids=str)
def test_an_id_far_behind_the_vocabulary_is_refused(tmp_path: Path, index: Any) -> None:
    path = raw_folder("gpt2", tmp_path / "raw") / "vocab.json"
    change(path, **{"far away": index})
    with pytest.raises(TokenizerError, match=rf"vocab\.json: a token has the id .*{limits.VOCAB - 1:,}"):
        AutoTokenizer.from_pretrained(path.parent)


@pytest.mark.parametrize("model", ["BPE", "WordPiece", "WordLevel"])
def test_an_id_of_tokenizer_json_is_held_to_the_same_limit(tmp_path: Path, model: str) -> None:
    vocab = {"a": 0, "[UNK]": 1, "b": 2**31}
    extra = {"merges": []} if model == "BPE" else {"unk_token": "[UNK]", "max_input_chars_per_word": 9}
    write_json(tmp_path / "tokenizer.json", {"model": {"type": model, "vocab": vocab, **extra}})
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: a token has the id 2147483648"):
        Tokenizer.from_pretrained(tmp_path)


def test_two_words_of_a_vocab_json_never_share_an_id(tmp_path: Path) -> None:
    """Which of them is read back, and which is saved, would be drawn by lot in each process."""
    path = raw_folder("gpt2", tmp_path / "raw") / "vocab.json"
    change(path, bos_token=64, other=64)
    said = r"vocab\.json: tokens share an id.*\n.*'`' and 'bos_token' have the id 64\n.*'`' and 'other' have the id 64"
    with pytest.raises(TokenizerError, match=said):
        AutoTokenizer.from_pretrained(path.parent)


@pytest.mark.parametrize("model", ["BPE", "WordPiece", "WordLevel"])
def test_two_words_of_a_tokenizer_json_never_share_an_id(tmp_path: Path, model: str) -> None:
    extra = {"merges": []} if model == "BPE" else {"unk_token": "[UNK]", "max_input_chars_per_word": 9}
    vocab = {"a": 0, "[UNK]": 1, "b": 0}
    write_json(tmp_path / "tokenizer.json", {"model": {"type": model, "vocab": vocab, **extra}})
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: tokens share an id.*\n.*'a' and 'b' have the id 0"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "added_tokens.json"])
@pytest.mark.parametrize("index", [1e999, 2**31])
def test_an_added_token_is_held_to_the_same_limit(tmp_path: Path, file: str, index: Any) -> None:
    path = raw_folder("bert", tmp_path) / file
    if file == "added_tokens.json":
        write_json(path, {"<x>": index})
    else:
        change(path, added_tokens_decoder={str(2**31): {"content": "<x>"}})
    with pytest.raises(TokenizerError, match=r"limits\.VOCAB|OverflowError"):
        AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [[512], "long", float("inf"), float("nan"), 0, -1, 2.5, True, {}], ids=repr)
def test_a_longest_row_that_is_no_number_is_refused(tmp_path: Path, value: Any) -> None:
    folder = raw_folder("bert", tmp_path)
    change(folder / "tokenizer_config.json", model_max_length=value)
    with pytest.raises(TokenizerError, match=r"model_max_length = .*whole number"):
        AutoTokenizer.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=12)
    assert tokenizer.model_max_length == 12
    with pytest.raises(TokenizerError, match="model_max_length"):
        tokenizer.model_max_length = value
    assert tokenizer.model_max_length == 12


@pytest.mark.parametrize("value", [None, 512, 512.0, int(1e30), 1e30])
def test_a_longest_row_that_is_a_number_is_taken(tmp_path: Path, value: Any) -> None:
    folder = raw_folder("bert", tmp_path)
    change(folder / "tokenizer_config.json", model_max_length=value)
    assert AutoTokenizer.from_pretrained(folder).model_max_length == int(1e30 if value is None else value)


def test_rows_are_not_filled_up_without_end(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(raw_folder("bert", tmp_path), model_max_length=10**12)
    for options in ({}, {"max_length": limits.ROW_TOKENS + 1}, {"pad_to_multiple_of": 10**12}):
        with pytest.raises(TokenizerError, match="ROW_TOKENS"):
            tokenizer("a", padding="max_length", **options)
    assert tokenizer("a", truncation=True, max_length=10**12)["input_ids"]


def test_half_a_character_is_saved_as_it_came_or_refused(tmp_path: Path) -> None:
    folder = raw_folder("bert", tmp_path / "raw")
    config = folder / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "BertTokenizer", "note": "\\ud800"}')
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").init_kwargs["note"] == "\ud800"
    for template in ("\ud800", {"default": "\ud800"}, [{"name": "\ud800", "template": "x"}], {"a\0": "x"}, 7, [1]):
        tokenizer.init_kwargs["chat_template"] = template
        with pytest.raises(TokenizerError, match="chat_template"):
            tokenizer.save_pretrained(tmp_path / "out")


def test_sentinels_are_counted_and_made_in_time_that_grows_with_them(tmp_path: Path) -> None:
    folder = raw_folder("t5", tmp_path)
    start = time.process_time()
    assert len(AutoTokenizer.from_pretrained(folder, extra_ids=16_000)) > 16_000
    assert time.process_time() - start < 1.5  # in the square of them, it was more
    for count in (10**5, -1, 1.5, "7", None):
        with pytest.raises(TokenizerError, match=r"extra_ids = .*limits\.EXTRA_IDS"):
            AutoTokenizer.from_pretrained(folder, extra_ids=count)


def test_merges_of_a_long_piece_take_time_that_grows_with_it() -> None:
    vocab = {"a" * size: size for size in (1, 2, 3, 200_000)}
    start = time.process_time()
    assert merges_of(vocab) == [("a", "a"), ("a", "aa"), ("aa", "a")]
    assert time.process_time() - start < 1


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 5000 + "1" + "}" * 5000, '{"a": ' + "1" * 5000 + "}"])
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json", "vocab.json"])
def test_deep_nesting_and_endless_numbers_are_refused(tmp_path: Path, text: str, file: str) -> None:
    folder = raw_folder("gpt2", tmp_path)
    (folder / file).write_text(text)
    with pytest.raises(TokenizerError, match=rf"{file}: not valid JSON"):
        AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "rules", [{"target_eos": "no"}, {"target_bos": 1}, {"label_pad_token_id": "x"}, {"label_pad_token_id": 2**70}]
)
def test_a_pairs_options_are_what_they_should_be(tmp_path: Path, rules: dict[str, Any]) -> None:
    one: Any = AutoTokenizer.from_pretrained(raw_folder("bert", tmp_path / "raw"))
    TokenizerPair(one, one).save_pretrained(tmp_path / "pair")
    change(tmp_path / "pair" / "tokenizer_pair.json", **rules)
    with pytest.raises(TokenizerError, match=f"{next(iter(rules))} = "):
        AutoTokenizer.from_pretrained(tmp_path / "pair")


@pytest.mark.parametrize("ids", [[2**32], [2**70], [[1], [2**40]]])
def test_an_id_that_rust_cannot_hold_is_refused(tmp_path: Path, ids: Any) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(raw_folder("bert", tmp_path))
    with pytest.raises(TokenizerError, match="not a token id"):
        tokenizer.decode(ids)
    assert tokenizer.convert_ids_to_tokens([2**70, -1]) == [None, None]
    with pytest.raises(TokenizerError, match="pad_token_id"):
        tokenizer.pad_token_id = 2**70
