"""Logits processors: each gives transformers' scores, row by row, whatever else is in the batch."""

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracle_generation as oracle
from conjoin.errors import GenerationError
from conjoin.generation import CALLERS, ProcessorSpec
from conjoin.torch.generation.processors import named as ours
from conjoin.torch.generation.processors.build import build_processors
from conjoin.torch.generation.processors.calling import LogitsProcessorList
from conjoin.torch.generation.processors.watermark import WatermarkLogitsProcessor
from generation_requests import V

pytestmark = pytest.mark.usefixtures("by_kernels_and_by_operators")

TRIALS = settings(max_examples=40, deadline=None)


@st.composite
def batches(draw: Any, vocab: int = V, most: int = 7) -> tuple[Tensor, Tensor]:
    """Ids over few tokens, so that they repeat, and scores, some of them -inf or equal."""
    rows, length = draw(st.integers(1, 5)), draw(st.integers(1, 13))
    torch.manual_seed(draw(st.integers(0, 10_000)))
    ids = torch.randint(0, most, (rows, length))
    scores = torch.randn(rows, vocab) * draw(st.sampled_from([0.1, 1.0, 8.0]))
    if draw(st.booleans()):
        scores = scores.log_softmax(-1)
    if draw(st.booleans()):
        scores = (scores * 2).round() / 2  # ties
    if draw(st.booleans()):
        scores[:, torch.randperm(vocab)[: vocab // 3]] = -torch.inf
    return ids, scores


def assert_same(mine: Tensor, theirs: Tensor) -> None:
    assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
    assert torch.equal(mine.isinf(), theirs.isinf())
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6, equal_nan=True)


def check(mine: Any, theirs: Any, ids: Tensor, scores: Tensor) -> None:
    """Both give the same, the input stays, and a row alone gives what it gives in the batch."""
    before = scores.clone()
    result = mine(ids, scores)
    assert scores.equal(before) or scores.isnan().any(), "the given scores were changed"
    assert_same(result, theirs(ids.clone(), scores.clone()))


def check_rowwise(mine: Any, ids: Tensor, scores: Tensor) -> None:
    together = mine(ids, scores)
    for row in range(len(ids)):
        assert torch.equal(mine(ids[row : row + 1], scores[row : row + 1]), together[row : row + 1])


WITHOUT_STATE: dict[str, st.SearchStrategy[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "RepetitionPenaltyLogitsProcessor": st.tuples(
        st.tuples(st.floats(0.3, 4.0)), st.fixed_dictionaries({"prompt_ignore_length": st.none() | st.integers(0, 15)})
    ),
    "NoRepeatNGramLogitsProcessor": st.tuples(st.tuples(st.integers(1, 5)), st.just({})),
    "SequenceBiasLogitsProcessor": st.tuples(
        st.tuples(
            st.dictionaries(
                st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple),
                st.floats(-9.0, 9.0) | st.just(-torch.inf),
                min_size=1,
                max_size=9,
            )
        ),
        st.just({}),
    ),
    "NoBadWordsLogitsProcessor": st.tuples(
        st.tuples(
            st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=3), min_size=1, max_size=6).map(
                lambda words: [*words, [4, 3]]
            ),
            st.none() | st.integers(0, 6) | st.lists(st.integers(0, 6), min_size=1, max_size=3),
        ),
        st.just({}),
    ),
    "MinLengthLogitsProcessor": st.tuples(
        st.tuples(st.integers(0, 15), st.lists(st.integers(0, V - 1), min_size=1, max_size=3)), st.just({})
    ),
    "MinNewTokensLengthLogitsProcessor": st.tuples(
        st.tuples(st.integers(0, 5), st.integers(0, 10), st.integers(0, V - 1)), st.just({})
    ),
    "ForcedBOSTokenLogitsProcessor": st.tuples(st.tuples(st.integers(0, V - 1)), st.just({})),
    "ForcedEOSTokenLogitsProcessor": st.tuples(
        st.tuples(st.integers(1, 14), st.lists(st.integers(0, V - 1), min_size=1, max_size=3)), st.just({})
    ),
    "SuppressTokensLogitsProcessor": st.tuples(
        st.tuples(st.lists(st.integers(0, V + 5), min_size=1, max_size=9)), st.just({})
    ),
    "SuppressTokensAtBeginLogitsProcessor": st.tuples(
        st.tuples(st.lists(st.integers(0, V - 1), min_size=1, max_size=9), st.integers(1, 13)), st.just({})
    ),
    "ExponentialDecayLengthPenalty": st.tuples(
        st.tuples(
            st.tuples(st.integers(0, 8), st.floats(0.5, 3.0)),
            st.lists(st.integers(0, V - 1), min_size=1, max_size=3, unique=True),
            st.integers(1, 4),
        ),
        st.just({}),
    ),
    "InfNanRemoveLogitsProcessor": st.just(((), {})),
    "LogitNormalization": st.just(((), {})),
    "TemperatureLogitsWarper": st.tuples(st.tuples(st.floats(0.05, 5.0)), st.just({})),
    "TopHLogitsWarper": st.tuples(st.tuples(st.floats(0.01, 1.0)), st.just({})),
}
KEEP = st.fixed_dictionaries({"min_tokens_to_keep": st.integers(1, 4)})
SHARES = st.floats(0.01, 0.99)
WITHOUT_STATE |= {
    "TopKLogitsWarper": st.tuples(st.tuples(st.integers(1, V + 3)), KEEP),
    "TopPLogitsWarper": st.tuples(st.tuples(st.floats(0.01, 1.0)), KEEP),
    "MinPLogitsWarper": st.tuples(st.tuples(st.floats(0.0, 1.0)), KEEP),
    "TypicalLogitsWarper": st.tuples(st.tuples(SHARES), KEEP),
    "EpsilonLogitsWarper": st.tuples(st.tuples(st.floats(1e-4, 0.9)), KEEP),
    "EtaLogitsWarper": st.tuples(st.tuples(st.floats(1e-4, 0.9)), KEEP),
}


@pytest.mark.parametrize("name", WITHOUT_STATE)
def test_a_processor_gives_what_transformers_gives(name: str) -> None:
    @TRIALS
    @given(batch=batches(), arguments=WITHOUT_STATE[name])
    def trial(batch: tuple[Tensor, Tensor], arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        positional, keywords = arguments
        mine, theirs = getattr(ours, name)(*positional, **keywords), oracle.processor(name, *positional, **keywords)
        check(mine, theirs, *batch)
        check_rowwise(mine, *batch)

    trial()


@pytest.mark.parametrize("name", ["TopPLogitsWarper", "TopKLogitsWarper", "TopHLogitsWarper", "TypicalLogitsWarper"])
@pytest.mark.parametrize("left", [1, 50, None])
def test_large_vocabularies_are_filtered_as_in_transformers_too(name: str, left: int | None) -> None:
    torch.manual_seed(11)
    scores, ids = torch.randn(6, 5003) * 4, torch.zeros(6, 3, dtype=torch.long)
    if left is not None:
        scores = ours.TopKLogitsWarper(left)(ids, scores)
    argument = 0.8 if name != "TopKLogitsWarper" else 33
    check(getattr(ours, name)(argument), oracle.processor(name, argument), ids, scores)


def test_infinities_and_nan_are_removed_as_in_transformers() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        scores = torch.tensor([[torch.nan, torch.inf, -torch.inf, 1.5]], dtype=dtype)
        ids = torch.zeros(1, 1, dtype=torch.long)
        check(ours.InfNanRemoveLogitsProcessor(), oracle.processor("InfNanRemoveLogitsProcessor"), ids, scores)


@TRIALS
@given(batch=batches(), ignored=st.lists(st.integers(0, 14), min_size=5, max_size=5), penalty=st.floats(0.3, 4.0))
def test_a_repetition_penalty_ignores_the_padding_of_each_prompt(
    batch: tuple[Tensor, Tensor], ignored: list[int], penalty: float
) -> None:
    ids, scores = batch
    first = torch.tensor(ignored[: len(ids)])
    name = "RepetitionPenaltyLogitsProcessor"
    check(getattr(ours, name)(penalty, first), oracle.processor(name, penalty, first), ids, scores)


SOURCE = [
    ("EncoderRepetitionPenaltyLogitsProcessor", st.floats(0.3, 4.0)),
    ("EncoderNoRepeatNGramLogitsProcessor", st.integers(1, 4)),
]


@pytest.mark.parametrize(("name", "values"), SOURCE)
@pytest.mark.parametrize("beams", [1, 3])
def test_a_processor_of_the_source_gives_what_transformers_gives(name: str, values: Any, beams: int) -> None:
    @TRIALS
    @given(batch=batches(), value=values, length=st.integers(1, 11), seed=st.integers(0, 999))
    def trial(batch: tuple[Tensor, Tensor], value: Any, length: int, seed: int) -> None:
        ids, scores = (part.repeat_interleave(beams, 0) for part in batch)
        torch.manual_seed(seed)
        ids = torch.randint_like(ids, 0, 7)
        source = torch.randint(0, 7, (len(batch[0]), length))
        check(getattr(ours, name)(value, source), oracle.processor(name, value, source), ids, scores)

    trial()


@pytest.mark.parametrize(("name", "value"), [(SOURCE[0][0], 2.5), (SOURCE[1][0], 2)])
def test_the_padding_of_a_source_counts_for_nothing(name: str, value: Any) -> None:
    source = torch.tensor([[4, 5, 0, 0], [4, 5, 6, 4]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    ids, scores = torch.tensor([[1, 0], [1, 4]]), torch.randn(2, V)
    padded = getattr(ours, name)(value, source, mask)(ids, scores)
    for row, length in ((0, 2), (1, 4)):
        alone = getattr(ours, name)(value, source[row : row + 1, :length])(ids[row : row + 1], scores[row : row + 1])
        assert torch.equal(alone[0], padded[row])


@pytest.mark.parametrize(("name", "value"), [(SOURCE[0][0], 2.5), (SOURCE[1][0], 2)])
def test_a_source_of_padding_alone_changes_nothing(name: str, value: Any) -> None:
    ids, scores = torch.tensor([[1, 0]]), torch.randn(1, V)
    source = torch.zeros(1, 3, dtype=torch.long)
    assert torch.equal(getattr(ours, name)(value, source, torch.zeros(1, 3))(ids, scores), scores)


@pytest.mark.parametrize(("name", "value"), [(SOURCE[0][0], 2.5), (SOURCE[1][0], 2)])
def test_source_ids_outside_the_targets_vocabulary_are_left_out(name: str, value: Any) -> None:
    ids, scores = torch.tensor([[1, 4]]), torch.randn(1, V)
    mine = getattr(ours, name)(value, torch.tensor([[4, 5, V + 7]]))(ids, scores)
    assert torch.equal(mine, getattr(ours, name)(value, torch.tensor([[4, 5]]))(ids, scores))


@pytest.mark.parametrize("beams", [1, 3])
def test_rows_of_sources_that_leave_take_their_source_along(beams: int) -> None:
    torch.manual_seed(5)
    source = torch.randint(0, 7, (4, 9))
    ids, scores = torch.randint(0, 7, (4 * beams, 6)), torch.randn(4 * beams, V)
    values = {"encoder_repetition_penalty": 2.0, "encoder_no_repeat_ngram_size": 2, "repetition_penalty": 1.5}
    specs = [ProcessorSpec(name, (value,)) for name, value in values.items()]
    mask = torch.tensor([[0, 1], [1, 1], [0, 1], [1, 1]])
    every = build_processors(
        (*specs, ProcessorSpec("prefix_allowed_tokens_fn", (beams,)), CALLERS),
        source_ids=source,
        prompt_mask=mask,
        rows_per_source=beams,
        prefix_allowed_tokens_fn=lambda number, sent: [number, number + 10],
    )
    together = every(ids, scores)
    assert every.rows_may_leave
    kept = torch.tensor([row for number in (3, 1, 2) for row in range(number * beams, (number + 1) * beams)])
    apart = every.for_rows(kept)
    every.select(kept)
    again = torch.arange(beams, 3 * beams)
    for left in (every, apart):
        assert torch.equal(left(ids[kept], scores[kept]), together[kept])
    every.select(again)
    assert torch.equal(every(ids[kept][again], scores[kept][again]), together[kept][again])


def test_a_first_step_may_run_one_row_per_source() -> None:
    torch.manual_seed(5)
    source, beams = torch.randint(0, 7, (4, 9)), 4
    ids, scores = torch.randint(0, 7, (4, 2)), torch.randn(4, V)
    every = build_processors(
        (
            ProcessorSpec("encoder_no_repeat_ngram_size", (2,)),
            ProcessorSpec("prefix_allowed_tokens_fn", (beams,)),
            CALLERS,
        ),
        source_ids=source,
        rows_per_source=beams,
        prefix_allowed_tokens_fn=lambda number, sent: [number, 20],
    )
    wide = every(ids.repeat_interleave(beams, 0), scores.repeat_interleave(beams, 0))
    assert torch.equal(every(ids, scores), wide[::beams])


@TRIALS
@given(batch=batches(), beams=st.sampled_from([1, 2]), forbidden=st.booleans())
def test_prefixes_are_constrained_as_in_transformers(batch: tuple[Tensor, Tensor], beams: int, forbidden: bool) -> None:
    """But what was forbidden before stays so where nothing else is left; transformers allows it again."""
    ids, scores = (part.repeat_interleave(beams, 0) for part in batch)

    def allowed(number: int, sent: Tensor) -> list[int]:
        return [number, int(sent[-1]) + 2, 9]

    mine = ours.PrefixConstrainedLogitsProcessor(allowed, beams)
    if forbidden:
        scores[:, :15] = -torch.inf
        edited = mine(ids, scores)
        assert (edited[:, :15] == -torch.inf).all()
        scores[:, :15], edited = 0.0, edited.masked_fill(edited == -torch.inf, 0.0)
        assert ((edited == scores) | (edited == 0)).all()
    else:
        scores = scores.nan_to_num(neginf=-9.0)
        check(mine, oracle.processor("PrefixConstrainedLogitsProcessor", allowed, beams), ids, scores)


def test_a_prefix_that_allows_nothing_is_an_error() -> None:
    mine = ours.PrefixConstrainedLogitsProcessor(lambda number, sent: [], 1)
    with pytest.raises(GenerationError, match=r"allows no token for source 0 after \[5\]"):
        mine(torch.tensor([[5]]), torch.randn(1, V))


@TRIALS
@given(batch=batches(), groups=st.sampled_from([2, 3]), group=st.integers(0, 2), penalty=st.floats(0.1, 3.0))
def test_earlier_groups_lower_their_tokens(
    batch: tuple[Tensor, Tensor], groups: int, group: int, penalty: float
) -> None:
    scores, size = batch[1].repeat_interleave(2, 0), 2
    sources, group = len(batch[1]), min(group, groups - 1)
    tokens = torch.randint(0, 9, (sources * groups * size,))
    mine = ours.HammingDiversityLogitsProcessor(penalty, groups * size, groups)
    every = LogitsProcessorList([mine])
    result = every(torch.zeros(len(scores), 1, dtype=torch.long), scores, current_tokens=tokens, beam_group_idx=group)
    expected = scores.clone()
    for row in range(len(scores)):
        start = row // size * groups * size
        for token in tokens[start : start + group * size].tolist():
            expected[row, token] -= penalty
    assert_same(result, expected)
    with pytest.raises(GenerationError, match="wants current_tokens, beam_group_idx"):
        every(torch.zeros(len(scores), 1, dtype=torch.long), scores)


@pytest.mark.parametrize("scheme", ["lefthash", "selfhash"])
def test_a_watermark_is_transformers_watermark(scheme: str) -> None:
    ids, scores = torch.randint(0, V, (3, 6)), torch.randn(3, V)
    asked = {"bias": 2.5, "seeding_scheme": scheme, "context_width": 2}
    mine = WatermarkLogitsProcessor(None, "cpu", **asked)
    check(mine, oracle.processor("WatermarkLogitsProcessor", V, "cpu", **asked), ids, scores)
    assert torch.equal(mine(ids[:, :1], scores), scores)


def test_transformers_detector_finds_the_watermark() -> None:
    mine = WatermarkLogitsProcessor(None, "cpu", bias=9.0)
    ids = torch.randint(0, V, (2, 1))
    for _ in range(30):
        ids = torch.cat((ids, mine(ids, torch.randn(2, V)).argmax(1, keepdim=True)), 1)
    assert (oracle.green_share(ids, V, bias=9.0) > 0.9).all()


@TRIALS
@given(batch=batches(), dtype=st.sampled_from([torch.bfloat16, torch.float16]), name=st.sampled_from([*WITHOUT_STATE]))
def test_half_precision_gives_what_transformers_gives(
    batch: tuple[Tensor, Tensor], dtype: torch.dtype, name: str
) -> None:
    arguments = {
        "RepetitionPenaltyLogitsProcessor": (1.3,),
        "SequenceBiasLogitsProcessor": ({(3,): 1.5, (2, 4): -2.0},),
        "NoBadWordsLogitsProcessor": ([[3], [2, 4]],),
        "ExponentialDecayLengthPenalty": ((2, 1.5), [2, 4], 1),
    }.get(name)
    if arguments is None:
        return
    mine, theirs = getattr(ours, name)(*arguments), oracle.processor(name, *arguments)
    check(mine, theirs, batch[0], batch[1].to(dtype))


def test_a_penalty_that_overflows_stays_finite() -> None:
    mine = ours.ExponentialDecayLengthPenalty((0, 3.0), 2, 1)
    result = mine(torch.zeros(1, 3000, dtype=torch.long), torch.full((1, V), -1.5))
    assert torch.isfinite(result).all() and result.argmax() == 2


def test_a_biased_id_outside_the_vocabulary_is_an_error() -> None:
    mine = ours.SequenceBiasLogitsProcessor({(V + 1,): 1.0})
    with pytest.raises(GenerationError, match=rf"ids \[{V + 1}\] are outside the vocabulary of {V}"):
        mine(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, V))


WRONG: list[tuple[str, tuple[Any, ...], str]] = [
    ("TemperatureLogitsWarper", (0.0,), "temperature = 0.0: expected a number above 0; 0 is do_sample=False"),
    ("TopKLogitsWarper", (0,), "top_k = 0: expected at least 1"),
    ("TopPLogitsWarper", (1.5,), r"top_p = 1.5: expected a number in \[0, 1\]"),
    ("TopPLogitsWarper", (0.5, 0.0, 0), "min_tokens_to_keep = 0: expected at least 1"),
    ("MinPLogitsWarper", (-0.5,), r"min_p = -0.5: expected a number in \[0, 1\]"),
    ("TypicalLogitsWarper", (1.0,), r"typical_p = 1.0: expected a number in \(0, 1\)"),
    ("EpsilonLogitsWarper", (0.0,), r"epsilon_cutoff = 0.0: expected a number in \(0, 1\)"),
    ("EtaLogitsWarper", (1.0,), r"eta_cutoff = 1.0: expected a number in \(0, 1\)"),
    ("TopHLogitsWarper", (0.0,), r"top_h = 0.0: expected a number in \(0, 1\]"),
    ("RepetitionPenaltyLogitsProcessor", (0.0,), "penalty = 0.0: expected a number above 0"),
    ("NoRepeatNGramLogitsProcessor", (0,), "ngram_size = 0: expected a number above 0"),
    ("SequenceBiasLogitsProcessor", ({},), r"sequence_bias = \{\}: expected"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), WRONG)
def test_what_a_processor_cannot_take_is_said(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        getattr(ours, name)(*arguments)


def test_what_a_watermark_cannot_take_is_said() -> None:
    with pytest.raises(GenerationError, match=r"greenlist_ratio = 1.0: expected a number in \(0, 1\)"):
        WatermarkLogitsProcessor(V, "cpu", 1.0)
    with pytest.raises(GenerationError, match="seeding_scheme = 'x': expected 'lefthash' or"):
        WatermarkLogitsProcessor(V, "cpu", seeding_scheme="x")


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(WITHOUT_STATE))
def test_a_gpu_gives_what_the_cpu_gives(name: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "RepetitionPenaltyLogitsProcessor": (1.3,),
        "NoRepeatNGramLogitsProcessor": (2,),
        "SequenceBiasLogitsProcessor": ({(3,): 1.5, (2, 4): -2.0},),
        "NoBadWordsLogitsProcessor": ([[3], [2, 4]],),
        "MinLengthLogitsProcessor": (30, 2),
        "MinNewTokensLengthLogitsProcessor": (1, 30, 2),
        "ForcedBOSTokenLogitsProcessor": (4,),
        "ForcedEOSTokenLogitsProcessor": (12, [2]),
        "SuppressTokensLogitsProcessor": ([4, 5],),
        "SuppressTokensAtBeginLogitsProcessor": ([4, 5], 11),
        "ExponentialDecayLengthPenalty": ((2, 1.5), [2, 4], 1),
        "TemperatureLogitsWarper": (0.7,),
        "TopKLogitsWarper": (9,),
    }
    made = arguments.get(name, () if name in ("InfNanRemoveLogitsProcessor", "LogitNormalization") else (0.6,))
    ids, scores = torch.randint(0, 7, (4, 11)), torch.randn(4, V)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = getattr(ours, name)(*made)(ids.cuda(), scores.cuda())
    here = getattr(ours, name)(*made)(ids, scores)
    assert torch.equal(here.isinf(), there.cpu().isinf())
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)
