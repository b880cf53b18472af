"""What a tokenizer refuses, what it warns about, and the line it tells to write instead."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracle_tokenizers as oracle
from conjoin import tokenizer as room
from conjoin.errors import ConjoinWarning, TokenizerError
from conjoin.tokenizer import BatchEncoding
from tokenizer_samples import ODD, SENTENCES, raw_folder

TEXTS = SENTENCES[:5]


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> room.BertTokenizer:
    return room.BertTokenizer.from_pretrained(raw_folder("bert", tmp_path_factory.mktemp("bert")))


WARNED: list[tuple[dict[str, Any], str]] = [
    ({"padding": True, "max_length": 9}, r"max_length=9 has no effect: .*Pass truncation=True"),
    ({"truncation": False, "max_length": 9}, r"max_length=9 has no effect"),
    ({"padding": "max_length"}, r"padding='max_length' has no effect: max_length is not given"),
    ({"truncation": True}, r"truncation='longest_first' has no effect: max_length is not given"),
    ({"pad_to_multiple_of": 8}, r"pad_to_multiple_of=8 has no effect without padding"),
]


@pytest.mark.parametrize(("options", "message"), WARNED, ids=str)
def test_a_setting_without_effect_warns_where_the_call_stands(
    bert: room.BertTokenizer, options: dict[str, Any], message: str
) -> None:
    with pytest.warns(ConjoinWarning, match=message) as caught:
        ids = bert(TEXTS, **options)["input_ids"]
    assert ids == bert(TEXTS)["input_ids"] or options.get("padding") is True
    assert caught[0].filename == __file__


@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_cleaning_up_a_bpe_text_has_no_effect_and_warns(kind: str, tmp_path: Path) -> None:
    folder = raw_folder(kind, tmp_path)
    name = {"gpt2": "GPT2Tokenizer", "llama": "LlamaTokenizer", "t5": "T5Tokenizer"}[kind]
    ours, theirs = getattr(room, name).from_pretrained(folder), oracle.load(folder, name)
    ids = ours(ODD[-3])["input_ids"]
    if kind == "t5":
        cleaned = theirs.decode(ids, clean_up_tokenization_spaces=True)
        assert ours.decode(ids, clean_up_tokenization_spaces=True) == cleaned != theirs.decode(ids)
        return
    with pytest.warns(ConjoinWarning, match="no effect on a BPE tokenizer"):
        assert ours.decode(ids, clean_up_tokenization_spaces=True) == theirs.decode(ids)


def test_naming_a_token_that_is_not_in_the_vocabulary_warns(bert: room.BertTokenizer) -> None:
    tokenizer = copy.deepcopy(bert)
    with pytest.warns(ConjoinWarning, match=r"add_special_tokens\(\{'eos_token': '</s>'\}\)"):
        tokenizer.eos_token = "</s>"
    assert tokenizer.eos_token_id == tokenizer.unk_token_id


BAD_CALLS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((), {}, "neither text nor text_target was given"),
    ((7,), {}, r"text is 7 \(int\), expected a string or a list of strings"),
    ((b"abc",), {}, r"text is b'abc' \(bytes\)"),
    (
        (["a", None, 3],),
        {},
        r"2 of 3 inputs are not a string:\n  text\[1\] is None \(NoneType\)\n  text\[2\] is 3 \(int\)",
    ),
    ((np.array(["a", "b"]),), {}, r"hint: text=list\(text\)"),
    (([["a", "b", "c"]],), {}, "hint: pass is_split_into_words=True"),
    ((["a", "b"], ["c"]), {}, "text has 2 items but text_pair has 1"),
    ((["a", "b"], "c"), {}, "text_pair is 'c' .*but the other text is a batch"),
    (
        ("a",),
        {"padding": "longst"},
        "padding = 'longst', expected True, False or one of: do_not_pad, longest, max_length",
    ),
    (("a",), {"truncation": "first"}, "truncation = 'first', expected True, False or one of: do_not_truncate"),
    (("a",), {"padding": True, "padding_side": "top"}, "padding_side = 'top', expected 'left' or 'right'"),
    (("a",), {"max_length": -3}, "max_length = -3, expected a whole number of at least 1"),
    (("a",), {"max_length": 2.5}, "max_length = 2.5, expected a whole number"),
    (("a",), {"truncation": True, "max_length": 1}, r"leaves room for 0 tokens besides 2 special ones"),
    ((["a b c"],), {"truncation": True, "max_length": 6, "stride": 4}, r"max_length must be at least 7"),
    (("a",), {"padding": True, "truncation": True, "max_length": 9, "pad_to_multiple_of": 4}, "hint: max_length=8"),
    (("a",), {"return_tensors": "torch"}, "return_tensors = 'torch', expected one of: pt, np, jax, tf"),
    ((["a", "a b c"],), {"return_tensors": "pt"}, "input_ids has rows of 3 to 5 ids.*\n\nhint: pass padding=True"),
    (("a", "b b b b"), {"truncation": "only_first", "max_length": 5}, "cannot encode this text"),
    (("a\ud800b",), {}, r"text holds a lone surrogate, half of a character: 'a\\ud800b'"),
    ((["a", f"{'x' * 99}\udc00y"],), {}, r"text\[1\] holds a lone surrogate, half of a character: 'x{15}\\udc00y'"),
    (([["a", "b\ud800"]],), {"is_split_into_words": True}, r"text\[0\] holds .* 'b\\ud800'"),
]


@pytest.mark.parametrize(("arguments", "options", "message"), BAD_CALLS, ids=str)
def test_a_call_that_cannot_be_met_says_what_to_write(
    bert: room.BertTokenizer, arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TokenizerError, match=f"(?s){message}"):
        bert(*arguments, **options)


def test_padding_without_a_pad_token_says_the_line_to_write(tmp_path: Path) -> None:
    tokenizer = room.GPT2Tokenizer.from_pretrained(raw_folder("gpt2", tmp_path))
    with pytest.raises(TokenizerError, match=r"hint: tokenizer\.pad_token = tokenizer\.eos_token"):
        tokenizer(["a", "b"], padding=True)
    with pytest.raises(TokenizerError, match="no pad token"):
        tokenizer.pad([{"input_ids": [1]}, {"input_ids": [1, 2]}])
    tokenizer.pad_token = tokenizer.eos_token
    assert len(tokenizer(["a", "b c"], padding=True)["input_ids"][0]) > 1


def test_ids_that_are_no_ids_say_how_to_drop_them(bert: room.BertTokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"(?s)row 1 holds -100, which is not a token id.*i >= 0"):
        bert.batch_decode([[5, 6], [7, -100]])
    with pytest.raises(TokenizerError, match=r"row 0 holds 1\.5"):
        bert.decode([1.5])
    with pytest.raises(TokenizerError, match="pad_token_id = 99999, but the vocabulary has"):
        bert.pad_token_id = 99999
    with pytest.raises(TokenizerError, match=r"pad_token = 3 \(int\)"):
        bert.pad_token = 3
    with pytest.raises(TokenizerError, match="add_special_tokens got 'pad': '<p>'"):
        bert.add_special_tokens({"pad": "<p>"})
    with pytest.raises(TokenizerError, match="expected a list of tokens"):
        bert.add_special_tokens({"extra_special_tokens": "<p>"})


def test_rows_that_cannot_be_padded_say_why(bert: room.BertTokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"expected input_ids, got \['ids'\]"):
        bert.pad({"ids": [1]})
    with pytest.raises(TokenizerError, match=r"row 1 has the keys \['input_ids', 'x'\], row 0 has \['input_ids'\]"):
        bert.pad([{"input_ids": [1]}, {"input_ids": [1], "x": [1]}])


def test_a_batch_without_encodings_does_not_know_its_words(bert: room.BertTokenizer) -> None:
    with pytest.raises(TokenizerError, match="holds ids only"):
        BatchEncoding({"input_ids": [1]}).word_ids()
