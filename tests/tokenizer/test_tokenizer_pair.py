"""A pair of tokenizers: labels that can be trained on, and a folder that transformers reads too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle_tokenizers as oracle
from conjoin import tokenizer as room
from conjoin.errors import FileError, TokenizerError
from conjoin.tokenizer import AutoTokenizer, Tokenizer, TokenizerPair
from tokenizer_samples import SENTENCES, raw_folder, write_json

TEXTS, TARGETS = SENTENCES[:4], [SENTENCES[5], "b", "", SENTENCES[7]]
CLASSES: dict[str, type[Tokenizer]] = {
    "bert": room.BertTokenizer,
    "gpt2": room.GPT2Tokenizer,
    "opt": room.GPT2Tokenizer,
    "roberta": room.RobertaTokenizer,
    "llama": room.LlamaTokenizer,
    "llama-legacy": room.LlamaTokenizer,
    "t5": room.T5Tokenizer,
    "mbart": room.MBartTokenizer,
    "mbart50": room.MBart50Tokenizer,
    "xlm-roberta": room.XLMRobertaTokenizer,
}


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("pairs")
    return {kind: cls.from_pretrained(raw_folder(kind, folder / kind)) for kind, cls in CLASSES.items()}


@pytest.fixture(scope="session")
def pair(tokenizers: dict[str, Tokenizer]) -> TokenizerPair:
    return TokenizerPair(tokenizers["bert"], tokenizers["gpt2"])


@pytest.mark.parametrize("kind", CLASSES)
def test_labels_are_the_target_text_and_end_in_the_targets_end(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    target = tokenizers[kind]
    bare = target(TARGETS, add_special_tokens=False)["input_ids"]
    labels = TokenizerPair(tokenizers["bert"], target)(TEXTS, text_target=TARGETS)["labels"]
    code = {"mbart": [target.id_of("en_XX")]}.get(kind, [])
    lead = {"mbart50": [target.id_of("fr_XX")]}.get(kind, [])
    for row, ids in zip(labels, bare, strict=True):
        assert row == [*lead, *ids, target.end_token_id, *code]
    assert target.end_token_id is not None


@pytest.mark.parametrize("kind", CLASSES)
def test_target_bos_gives_the_labels_of_transformers(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    """With both options set the old way, labels are tokenizer(text_target=...) to the id."""
    target = tokenizers[kind]
    plain = TokenizerPair(tokenizers["bert"], target, target_eos=False, target_bos=True)
    assert plain(TEXTS, text_target=TARGETS)["labels"] == target(TEXTS, text_target=TARGETS)["labels"]


def test_the_source_side_is_the_source_tokenizers(pair: TokenizerPair) -> None:
    batch = pair(TEXTS, TARGETS, text_target=TARGETS, padding=True, return_special_tokens_mask=True)
    alone = pair.source(TEXTS, TARGETS, padding=True, return_special_tokens_mask=True)
    assert {key: value for key, value in batch.items() if key != "labels"} == dict(alone)
    assert pair(TEXTS) == pair.source(TEXTS)
    assert "labels" not in pair(TEXTS)


def test_labels_are_filled_with_minus_100_on_the_right_even_without_a_pad_token(pair: TokenizerPair) -> None:
    """GPT-2 has no pad token; and where pad is eos, hiding the padding by its id would hide the end too."""
    assert pair.target.pad_token is None
    batch = pair(TEXTS, text_target=TARGETS, padding=True, return_tensors="pt")
    plain = pair(TEXTS, text_target=TARGETS)["labels"]
    assert batch["labels"].dtype == torch.int64
    for row, expected in zip(batch["labels"].tolist(), plain, strict=True):
        assert row == expected + [-100] * (len(row) - len(expected))
        assert row[len(expected) - 1] == pair.eos_token_id


def test_labels_of_a_left_padding_target_are_filled_on_the_right(tokenizers: dict[str, Tokenizer]) -> None:
    assert tokenizers["llama"].padding_side == "left"
    labels = TokenizerPair(tokenizers["bert"], tokenizers["llama"])(TEXTS, text_target=TARGETS, padding=True)["labels"]
    assert all(row[0] != -100 for row in labels)
    assert labels[1][-1] == -100


def test_truncated_labels_still_end_in_eos_within_the_length(tokenizers: dict[str, Tokenizer]) -> None:
    long = [SENTENCES[0], SENTENCES[1]]
    for kind in CLASSES:
        pair = TokenizerPair(tokenizers["bert"], tokenizers[kind])
        for options in [
            {"max_length": 9},
            {"max_length": 50, "max_target_length": 9},
            {"max_length": 9, "truncation": True},
        ]:
            labels = pair(long, text_target=long, **options)["labels"]
            assert [len(row) for row in labels] == [9, 9], kind
            assert all(pair.end_token_id in row[-2:] for row in labels)
    fixed = pair(long, text_target=TARGETS[:2], padding="max_length", max_length=12, truncation=True)
    assert {len(row) for row in fixed["labels"]} == {len(row) for row in fixed["input_ids"]} == {12}


def test_an_end_that_the_text_already_has_is_not_doubled(pair: TokenizerPair) -> None:
    assert pair("a", text_target="b<|endoftext|>")["labels"] == pair("a", text_target="b")["labels"]
    assert pair("a", text_target="b<|endoftext|>")["labels"].count(pair.eos_token_id) == 1


def test_target_eos_off_and_bare_ids_append_nothing(tokenizers: dict[str, Tokenizer], pair: TokenizerPair) -> None:
    off = TokenizerPair(tokenizers["bert"], tokenizers["gpt2"], target_eos=False)
    bare = tokenizers["gpt2"](TARGETS)["input_ids"]
    assert off(TEXTS, text_target=TARGETS)["labels"] == bare
    assert pair(TEXTS, text_target=TARGETS, add_special_tokens=False)["labels"] == bare


def test_targets_alone_come_back_as_input_ids_of_the_target(
    tokenizers: dict[str, Tokenizer], pair: TokenizerPair
) -> None:
    both = pair(TEXTS, text_target=TARGETS)
    assert pair(text_target=TARGETS)["input_ids"] == both["labels"]
    with pytest.raises(TokenizerError, match="no pad token"):
        pair(text_target=TARGETS, padding=True)
    t5 = TokenizerPair(tokenizers["bert"], tokenizers["t5"])
    batch = t5(text_target=TARGETS, padding=True, return_tensors="np")
    assert batch["attention_mask"].sum() == sum(len(row) for row in t5(text_target=TARGETS)["input_ids"])
    assert set(batch["input_ids"][batch["attention_mask"] == 0]) == {t5.pad_token_id}


def test_one_text_gets_a_batch_axis_only_with_tensors(pair: TokenizerPair) -> None:
    assert isinstance(pair("a", text_target="b")["labels"][0], int)
    batch = pair("a", text_target="b c", return_tensors="pt")
    assert batch["input_ids"].shape[0] == batch["labels"].shape[0] == 1
    assert pair(text_target="b c", return_tensors="pt")["input_ids"].shape[0] == 1


def test_words_can_be_given_on_both_sides(tokenizers: dict[str, Tokenizer]) -> None:
    pair = TokenizerPair(tokenizers["roberta"], tokenizers["bert"])
    words = [text.split() for text in TEXTS]
    batch = pair(words, text_target=words, is_split_into_words=True)
    assert batch["input_ids"] == tokenizers["roberta"](words, is_split_into_words=True)["input_ids"]
    assert [row[-1] for row in batch["labels"]] == [pair.sep_token_id] * 4


def test_pad_collates_rows_with_labels(pair: TokenizerPair) -> None:
    rows = [dict(pair(text, text_target=target)) for text, target in zip(TEXTS, TARGETS, strict=True)]
    expected = pair(TEXTS, text_target=TARGETS, padding=True)
    assert pair.pad(rows) == expected
    tensors = pair.pad(rows, pad_to_multiple_of=8, return_tensors="pt")
    assert tensors["labels"].shape[1] % 8 == tensors["input_ids"].shape[1] % 8 == 0
    assert pair.pad(rows[0])["labels"] == rows[0]["labels"]
    assert pair.pad({"input_ids": [1, 2]})["attention_mask"] == [1, 1]


def test_decoding_reads_target_ids_and_leaves_label_padding_out(pair: TokenizerPair) -> None:
    labels = pair(TEXTS, text_target=TARGETS, padding=True, return_tensors="pt")["labels"]
    for form in (labels, labels.numpy(), labels.tolist(), [row.numpy() for row in labels]):
        assert pair.batch_decode(form, skip_special_tokens=True) == TARGETS
    assert pair.decode(labels[0], skip_special_tokens=True) == TARGETS[0]
    assert pair.decode(np.array([pair.eos_token_id])) == "<|endoftext|>"


def test_special_tokens_of_the_pair_are_the_targets(pair: TokenizerPair) -> None:
    assert (pair.eos_token, pair.eos_token_id) == ("<|endoftext|>", pair.target.eos_token_id)
    assert pair.pad_token_id is None
    assert pair.cls_token is None
    assert pair.start_token_id == pair.bos_token_id == pair.target.bos_token_id
    assert pair.model_input_names == pair.source.model_input_names
    assert pair.model_max_length == pair.source.model_max_length


@pytest.mark.parametrize("options", [{}, {"target_eos": False}, {"target_bos": True, "label_pad_token_id": 0}], ids=str)
def test_a_saved_pair_loads_again_and_transformers_finds_the_source(
    tokenizers: dict[str, Tokenizer], options: dict[str, Any], tmp_path: Path
) -> None:
    pair = TokenizerPair(tokenizers["bert"], tokenizers["opt"], **options)
    written = pair.save_pretrained(tmp_path)
    assert {Path(path).relative_to(tmp_path).as_posix() for path in written} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "target_tokenizer/tokenizer.json",
        "target_tokenizer/tokenizer_config.json",
        "tokenizer_pair.json",
    }
    expected = pair(TEXTS, text_target=TARGETS, padding=True)
    for again in (TokenizerPair.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert isinstance(again, TokenizerPair)
        assert again.rules == pair.rules
        assert again(TEXTS, text_target=TARGETS, padding=True) == expected
    assert oracle.load(tmp_path)(TEXTS)["input_ids"] == pair(TEXTS)["input_ids"]
    theirs = oracle.load(tmp_path / "target_tokenizer")
    assert theirs(TARGETS)["input_ids"] == tokenizers["opt"](TARGETS)["input_ids"]


def test_a_pair_of_one_tokenizer_is_a_pair(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    TokenizerPair(tokenizers["bert"], tokenizers["bert"]).save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(again, TokenizerPair)
    assert again.source.get_vocab() == again.target.get_vocab()


def test_options_can_be_overridden_when_loading(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    TokenizerPair(tokenizers["bert"], tokenizers["gpt2"]).save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, target_eos=False)
    assert isinstance(again, TokenizerPair)
    assert again("a", text_target="b")["labels"] == tokenizers["gpt2"]("b")["input_ids"]
    with pytest.raises(TokenizerError, match="no option model_max_length; it has target_eos, target_bos, label_pad"):
        AutoTokenizer.from_pretrained(tmp_path, model_max_length=5)


def test_an_incomplete_pair_folder_says_what_is_missing(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizers["bert"].save_pretrained(tmp_path)
    with pytest.raises(FileError, match=r"no tokenizer_pair\.json, so this is no tokenizer pair"):
        TokenizerPair.from_pretrained(tmp_path)
    write_json(tmp_path / "tokenizer_pair.json", {"version": 1})
    with pytest.raises(FileError, match="no target_tokenizer/, so this is no tokenizer pair"):
        AutoTokenizer.from_pretrained(tmp_path)
    TokenizerPair(tokenizers["bert"], tokenizers["gpt2"]).save_pretrained(tmp_path)
    options = json.loads((tmp_path / "tokenizer_pair.json").read_text())
    write_json(tmp_path / "tokenizer_pair.json", options | {"version": 2})
    with pytest.raises(TokenizerError, match="written by a later conjoin"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_a_pair_that_cannot_do_its_work_is_refused(tokenizers: dict[str, Tokenizer], pair: TokenizerPair) -> None:
    endless = room.GPT2Tokenizer(tokenizers["gpt2"].backend)
    with pytest.raises(TokenizerError, match=r"(?s)has no eos and no sep token.*target_eos=False"):
        TokenizerPair(tokenizers["bert"], endless)
    assert TokenizerPair(tokenizers["bert"], endless, target_eos=False)("a", text_target="b")["labels"]
    with pytest.raises(TokenizerError, match="neither text nor text_target"):
        pair()
    with pytest.raises(TokenizerError, match="leaves no room for a target"):
        pair("a b c d e", text_target="a", max_target_length=1, truncation=True, max_length=9)
    with pytest.raises(TokenizerError, match="cannot follow"):
        pair(TEXTS, text_target=TARGETS, return_overflowing_tokens=True)


@settings(max_examples=80, deadline=None)
@given(targets=st.lists(st.text(max_size=30), min_size=1, max_size=4), length=st.integers(3, 20))
def test_labels_never_exceed_the_length_and_always_end(pair: TokenizerPair, targets: list[str], length: int) -> None:
    labels = pair(targets, text_target=targets, truncation=True, max_length=length)["labels"]
    assert all(0 < len(row) <= length and row[-1] == pair.eos_token_id for row in labels)


def test_an_empty_batch_of_a_pair_with_a_template_has_empty_columns(tmp_path: Path) -> None:
    one = AutoTokenizer.from_pretrained(raw_folder("gpt2", tmp_path))
    pair = TokenizerPair(one, one, source_template="{source} cat", target_start_id=3)
    assert dict(pair([])) == dict(one([]))
