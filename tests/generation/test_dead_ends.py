"""Rows that no token is left for, or whose scores are not numbers, are an error in every way of decoding."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from conjoin import BertConfig, EncoderDecoderModel
from conjoin.errors import ConjoinWarning, GenerationError
from pairs import fresh

pytestmark = pytest.mark.usefixtures("by_kernels_and_by_operators")

START, EOS, WORDS = 1, 2, 60
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "beams": {"num_beams": 3},
    "beam sampling": {"num_beams": 3, "do_sample": True},
    "diverse": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "constrained": {"num_beams": 3, "force_words_ids": [[9]]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "copies": {"copy_speculation": True},
}
NOTHING = -float("inf")


def tiny(words: int = WORDS) -> EncoderDecoderModel:
    torch.manual_seed(0)
    half = BertConfig(
        vocab_size=words,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    return fresh(half, half, decoder_start_token_id=START, bos_token_id=None, pad_token_id=0, eos_token_id=EOS)


@pytest.fixture(scope="module")
def model() -> EncoderDecoderModel:
    return tiny()


def only(*words: int) -> Callable[[int, Tensor], list[int]]:
    return lambda source, ids: [*words]


def after(length: int, value: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A processor that makes every score of rows of this length the value."""
    return lambda ids, scores: torch.full_like(scores, value) if ids.shape[1] == length else scores


CONTRADICTIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({"prefix_allowed_tokens_fn": only(EOS), "min_new_tokens": 5}, ["min_new_tokens = 5", "prefix_allowed_tokens_fn"]),
    ({"prefix_allowed_tokens_fn": only(7), "suppress_tokens": [7]}, ["prefix_allowed", "suppress_tokens = 7"]),
    ({"prefix_allowed_tokens_fn": only(7), "no_repeat_ngram_size": 1}, ["token 2", "no_repeat_ngram_size = 1"]),
    ({"prefix_allowed_tokens_fn": only(7), "bad_words_ids": [[7]]}, ["bad_words_ids", "prefix_allowed_tokens_fn"]),
    ({"prefix_allowed_tokens_fn": only(7), "renormalize_logits": True, "suppress_tokens": [7]}, ["suppress_tokens"]),
    ({"suppress_tokens": [*range(WORDS)]}, ["suppress_tokens", "no first token"]),
    ({"begin_suppress_tokens": [*range(WORDS)]}, ["begin_suppress_tokens", "no first token"]),
    ({"sequence_bias": {(i,): NOTHING for i in range(WORDS)}}, ["sequence_bias", "no first token"]),
    (
        {"suppress_tokens": [i for i in range(WORDS) if i != EOS], "min_new_tokens": 3},
        ["suppress_tokens", "min_new_tokens = 3"],
    ),
    ({"forced_bos_token_id": EOS, "min_new_tokens": 3}, ["forced_bos_token_id = 2", "min_new_tokens = 3"]),
    ({"logits_processor": [after(3, NOTHING)]}, ["token 3", "logits_processor"]),
    ({"logits_processor": [after(2, -1e9)]}, ["token 2", "logits_processor"]),
    ({"logits_processor": [after(2, float("nan"))]}, ["token 2", "not numbers"]),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", range(len(CONTRADICTIONS)))
def test_settings_that_leave_no_token_are_named(model: EncoderDecoderModel, case: int, kind: str) -> None:
    asked, told = CONTRADICTIONS[case]
    given = {"max_new_tokens": 6, "min_new_tokens": 5, **asked, **KINDS[kind]}
    with pytest.raises(GenerationError) as error:
        model.generate(torch.tensor([[3, 4], [5, 6]]), **given)
    told = told[:1] if "force_words_ids" in str(error.value) else told  # refused for another word of these
    assert all(words in str(error.value) for words in told), str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_not_numbers_are_an_error(kind: str) -> None:
    broken = tiny()
    with torch.no_grad():
        broken.decoder.blocks[0].mlp.down.weight.fill_(float("nan"))
    with pytest.raises(GenerationError, match="source 0, token 1: the scores are not numbers"):
        broken.generate(torch.tensor([[3, 4]]), max_new_tokens=4, **KINDS[kind])


def test_only_the_source_that_cannot_go_on_is_named(model: EncoderDecoderModel) -> None:
    with pytest.raises(GenerationError) as error:
        model.generate(
            torch.tensor([[3, 4], [5, 6], [7, 8]]),
            max_new_tokens=4,
            prefix_allowed_tokens_fn=lambda source, ids: [7] if source == 1 else [8],
            suppress_tokens=[7],
            num_beams=2,
        )
    assert "source 1, token 1" in str(error.value) and "source 0" not in str(error.value)


TRIE = [[5, 6, EOS], [5, 8, EOS]]


def asks(paths: list[list[int]]) -> Callable[[int, Tensor], list[int]]:
    """Allows the paths, and refuses to be asked about anything else."""

    def allowed(source: int, ids: Tensor) -> list[int]:
        begun = ids.tolist()[1:]
        words = [path[len(begun)] for path in paths if path[: len(begun)] == begun and len(path) > len(begun)]
        assert words, f"asked about {begun}"
        return words

    return allowed


@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize(
    "kind",
    [
        {"num_beams": 2},
        {"num_beams": 3, "early_stopping": True},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
        {"num_beams": 3, "do_sample": True},
        {"do_sample": True, "num_return_sequences": 3},
        {"num_beams": 2, "stopping_criteria": [lambda ids, scores: False]},
        {"num_beams": 3, "force_words_ids": [[6]]},
        {},
        {"penalty_alpha": 0.5, "top_k": 4},
        {"copy_speculation": True},
    ],
)
def test_callers_are_asked_about_live_rows_only(model: EncoderDecoderModel, kind: dict[str, Any], sources: int) -> None:
    ids = torch.tensor([[3, 4], [9, 8]])[:sources]
    found = model.generate(ids, max_new_tokens=8, prefix_allowed_tokens_fn=asks(TRIE), **kind)
    assert len(found) == sources * kind.get("num_return_sequences", 1)
    assert all(row[1:] in TRIE for row in found.tolist())


@pytest.mark.parametrize("do_sample", [False, True])
def test_processors_and_criteria_see_live_beams_only(model: EncoderDecoderModel, do_sample: bool) -> None:
    begun = [[START, *path[:length]] for path in TRIE for length in range(3)]

    def look(ids: Tensor, scores: Tensor) -> Tensor:
        assert scores.shape == (3, WORDS) and all(row in begun for row in ids.tolist())
        return scores

    def criterion(ids: Tensor, scores: Any) -> bool:
        assert all(row in [*begun, *([START, *path] for path in TRIE)] for row in ids.tolist())
        return False

    model.generate(
        torch.tensor([[3, 4]]),
        max_new_tokens=8,
        num_beams=3,
        do_sample=do_sample,
        prefix_allowed_tokens_fn=asks(TRIE),
        logits_processor=[look],
        stopping_criteria=[criterion],
    )


@pytest.mark.parametrize("kind", ["beams", "beam sampling", "diverse"])
@pytest.mark.parametrize("paths", [TRIE[:1], TRIE])
def test_results_are_distinct_and_no_more_than_there_are(
    model: EncoderDecoderModel, kind: str, paths: list[list[int]]
) -> None:
    given: dict[str, Any] = {"prefix_allowed_tokens_fn": asks(paths), "max_new_tokens": 8, **KINDS[kind]}
    given |= {"num_beams": 4, "num_return_sequences": 4}
    for sources in (1, 2):
        with pytest.warns(ConjoinWarning, match=f"num_return_sequences = 4: source 0 has {len(paths)}"):
            found = model.generate(
                torch.tensor([[3, 4], [9, 8]])[:sources], return_dict_in_generate=True, output_scores=True, **given
            )
        assert found.results_per_source.tolist() == [len(paths)] * sources
        for source in range(sources):
            rows = found.sequences[source * len(paths) : (source + 1) * len(paths), 1:].tolist()
            assert sorted(row[: row.index(EOS) + 1] for row in rows) == sorted(paths)
        assert (found.sequences_scores > -100).all()


@pytest.mark.parametrize("kind", ["beams", "beam sampling", "diverse"])
@pytest.mark.parametrize(("new", "count"), [(1, 3), (2, 5)])
def test_a_vocabulary_smaller_than_the_beams_fills_only_what_there_is(kind: str, new: int, count: int) -> None:
    given: dict[str, Any] = {**KINDS[kind], "num_beams": 5, "num_return_sequences": 5}
    given |= {"num_beam_groups": 5} if kind == "diverse" else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Fewer results")
        found = tiny(3).generate(torch.tensor([[1, 1]]), max_new_tokens=new, **given)
    assert len(found) == len({tuple(row) for row in found.tolist()}) == count


def test_a_beam_may_die_while_others_live(model: EncoderDecoderModel) -> None:
    def dies(ids: Tensor, scores: Tensor) -> Tensor:
        return scores.masked_fill((ids[:, -1] == 6)[:, None], NOTHING)

    paths = [[5, 6, 7, EOS], [5, 8, 9, EOS]]
    found = model.generate(
        torch.tensor([[3, 4]]),
        max_new_tokens=8,
        num_beams=2,
        prefix_allowed_tokens_fn=asks(paths),
        logits_processor=[dies],
    )
    assert found.tolist() == [[START, *paths[1]]]


@pytest.mark.parametrize("value", [10**9, 20_000])
@pytest.mark.parametrize(
    "kind",
    [
        lambda n: {"num_beams": n},
        lambda n: {"num_return_sequences": n, "do_sample": True},
        lambda n: {"prompt_lookup_num_tokens": n},
    ],
)
def test_numbers_that_would_fill_memory_or_time_are_refused(
    model: EncoderDecoderModel, kind: Callable[[int], dict[str, Any]], value: int
) -> None:
    asked = kind(value)
    with pytest.raises(GenerationError, match=f"{next(iter(asked))} = {value}: expected at most"):
        model.generate(torch.tensor([[3, 4]]), max_new_tokens=4, **asked)
