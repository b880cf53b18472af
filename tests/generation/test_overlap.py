"""Batches that overlap: their results are those of each batch alone."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from conjoin import EncoderDecoderModel, GenerationError
from conjoin.torch.generation import overlap
from pairs import GPT, LLAMA, SOURCE, TARGET, fresh, stir

PAIRS = {"bert": (SOURCE, TARGET), "llama": (SOURCE, LLAMA), "gpt2": (SOURCE, GPT)}


@pytest.fixture(params=list(PAIRS))
def model(request: pytest.FixtureRequest) -> EncoderDecoderModel:
    """A model whose results have lengths of their own."""
    return stir(fresh(*PAIRS[request.param]), 0.6).eval()


def some_batches(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return batches of 1 to 6 sources of 2 to 20 tokens."""
    chance, made = random.Random(seed), list[dict[str, Any]]()
    for _ in range(count):
        lengths = [chance.randint(2, 20) for _ in range(chance.randint(1, 6))]
        mask = torch.tensor([[1] * n + [0] * (max(lengths) - n) for n in lengths])
        ids = torch.tensor([[chance.randint(4, 30) for _ in range(max(lengths))] for _ in lengths])
        made.append({"input_ids": ids * mask, "attention_mask": mask})
    return made


def settings_of(model: EncoderDecoderModel, seed: int) -> dict[str, Any]:
    """Return settings under which results end at different lengths: no token comes twice, and some end a result."""
    words = model.decoder.spec.vocab_size
    ends = random.Random(seed).sample(range(4, words), words // 6)
    return {"max_new_tokens": 24, "eos_token_id": ends, "no_repeat_ngram_size": 1}


def together(model: EncoderDecoderModel, batches: list[dict[str, Any]], **settings: Any) -> dict[int, Any]:
    return dict(model.generate_batches((n, {**batch, **settings}) for n, batch in enumerate(batches)))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_results_are_those_of_each_batch_alone(model: EncoderDecoderModel, num_beams: int) -> None:
    for seed in range(3):
        batches, settings = some_batches(12, seed), settings_of(model, seed) | {"num_beams": num_beams}
        if num_beams > 1:
            settings["num_return_sequences"] = 2
        found = together(model, batches, **settings)
        assert sorted(found) == list(range(12))
        lengths = set()
        for number, batch in enumerate(batches):
            alone = model.generate_results(**batch, **settings)
            assert torch.equal(found[number].sequences, alone.sequences)
            assert found[number].counts == alone.counts
            if alone.scores is not None:
                assert torch.equal(found[number].scores, alone.scores)
            lengths |= {tuple(row).count(model.config.pad_token_id) for row in alone.sequences.tolist()}
        assert len(lengths) > 1  # else nothing overlaps that could go wrong


def test_batches_overlap_and_few_are_open(model: EncoderDecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, begin = list[int](), overlap._begin
    begun, done = 0, 0

    def count(*arguments: Any) -> Any:
        nonlocal begun
        begun += 1
        sizes.append(begun - done)
        return begin(*arguments)

    monkeypatch.setattr(overlap, "_begin", count)
    batches, settings = some_batches(20), settings_of(model, 0)
    for _ in model.generate_batches((n, {**batch, **settings}) for n, batch in enumerate(batches)):
        done += 1
    assert 1 < max(sizes) <= overlap._MOST_OPEN


def test_sampling_draws_what_each_source_draws_alone(model: EncoderDecoderModel) -> None:
    batches = some_batches(4)
    settings = settings_of(model, 0) | {"do_sample": True}

    def seeded(number: int, batch: dict[str, Any]) -> dict[str, Any]:
        seeds = [torch.Generator().manual_seed(100 * number + row) for row in range(len(batch["input_ids"]))]
        return {**batch, **settings, "generator": seeds}

    found = dict(model.generate_batches((n, seeded(n, batch)) for n, batch in enumerate(batches)))
    for number, batch in enumerate(batches):
        assert torch.equal(found[number].sequences, model.generate_results(**seeded(number, batch)).sequences)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_what_is_wrong_with_a_batch_is_its_own(model: EncoderDecoderModel, num_beams: int) -> None:
    batches, settings = some_batches(5), settings_of(model, 0) | {"num_beams": num_beams}
    every = list(range(model.decoder.spec.vocab_size))
    arguments = [{**batch, **settings} for batch in batches]
    arguments[1]["suppress_tokens"] = every  # no token is left: a later step's fault, or the call's own
    arguments[2]["num_beems"] = 3
    found = dict(model.generate_batches(enumerate(arguments)))
    assert isinstance(found[1], GenerationError)
    assert isinstance(found[2], GenerationError) and "num_beems" in str(found[2])
    for number in (0, 3, 4):
        assert torch.equal(found[number].sequences, model.generate_results(**arguments[number]).sequences)


def test_a_source_that_cannot_go_on_fails_with_its_batch(model: EncoderDecoderModel) -> None:
    batches, settings = some_batches(4), {"max_new_tokens": 9, "eos_token_id": None}
    arguments: list[dict[str, Any]] = [{**batch, **settings} for batch in batches]
    words = range(model.decoder.spec.vocab_size)
    arguments[2]["bad_words_ids"] = [[one, other] for one in words for other in words]
    found = dict(model.generate_batches(enumerate(arguments)))
    assert isinstance(found[2], GenerationError)
    for number in (0, 1, 3):
        assert torch.equal(found[number].sequences, model.generate_results(**arguments[number]).sequences)


def test_what_was_read_is_generated_before_reading_fails(model: EncoderDecoderModel) -> None:
    batches, settings, done = some_batches(6), settings_of(model, 0), list[int]()

    def reader() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, batch in enumerate(batches):
            yield number, {**batch, **settings}
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        for number, made in model.generate_batches(reader()):
            done.append(number)
            assert not isinstance(made, Exception)
    assert sorted(done) == list(range(6))


def test_a_prompt_alone_and_no_batch_at_all(model: EncoderDecoderModel) -> None:
    assert list(model.generate_batches([])) == []
    ((_, made),) = model.generate_batches([(None, {**some_batches(1)[0], "max_new_tokens": 0})])
    assert not isinstance(made, Exception) and made.sequences.shape[1] == 1


@pytest.mark.parametrize("num_beams", [1, 2])
def test_without_kernels_sources_are_encoded_once(model: EncoderDecoderModel, num_beams: int) -> None:
    calls, batches = list[int](), some_batches(3)
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    model.decoder.register_forward_hook(lambda *_: None)  # the kernels step aside for hooks
    settings = settings_of(model, 0) | {"num_beams": num_beams}
    found = together(model, batches, **settings)
    assert len(calls) == 3
    assert all(
        torch.equal(found[n].sequences, model.generate_results(**b, **settings).sequences)
        for n, b in enumerate(batches)
    )


def test_batches_with_other_caches_run_beside_each_other(model: EncoderDecoderModel) -> None:
    """Keys and values in 8 bits, and as they are: no pass reads both."""
    batches, settings = some_batches(8), settings_of(model, 0)
    caches = [{}, {"cache_implementation": "quantized"}]
    calls = [{**batch, **settings, **caches[number % 2]} for number, batch in enumerate(batches)]
    results = dict(model.generate_batches(enumerate(calls)))
    for number, call in enumerate(calls):
        assert results[number].sequences.equal(model.generate(**call))
