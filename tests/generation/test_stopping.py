"""When rows end: transformers' criteria, word for word."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracle_generation as oracle
import oracle_tokenizers
import pipeline_models
from conjoin.errors import GenerationError
from conjoin.generation import CallFacts, GenerationConfig, ModelFacts, Request, resolve
from conjoin.join import SpecialTokens
from conjoin.tokenizer import AutoTokenizer
from conjoin.torch.generation import stopping
from tokenizer_samples import SENTENCES, raw_folder

KINDS = ["bert", "gpt2", "roberta", "t5", "llama", "gemma"]
MODEL = ModelFacts(vocab_size=53, max_positions=None, tokens=SpecialTokens(start=1, pad=0, eos=(2,), bos=None))


@pytest.fixture(scope="module", params=KINDS)
def tokenizers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Ours and transformers', over the same files."""
    folder: Path = raw_folder(request.param, tmp_path_factory.mktemp(request.param))
    return AutoTokenizer.from_pretrained(folder), oracle_tokenizers.load(folder)


def request_of(**settings: Any) -> Request:
    call = CallFacts(tokenizer="stop_strings" in settings)
    return resolve(GenerationConfig(max_new_tokens=9), settings, model=MODEL, call=call)


@st.composite
def stop_strings(draw: Any) -> list[str]:
    """Pieces of sentences, as they may stand across tokens."""
    strings = []
    for _ in range(draw(st.integers(1, 3))):
        sentence = draw(st.sampled_from(SENTENCES))
        start = draw(st.integers(0, len(sentence) - 1))
        strings.append(sentence[start : start + draw(st.integers(1, 6))])
    return strings


@settings(max_examples=40, deadline=None)
@given(strings=stop_strings(), data=st.data())
def test_stop_strings_end_rows_where_transformers_ends_them(
    tokenizers: tuple[Any, Any], strings: list[str], data: st.DataObject
) -> None:
    mine, theirs = tokenizers
    try:
        expected = oracle.criterion("StopStringCriteria", theirs, strings)
    except ValueError:  # no token has any of their letters
        assume(False)
    criterion = stopping.StopStringCriteria(mine, strings)
    text = data.draw(st.sampled_from([*SENTENCES, *strings, " ".join(strings)]))
    row = torch.tensor([mine(text, add_special_tokens=False)["input_ids"]], dtype=torch.long)
    noise = torch.tensor([data.draw(st.lists(st.integers(0, len(mine) + 2), min_size=1, max_size=9))])
    for ids in (row, noise, torch.cat((row, noise), 1), torch.cat((noise, row), 1)):
        for length in range(1, ids.shape[1] + 1):
            assert torch.equal(criterion(ids[:, :length]), expected(ids[:, :length], None)), (ids[:, :length], strings)


def test_a_transformers_tokenizer_serves_too(tokenizers: tuple[Any, Any]) -> None:
    mine, theirs = tokenizers
    ids = torch.tensor([theirs("the quick brown fox", add_special_tokens=False)["input_ids"]])
    ends = [[bool(stopping.StopStringCriteria(t, "rown f")(ids[:, :n])) for n in range(1, 13)] for t in (mine, theirs)]
    assert ends[0] == ends[1]


def test_a_vocabulary_of_whole_words_has_stop_strings(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pipeline_models.bart(tmp_path))
    ids = tokenizer("a dog ran away", add_special_tokens=False)["input_ids"]
    for strings, at in ((["dog"], 2), (["dog ran"], 3), (["og r"], 3), (["away", "hill"], 4), (["cat"], None)):
        criterion = stopping.StopStringCriteria(tokenizer, strings)
        ends = [bool(criterion(torch.tensor([ids[:length]]), None)) for length in range(1, 5)]
        assert (ends.index(True) + 1 if any(ends) else None) == at, strings


def test_a_stop_string_ends_its_own_row_only(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(raw_folder("gpt2", tmp_path))
    yes, no = (tokenizer(text)["input_ids"] for text in ("lazy dog", "the lazy fox"))
    length = min(len(yes), len(no))
    ids = torch.tensor([yes[-length:], no[-length:]])
    assert stopping.StopStringCriteria(tokenizer, ["dog", "cat"])(ids).tolist() == [True, False]


@given(
    length=st.integers(1, 9),
    limit=st.integers(1, 9),
    ends=st.lists(st.integers(0, 5), min_size=1),
    new=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_lengths_and_end_ids_end_rows_where_transformers_ends_them(
    length: int, limit: int, ends: list[int], new: int
) -> None:
    ids = torch.randint(0, 6, (4, length))
    assert torch.equal(stopping.MaxLengthCriteria(limit)(ids), oracle.criterion("MaxLengthCriteria", limit)(ids, None))
    mine, theirs = stopping.EosTokenCriteria(ends), oracle.criterion("EosTokenCriteria", ends)
    assert torch.equal(mine(ids), theirs(ids, None))
    assert torch.equal(mine(ids, new_token_length=new), theirs(ids, None, new_token_length=new))


def test_time_ends_all_rows() -> None:
    ids = torch.zeros(3, 2, dtype=torch.long)
    assert stopping.MaxTimeCriteria(5.0, time.time() - 6)(ids).all()
    assert not stopping.MaxTimeCriteria(5.0)(ids).any()


def test_any_criterion_ends_a_row() -> None:
    ids = torch.tensor([[1, 2], [2, 1], [1, 1]])

    def third(input_ids: Tensor, scores: Any) -> Tensor:
        return torch.tensor([[False], [False], [True]])

    every = stopping.StoppingCriteriaList([stopping.EosTokenCriteria(2), third, lambda input_ids, scores: False])
    assert every(ids).tolist() == [True, False, True]
    assert stopping.StoppingCriteriaList([lambda input_ids, scores: True])(ids).all()


def test_criteria_written_for_transformers_run() -> None:
    ids = torch.tensor([[1, 2], [2, 1]])
    every = stopping.StoppingCriteriaList([oracle.criterion("EosTokenCriteria", 1)])
    assert every(ids, None).tolist() == [False, True]


def test_an_answer_of_the_wrong_shape_is_an_error() -> None:
    every = stopping.StoppingCriteriaList([lambda input_ids, scores: torch.tensor([True, False])])
    with pytest.raises(GenerationError, match=r"criterion function answers with \(2,\)"):
        every(torch.zeros(3, 1, dtype=torch.long))


def test_a_criterion_without_a_rule_says_so() -> None:
    with pytest.raises(NotImplementedError, match="StoppingCriteria does not say which rows end"):
        stopping.StoppingCriteria()(torch.zeros(3, 1, dtype=torch.long))


def test_a_list_knows_its_longest_length() -> None:
    assert stopping.StoppingCriteriaList([stopping.MaxLengthCriteria(7)]).max_length == 7
    assert stopping.StoppingCriteriaList().max_length is None


def test_a_request_gets_what_the_loops_do_not_watch_themselves(tmp_path: Path) -> None:
    assert stopping.build_stopping(request_of()) == []
    tokenizer = AutoTokenizer.from_pretrained(raw_folder("gpt2", tmp_path))

    def mine(input_ids: Tensor, scores: Any) -> bool:
        return False

    built = stopping.build_stopping(
        request_of(max_time=2.0, stop_strings=["dog"]), tokenizer=tokenizer, extra=stopping.StoppingCriteriaList([mine])
    )
    assert [type(each).__name__ for each in built] == ["MaxTimeCriteria", "StopStringCriteria", "function"]


def test_stop_strings_without_a_tokenizer_are_an_error() -> None:
    with pytest.raises(GenerationError, match="stop_strings needs the target tokenizer"):
        stopping.build_stopping(request_of(stop_strings="dog"))
