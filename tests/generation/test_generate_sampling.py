"""Drawn words follow the model's distribution, with drafts and without; a seed gives the same words."""

from collections import Counter
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from conjoin import BertConfig, EncoderDecoderModel, GenerationError
from conjoin.torch.generation.loop import Control, Limits
from conjoin.torch.generation.loops.drafters import CopyDrafter, ModelDrafter
from conjoin.torch.generation.loops.speculative import speculate
from conjoin.torch.generation.reader import Reader
from generate_models import EOS, models, sources
from lanes import lanes
from pairs import SMALL, fresh, stir
from references.plain import readings

pytestmark = pytest.mark.usefixtures("by_kernels_and_by_operators")

WORDS = 5
UNLIKELY = 1e-3
"""A chi-squared statistic that chance exceeds more rarely fails a test; seeds are fixed, so it does always or never."""


def chance_of_more(counts: Counter[Any], expected: dict[Any, float]) -> float:
    """The chance of a chi-squared statistic above that of the counts; rare outcomes are taken together."""
    drawn = counts.total()
    assert {*counts} <= {outcome for outcome, p in expected.items() if p > 0}, "drew what has no probability"
    common = {outcome: p for outcome, p in expected.items() if p * drawn >= 5}
    rest = 1 - sum(common.values())
    pairs = [(counts[outcome], p * drawn) for outcome, p in common.items()]
    if rest * drawn >= 5:
        pairs.append((drawn - sum(count for count, _ in pairs), rest * drawn))
    statistic = sum((count - mean) ** 2 / mean for count, mean in pairs)
    freedom = torch.tensor((len(pairs) - 1) / 2)
    return float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2)))


def small_model(seed: int, source_words: int = 61) -> EncoderDecoderModel:
    """A pair that writes few words, all of them likely enough to be drawn."""
    torch.manual_seed(seed)
    few = {"num_attention_heads": 3, "hidden_size": 12, **SMALL}
    ids = {"decoder_start_token_id": 0, "pad_token_id": 3, "eos_token_id": 4, "bos_token_id": 0}
    encoder, decoder = BertConfig(vocab_size=source_words, **few), BertConfig(vocab_size=WORDS, **few)
    return stir(fresh(encoder, decoder, **ids))


def all_results(model: EncoderDecoderModel, ids: Tensor, length: int, **shaped: Any) -> dict[tuple[int, ...], float]:
    """Every result of `length` words and its probability; behind an end stand pads."""
    reading = readings(model, ids, torch.ones_like(ids))[0]
    chances: dict[tuple[int, ...], float] = {}
    for words in product(range(WORDS), repeat=length):
        chance, written = 1.0, [0]
        for word in words:
            chance *= float(_shaped(torch.tensor(reading(written)), **shaped)[word])
            written.append(word)
            if word == 4:
                break
        result = tuple(written[1:] + [3] * (length + 1 - len(written)))
        chances[result] = chance
    assert abs(sum(chances.values()) - 1) < 1e-4
    return chances


def _shaped(log_probs: Tensor, temperature: float = 1.0, top_k: int = 0) -> Tensor:
    scores = log_probs / temperature
    if top_k:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[-1], float("-inf"))
    return scores.softmax(-1)


SHAPED: tuple[dict[str, Any], ...] = ({}, {"temperature": 0.5}, {"top_k": 3})


@pytest.mark.parametrize(
    ("copies", "shaped"), lanes(product([1, 50], SHAPED), lambda case: (case[0] == 50) == ("temperature" in case[1]))
)
def test_results_are_drawn_with_their_probability(shaped: dict[str, Any], copies: int) -> None:
    model, ids = small_model(1), torch.tensor([[20, 30, 40]])
    rows = ids.expand(3000 // copies, -1)
    torch.manual_seed(7)
    given = {"do_sample": True, "max_new_tokens": 3, "top_k": 0, "num_return_sequences": copies, **shaped}
    found = model.generate(rows, **given)
    assert len(found) == 3000
    counts = Counter(tuple(row[1:]) for row in found.tolist())
    assert chance_of_more(counts, all_results(model, ids, 3, **shaped)) > UNLIKELY


@pytest.mark.parametrize("drafts", lanes(["assistant", "copies"], "copies".__eq__))
def test_drafts_do_not_change_how_likely_results_are(drafts: str) -> None:
    model, ids = small_model(1, source_words=WORDS), torch.tensor([[0, 1, 2, 1, 2, 0]])
    assistant = {"assistant_model": small_model(2, source_words=WORDS)}
    torch.manual_seed(3)
    found = model.generate(
        ids.expand(250, -1),
        do_sample=True,
        top_k=0,
        max_new_tokens=3,
        **(assistant if drafts == "assistant" else {"copy_speculation": True}),
    )
    counts = Counter(tuple(row[1:]) for row in found.tolist())
    assert chance_of_more(counts, all_results(model, ids, 3)) > UNLIKELY


class Table(Reader):
    """A decoder that knows the last word only, by a table of scores; nothing to compute, so much can be drawn."""

    def __init__(self, scores: Float[Tensor, "V V"]) -> None:
        self.table = scores
        self.records = []
        self.cache = _Length()
        self.calls = 0
        self.decoder = _Limitless()

    def all_scores(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        self.calls += 1
        self.cache.length += ids.shape[1]
        return self.table[ids]

    def scores(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.all_scores(ids)[:, -1]


class _Length:
    length = 0

    def crop(self, length: int) -> None:
        self.length = min(self.length, length)


class _Limitless:
    class spec:
        max_positions = None

    class embed:
        class words:
            weight = torch.zeros(1)


@pytest.mark.parametrize(("size", "alike"), lanes([(1, 0.0), (2, 0.6), (5, 0.6), (5, 0.9)], (2, 0.6).__eq__))
def test_drafted_words_follow_the_model_and_not_the_assistant(size: int, alike: float) -> None:
    torch.manual_seed(11)
    scores = torch.randn(WORDS, WORDS) * 1.5
    other = alike * scores + (1 - alike) * torch.randn(WORDS, WORDS) * 1.5
    limits = Limits(prompt=1, max_length=5, eos=(4,), pad=3)
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(1500):
        drafter = ModelDrafter(Table(other), None, size=size, randomly=True, constant=False)
        found = speculate(Table(scores), torch.tensor([[0]]), limits, Control(), drafter, randomly=True)
        counts[tuple(found.sequences[0, 1:].tolist())] += 1
    assert chance_of_more(counts, _chances(scores)) > UNLIKELY


def test_copied_words_follow_the_model() -> None:
    torch.manual_seed(12)
    scores = torch.randn(WORDS, WORDS)
    limits = Limits(prompt=1, max_length=5, eos=(4,), pad=3)
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(1500):
        drafter = CopyDrafter([0, 1, 2, 0, 3, 1, 1, 2])
        found = speculate(Table(scores), torch.tensor([[0]]), limits, Control(), drafter, randomly=True)
        counts[tuple(found.sequences[0, 1:].tolist())] += 1
    assert chance_of_more(counts, _chances(scores)) > UNLIKELY


def _chances(scores: Tensor) -> dict[tuple[int, ...], float]:
    """Every result of at most four words by such a table."""
    chances: dict[tuple[int, ...], float] = {}
    for words in product(range(WORDS), repeat=4):
        written = words[: words.index(4) + 1] if 4 in words else words
        before = (0, *written)
        chances[written] = float(torch.stack([scores[a].softmax(-1)[b] for a, b in pairwise(before)]).prod())
    return chances


MODES: dict[str, dict[str, Any]] = {
    "sampling": {"num_return_sequences": 3},
    "beam sampling": {"num_beams": 3, "num_return_sequences": 2},
    "copies": {"copy_speculation": True},
    "assistant": {"assistant_model": None},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_gives_the_same_words_again_and_another_seed_others(mode: str) -> None:
    model, _ = models("bart", 0)
    ids, mask = sources("bart", 0)
    given = {**MODES[mode], "attention_mask": mask, "do_sample": True, "top_k": 0, "max_new_tokens": 8}
    if mode == "assistant":
        given["assistant_model"] = models("bart", 1)[0]
    found = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        found.append(model.generate(ids, **given).tolist())
    assert found[0] == found[1] != found[2]


SAMPLED: dict[str, dict[str, Any]] = {
    "one result": {},
    "several results": {"num_return_sequences": 3, "top_k": 20},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "drafts": {"prompt_lookup_num_tokens": 3},
}


@pytest.mark.parametrize("kind", SAMPLED)
def test_a_source_with_a_generator_of_its_own_draws_in_any_batch_what_it_draws_alone(kind: str) -> None:
    model, _ = models("electra-electra")
    ids, mask = sources("electra-electra")
    settings = {"do_sample": True, "max_new_tokens": 12, **SAMPLED[kind]}

    def drawn(order: list[int]) -> dict[int, list[list[int]]]:
        generators = [torch.Generator().manual_seed(7 + source) for source in order]
        rows = model.generate(ids[order], attention_mask=mask[order], generator=generators, **settings)
        blocks = rows.view(len(order), -1, rows.shape[1])
        return {source: [_without_pads(row) for row in blocks[at].tolist()] for at, source in enumerate(order)}

    alone = {}
    for source in range(3):
        torch.manual_seed(7 + source)
        length = int(mask[source].sum())
        alone[source] = [
            _without_pads(row) for row in model.generate(ids[source : source + 1, :length], **settings).tolist()
        ]
    assert drawn([0, 1, 2]) == drawn([2, 0, 1]) == alone
    assert len({str(rows) for rows in alone.values()}) == 3


def _without_pads(row: list[int]) -> list[int]:
    end = next((at for at, token in enumerate(row) if at and token == EOS), len(row))
    return row[: end + 1]


def test_a_generator_less_than_there_are_sources_is_refused() -> None:
    model, _ = models("bert-bert")
    with pytest.raises(GenerationError, match="generator is a list of 1 for 3 sources"):
        model.generate(sources("bert-bert")[0], do_sample=True, max_new_tokens=3, generator=[torch.Generator()])


@pytest.mark.parametrize("settings", [{"num_beams": 1}, {"num_beams": 4, "num_return_sequences": 3}])
def test_results_have_the_scores_that_generate_returns_among_its_outputs(settings: dict[str, int]) -> None:
    model, _ = models("bert-gpt2")
    ids, mask = sources("bert-gpt2")
    results = model.generate_results(input_ids=ids, attention_mask=mask, max_new_tokens=9, **settings)
    whole = model.generate(
        ids, attention_mask=mask, max_new_tokens=9, return_dict_in_generate=True, output_scores=True, **settings
    )
    assert torch.equal(results.sequences, whole.sequences)
    if settings["num_beams"] == 1:
        assert results.scores is None and results.counts is None
    else:
        assert results.counts == [3, 3, 3]
        assert results.scores is not None
        torch.testing.assert_close(results.scores, whole.sequences_scores)
