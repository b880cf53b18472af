"""Every argument of a call does what it does in transformers."""

import copy
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import oracle_tokenizers as oracle
from conjoin import tokenizer as room
from conjoin.errors import ConjoinWarning
from conjoin.tokenizer import Tokenizer
from tokenizer_samples import SENTENCES, raw_folder

TEXTS, OTHERS = SENTENCES[:5], SENTENCES[5:10]
CLASSES = {
    "bert": room.BertTokenizer,
    "roberta": room.RobertaTokenizer,
    "llama": room.LlamaTokenizer,
    "t5": room.T5Tokenizer,
    "xlm-roberta": room.XLMRobertaTokenizer,
    "gpt2": room.GPT2Tokenizer,
}


@pytest.fixture(scope="session", params=CLASSES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """One of our tokenizers and transformers' over the same files, with a pad token."""
    folder = raw_folder(request.param, tmp_path_factory.mktemp(request.param))
    cls = CLASSES[request.param]
    ours, theirs = cls.from_pretrained(folder), oracle.load(folder, cls.__name__)
    if theirs.pad_token is None:
        ours.pad_token, theirs.pad_token = ours.eos_token, theirs.eos_token
    return ours, theirs


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> room.BertTokenizer:
    return room.BertTokenizer.from_pretrained(raw_folder("bert", tmp_path_factory.mktemp("bert")))


CALLS: list[dict[str, Any]] = [
    {"padding": True},
    {"padding": "longest", "pad_to_multiple_of": 8},
    {"padding": "max_length", "max_length": 200},
    {"padding": "max_length", "max_length": 13, "truncation": True},
    {"padding": True, "padding_side": "left"},
    {"padding": True, "padding_side": "right", "truncation": "only_first", "max_length": 90},
    {"truncation": "longest_first", "max_length": 9},
    {"truncation": "only_second", "max_length": 150},
    {"max_length": 10},
    {"padding": True, "truncation": True, "max_length": 16, "pad_to_multiple_of": 8},
    {"truncation": True, "max_length": 21, "stride": 4, "return_overflowing_tokens": True},
    {"return_token_type_ids": True, "return_attention_mask": False},
    {"return_length": True, "return_offsets_mapping": True, "return_special_tokens_mask": True},
    {"add_special_tokens": False, "padding": True},
    {"split_special_tokens": True},
]


@pytest.mark.parametrize("options", CALLS, ids=str)
def test_padding_truncation_and_columns_equal_transformers(
    both: tuple[Tokenizer, Any], options: dict[str, Any]
) -> None:
    ours, theirs = both
    assert (
        dict(ours(TEXTS, **options)) == oracle.call(theirs, TEXTS, **options)
        or options.get("truncation") == "only_second"
    )
    assert dict(ours(TEXTS, OTHERS, **options)) == oracle.call(theirs, TEXTS, OTHERS, **options)
    assert dict(ours(TEXTS[0], OTHERS[0], **options)) == oracle.call(theirs, TEXTS[0], OTHERS[0], **options)


def test_one_text_many_texts_pairs_and_targets_equal_transformers(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    for arguments in [("one",), ("one", "two"), ("one", ""), (TEXTS,), (tuple(TEXTS),), ([("a", "b"), ("c", "d")],)]:
        assert dict(ours(*arguments)) == oracle.call(theirs, *arguments)
    for options in [{"text_target": OTHERS}, {"text_target": OTHERS, "text_pair_target": TEXTS}]:
        assert dict(ours(TEXTS, **options)) == oracle.call(theirs, TEXTS, **options)
    short = {"text_target": OTHERS, "padding": True, "truncation": True, "max_length": 20, "max_target_length": 8}
    assert dict(ours(TEXTS, **short)) == oracle.call(theirs, TEXTS, **short)


def test_words_instead_of_strings_equal_transformers(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    words = [text.split() for text in TEXTS]
    for arguments in [(words[0],), (words,), (words, words[::-1])]:
        expected = oracle.call(theirs, *arguments, is_split_into_words=True)
        assert dict(ours(*arguments, is_split_into_words=True)) == expected
    assert ours(words, is_split_into_words=True).word_ids(1) == theirs(words, is_split_into_words=True).word_ids(1)


def test_truncation_on_the_left_equals_transformers(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    ours.truncation_side = theirs.truncation_side = "left"
    try:
        assert (
            ours(TEXTS, truncation=True, max_length=9)["input_ids"]
            == theirs(TEXTS, truncation=True, max_length=9)["input_ids"]
        )
    finally:
        ours.truncation_side = theirs.truncation_side = "right"


def test_pad_fills_rows_as_transformers_does(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    rows = [dict(ours(text, return_special_tokens_mask=True)) for text in TEXTS]
    for options in [
        {},
        {"padding": "max_length", "max_length": 200},
        {"pad_to_multiple_of": 16, "padding_side": "left"},
    ]:
        assert dict(ours.pad(rows, **options)) == dict(theirs.pad(copy.deepcopy(rows), **options))
    only_ids = [{"input_ids": row["input_ids"]} for row in rows]
    assert dict(ours.pad(only_ids)) == dict(theirs.pad(copy.deepcopy(only_ids)))
    tensors = [{key: torch.tensor(value) for key, value in row.items()} for row in rows]
    padded = ours.pad(tensors)
    assert torch.equal(padded["input_ids"], theirs.pad(copy.deepcopy(tensors))["input_ids"])


def test_tensors_arrays_and_lists_hold_the_same_ids(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    lists = ours(TEXTS, padding=True)
    tensors, arrays = ours(TEXTS, padding=True, return_tensors="pt"), ours(TEXTS, padding=True, return_tensors="np")
    for key, value in lists.items():
        assert torch.equal(tensors[key], theirs(TEXTS, padding=True, return_tensors="pt")[key])
        assert tensors[key].dtype == torch.int64
        assert arrays[key].dtype == np.int64
        assert arrays[key].tolist() == tensors[key].tolist() == value
    assert ours("one text", return_tensors="pt")["input_ids"].shape[0] == 1


def test_decode_takes_lists_arrays_tensors_and_single_ids(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    rows = ours(TEXTS, padding=True)["input_ids"]
    expected = theirs.batch_decode(rows)
    assert (
        ours.batch_decode(rows)
        == ours.batch_decode(np.array(rows))
        == ours.batch_decode(torch.tensor(rows))
        == expected
    )
    assert ours.batch_decode([torch.tensor(row) for row in rows]) == expected
    assert ours.decode(rows) == expected
    assert ours.decode(torch.tensor(rows[0])) == expected[0]
    assert ours.decode(rows[0][1]) == theirs.decode(rows[0][1])
    assert ours.decode([]) == ""
    assert ours.batch_decode([]) == []
    assert ours.decode([len(ours) + 5, rows[0][1]]) == theirs.decode([len(ours) + 5, rows[0][1]])


def test_tokens_ids_and_strings_convert_as_in_transformers(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = both
    tokens = theirs.tokenize(TEXTS[0])
    ids = theirs.convert_tokens_to_ids(tokens)
    assert ours.convert_tokens_to_ids(tokens) == ids
    assert ours.convert_tokens_to_ids("no such token") == theirs.convert_tokens_to_ids("no such token")
    assert ours.convert_ids_to_tokens(ids) == tokens
    assert ours.convert_ids_to_tokens(ids[0]) == tokens[0]
    with_special = theirs(TEXTS[0])["input_ids"]
    skipped = theirs.convert_ids_to_tokens(with_special, skip_special_tokens=True)
    assert ours.convert_ids_to_tokens(torch.tensor(with_special), skip_special_tokens=True) == skipped
    assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
    assert ours.encode(TEXTS[0], OTHERS[0]) == theirs.encode(TEXTS[0], OTHERS[0])
    assert ours.tokenize("a", "b", add_special_tokens=True) == theirs.tokenize("a", "b", add_special_tokens=True)
    for pair in (False, True):
        assert ours.num_special_tokens_to_add(pair) == theirs.num_special_tokens_to_add(pair)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5", "llama", "mbart"])
def test_added_tokens_get_the_ids_that_transformers_gives_them(kind: str, tmp_path: Path) -> None:
    folder = raw_folder(kind, tmp_path)
    cls = getattr(room, {"mbart": "MBartTokenizer"}.get(kind) or CLASSES[kind].__name__)
    ours, theirs = cls.from_pretrained(folder), oracle.load(folder, cls.__name__)
    for tokenizer in (ours, theirs):
        assert tokenizer.add_tokens(["newword", "another one"]) == 2
        assert tokenizer.add_tokens("newword") == 0
        special = {"pad_token": "<padding>", "additional_special_tokens": ["<x>", "<y>"]}
        assert tokenizer.add_special_tokens(special) == 3
        tokenizer.add_special_tokens({"extra_special_tokens": ["<z>"]}, replace_extra_special_tokens=False)
        tokenizer.sep_token = "<x>"
    text = "a newword<x>b <padding> another one<y>"
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert (len(ours), ours.sep_token_id, ours.pad_token_id) == (len(theirs), theirs.sep_token_id, theirs.pad_token_id)
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = oracle.load(tmp_path / "theirs")
    assert oracle.load(tmp_path / "ours")(text)["input_ids"] == again(text)["input_ids"]
    assert cls.from_pretrained(tmp_path / "ours")(text) == ours(text)  # also BERT's [SEP]; theirs puts <x> in its place
    assert cls.from_pretrained(tmp_path / "ours").all_special_ids == again.all_special_ids


def test_special_tokens_can_be_set_by_text_and_by_id(bert: room.BertTokenizer) -> None:
    tokenizer = copy.deepcopy(bert)
    tokenizer.eos_token = "[SEP]"
    tokenizer.bos_token_id = tokenizer.cls_token_id
    assert tokenizer.eos_token_id == tokenizer.sep_token_id
    assert tokenizer.bos_token == "[CLS]"
    tokenizer.pad_token = None
    assert tokenizer.pad_token_id is None
    assert bert.pad_token == "[PAD]"
    assert tokenizer.get_vocab() == bert.get_vocab()


def test_adding_bos_or_eos_can_be_switched_at_any_time(both: tuple[Tokenizer, Any]) -> None:
    ours, theirs = (copy.deepcopy(tokenizer) for tokenizer in both)
    if theirs.bos_token is None:
        pytest.skip("has no bos")
    for tokenizer in (ours, theirs):
        tokenizer.add_eos_token = True
        tokenizer.add_bos_token = True
    assert ours(TEXTS, OTHERS)["input_ids"] == theirs(TEXTS, OTHERS)["input_ids"]
    assert (ours.add_bos_token, ours.add_eos_token) == (True, True)


def test_a_batch_is_a_dict_with_attributes(bert: room.BertTokenizer) -> None:
    batch = bert(["a b", "c"], padding=True, return_tensors="pt")
    assert isinstance(batch, dict)
    assert batch.input_ids is batch["input_ids"]
    assert list(batch) == ["input_ids", "token_type_ids", "attention_mask"]
    assert dict(**batch).keys() == batch.keys()
    assert batch.tokens(1) == ["[CLS]", "c", "[SEP]", "[PAD]"]
    assert batch[1].ids == batch["input_ids"][1].tolist()
    assert batch.sequence_ids(1) == [None, 0, None, None]
    assert batch.to("cpu").input_ids.device.type == "cpu"
    batch.labels = batch.input_ids.clone()
    assert not hasattr(batch, "nothing")
    clone = pickle.loads(pickle.dumps(batch))
    assert torch.equal(clone.input_ids, batch.input_ids)
    assert clone.tokens(1) == batch.tokens(1)


def test_a_tokenizer_survives_pickling_and_deep_copies(both: tuple[Tokenizer, Any]) -> None:
    ours, _ = both
    for clone in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert dict(clone(TEXTS, OTHERS)) == dict(ours(TEXTS, OTHERS))
        assert clone.special_tokens_map == ours.special_tokens_map


def test_threads_with_different_limits_do_not_cut_each_others_texts(bert: room.BertTokenizer) -> None:
    lengths = list(range(5, 13))
    found: dict[int, set[int]] = {length: set() for length in lengths}

    def work(length: int) -> None:
        for _ in range(40):
            rows = bert(SENTENCES, truncation=True, max_length=length, padding="max_length")["input_ids"]
            found[length] |= {len(row) for row in rows}

    threads = [threading.Thread(target=work, args=(length,)) for length in lengths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {length: {length} for length in lengths}


def test_an_empty_batch_gives_empty_columns(bert: room.BertTokenizer) -> None:
    assert dict(bert([])) == {"input_ids": [], "token_type_ids": [], "attention_mask": []}
    assert bert([], padding=True, return_tensors="pt")["input_ids"].shape == (0,)


def test_a_text_longer_than_the_model_warns_once(bert: room.BertTokenizer) -> None:
    tokenizer = copy.deepcopy(bert)
    tokenizer.model_max_length = 5
    with pytest.warns(ConjoinWarning, match=r"a text has \d+ tokens, but the model takes 5"):
        tokenizer(SENTENCES)
    tokenizer(SENTENCES)
    assert all(len(row) == 5 for row in tokenizer(SENTENCES, truncation=True)["input_ids"])


def test_a_length_that_the_caller_chose_does_not_warn(bert: room.BertTokenizer) -> None:
    tokenizer = copy.deepcopy(bert)
    tokenizer.model_max_length = 5
    assert len(tokenizer(SENTENCES[0], truncation=True, max_length=9)["input_ids"]) == 9


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60), other=st.text(max_size=20), skip=st.booleans())
def test_random_unicode_gives_equal_ids_and_text(
    both: tuple[Tokenizer, Any], text: str, other: str, skip: bool
) -> None:
    ours, theirs = both
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = oracle.call(theirs, text, other, return_offsets_mapping=True)
        assert dict(ours(text, other, return_offsets_mapping=True)) == expected
        ids = expected["input_ids"]
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=5), extra=st.integers(0, 9))
def test_padding_changes_nothing_but_padding(bert: room.BertTokenizer, texts: list[str], extra: int) -> None:
    plain = bert(texts)["input_ids"]
    longest = max(len(row) for row in plain)
    padded = bert(texts, padding="max_length", max_length=longest + extra)
    for row, ids, mask in zip(plain, padded["input_ids"], padded["attention_mask"], strict=True):
        assert ids[: len(row)] == row
        assert sum(mask) == len(row)
        assert set(ids[len(row) :]) <= {bert.pad_token_id}


def test_a_tokenizer_is_printed_in_one_short_line(tmp_path: Path) -> None:
    t5 = room.T5Tokenizer.from_pretrained(raw_folder("t5", tmp_path / "t5"), model_max_length=512)
    specials = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    size = t5.vocab_size
    assert repr(t5) == f"T5Tokenizer(vocab_size={size}, model_max_length=512, special_tokens={specials})"
    t5.add_tokens(["one", "two"])
    assert f"vocab_size={size}, added_tokens=2, model_max_length=512" in repr(t5)
    mbart = room.MBartTokenizer.from_pretrained(raw_folder("mbart", tmp_path / "mbart"))
    assert "src_lang='de_DE', tgt_lang='en_XX'" in repr(mbart)
    assert "model_max_length" not in repr(mbart)  # it knows none
    pair = room.TokenizerPair(t5, mbart)
    assert repr(pair) == (
        f"TokenizerPair(source={t5!r}, target={mbart!r}, target_eos=True, target_bos=False, label_pad_token_id=-100)"
    )


def test_a_batch_is_printed_whole_or_by_its_size(tmp_path: Path) -> None:
    bert = room.BertTokenizer.from_pretrained(raw_folder("bert", tmp_path))
    small = bert("a", return_token_type_ids=False)
    assert repr(small) == f"{{'input_ids': {small['input_ids']}, 'attention_mask': {small['attention_mask']}}}"
    many = bert(["a b c"] * 300 + ["a"], return_offsets_mapping=True)
    assert repr(many) == (
        "BatchEncoding(input_ids: 301 rows of 3 to 5, token_type_ids: 301 rows of 3 to 5, "
        "attention_mask: 301 rows of 3 to 5, offset_mapping: 301 rows of 3 to 5)"
    )
    array = bert(["a"] * 300, return_tensors="np", return_token_type_ids=False, return_attention_mask=False)
    assert repr(array) == "BatchEncoding(input_ids: ndarray of shape (300, 3))"
    assert repr(bert(["a b"] * 200)["input_ids"][:1]) == str([[*bert("a b")["input_ids"]]])
