"""The engine: requests that come and go get what `generate` returns for them alone."""

import random
import threading
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conjoin import EncoderDecoderModel, Engine, GenerationError, ShapeError
from conjoin.torch.cpu import native
from conjoin.torch.generation.engine import Details, Progress
from conjoin.torch.generation.engine.scorer import Scorer
from conjoin.torch.generation.loops import native as loops
from generate_models import models, sources
from lanes import lanes
from pairs import joined, stir

KERNELS = pytest.mark.skipif(not native.has("float32"), reason="no compiled kernels: requests run alone")
FORMS = ("float32", "bfloat16", "int8", "int8 in bfloat16")


def model_of(folder: Path, decoder: str, form: str = "float32") -> EncoderDecoderModel:
    model = stir(joined(folder, "bert", decoder)).eval()
    model = model.quantize() if form.startswith("int8") else model
    return model.to(torch.bfloat16) if form.endswith("bfloat16") else model


def drawn_request(chance: random.Random) -> dict[str, Any]:
    """A request of any kind that joins the batch: its inputs, settings and seed."""
    numbers = torch.Generator().manual_seed(chance.randrange(10**6))
    request: dict[str, Any] = {
        "input_ids": torch.randint(10, 50, (1, chance.randint(1, 40)), generator=numbers),
        "max_new_tokens": chance.randint(1, 12),
        "do_sample": False,
        "num_beams": 1,
    }
    kind = chance.random()
    if kind < 0.3:
        beams = chance.randint(2, 5)
        request |= {"num_beams": beams, "num_return_sequences": chance.randint(1, beams)}
        request |= {"length_penalty": chance.choice([0.5, 1.0, 2.0]), "early_stopping": chance.choice([True, False])}
    elif kind < 0.5:
        request |= {"do_sample": True, "num_return_sequences": chance.randint(1, 3), "seed": chance.randrange(99)}
        request |= {"top_k": chance.choice([0, 5, 20]), "top_p": chance.choice([0.7, 1.0])}
    if chance.random() < 0.3:
        request["repetition_penalty"] = 1.3
    if chance.random() < 0.3:
        request["no_repeat_ngram_size"] = 2
    if chance.random() < 0.2:
        request["cache_implementation"] = "quantized"
    if chance.random() < 0.3:
        request["decoder_input_ids"] = torch.randint(10, 50, (1, chance.randint(1, 4)), generator=numbers)
    return request


def alone(model: EncoderDecoderModel, request: dict[str, Any]) -> Tensor:
    settings = dict(request)
    if (seed := settings.pop("seed", None)) is not None:
        torch.manual_seed(seed)
    result = model.generate(**settings)
    assert isinstance(result, Tensor)
    return result


def check_schedules(model: EncoderDecoderModel, seed: int, schedules: int, requests: int) -> None:
    chance = random.Random(seed)
    for _ in range(schedules):
        drawn = [drawn_request(chance) for _ in range(requests)]
        expected = [alone(model, request) for request in drawn]
        engine = Engine(model, max_rows=chance.randint(1, 20))
        handles = []
        for request in drawn:
            handles.append(engine.submit(**request))
            for _ in range(chance.randint(0, 3)):
                engine.step()
        cancelled = {number for number in range(requests) if chance.random() < 0.15}
        for number in cancelled:
            handles[number].cancel()
        engine.run()
        for number, (handle, words) in enumerate(zip(handles, expected, strict=True)):
            if number in cancelled:
                continue
            assert torch.equal(handle.result(), words)


@KERNELS
@pytest.mark.parametrize(
    ("decoder", "form"),
    lanes(
        product(("gpt2", "roberta", "t5", "gemma2", "bart", "llama", "t5gemma", "t5gemma2"), FORMS),
        lambda case: case in (("gpt2", "float32"), ("t5", "bfloat16"), ("gemma2", "int8")),
    ),
)
def test_a_request_gets_what_it_gets_alone(decoder: str, form: str, tmp_path: Path) -> None:
    check_schedules(model_of(tmp_path, decoder, form), seed=7, schedules=3, requests=10)


@pytest.mark.parametrize("prompt", [1, 4])
@pytest.mark.parametrize(
    "kind", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True}]
)
def test_nothing_asked_for_is_nothing_written(kind: dict[str, Any], prompt: int, tmp_path: Path) -> None:
    """The kernels write at least one token, so that such a request must not reach them."""
    model = model_of(tmp_path, "gpt2")
    request: dict[str, Any] = {"input_ids": torch.randint(10, 50, (1, 6)), "max_new_tokens": 0, **kind}
    if prompt > 1:
        request["decoder_input_ids"] = torch.randint(10, 50, (1, prompt - 1))
    other = {**request, "max_new_tokens": 3}
    engine = Engine(model)
    handles = [engine.submit(**each) for each in (request, other, request)]
    engine.run()
    for handle in (handles[0], handles[2]):
        assert torch.equal(handle.result(), alone(model, request)) and handle.result().shape[1] == prompt
        assert handle.outcome().tokens(0) == []
    assert handles[1].result().shape[1] > prompt


@KERNELS
def test_a_bad_source_fails_alone(tmp_path: Path) -> None:
    """Sources that wait together are encoded in one pass, which one of them cannot go through."""
    model = model_of(tmp_path, "gpt2")
    most = model.encoder.spec.max_positions
    assert most is not None
    good = [torch.randint(10, 40, (1, length)) for length in (3, 7, 5, 4)]
    bad = [torch.randint(10, 40, (1, most + 1)), torch.tensor([[12, model.encoder.spec.vocab_size]])]
    for wrong in bad:
        engine = Engine(model)
        handles = [engine.submit(ids, max_new_tokens=4) for ids in (*good[:2], wrong, *good[2:])]
        engine.run()
        for handle, ids in zip((*handles[:2], *handles[3:]), good, strict=True):
            assert torch.equal(handle.result(), alone(model, {"input_ids": ids, "max_new_tokens": 4}))
        with pytest.raises((ShapeError, IndexError)):
            handles[2].result()


def test_a_streamer_sees_the_prompt_once_and_its_end(tmp_path: Path) -> None:
    class Told:
        def __init__(self) -> None:
            self.parts: list[list[int]] = []
            self.ended = 0

        def put(self, value: Tensor) -> None:
            self.parts.append(value.flatten().tolist())

        def end(self) -> None:
            self.ended += 1

    model, ids = model_of(tmp_path, "gpt2"), torch.randint(10, 40, (1, 5))
    for settings in ({"num_beams": 1}, {"do_sample": True, "seed": 3}):
        told, engine = Told(), Engine(model)
        handle = engine.submit(ids, max_new_tokens=4, streamer=told, **settings)
        engine.run()
        assert [token for part in told.parts for token in part] == handle.result().flatten().tolist()
        assert told.ended == 1


@KERNELS
@pytest.mark.slow
def test_hundreds_of_schedules(tmp_path: Path) -> None:
    check_schedules(model_of(tmp_path, "gpt2"), seed=11, schedules=200, requests=12)


@KERNELS
def test_threads_change_no_words(tmp_path: Path) -> None:
    model, before = model_of(tmp_path, "llama"), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        check_schedules(model, seed=3, schedules=2, requests=8)
    finally:
        torch.set_num_threads(before)


@KERNELS
@pytest.mark.parametrize("settings", [{}, {"num_beams": 4}])
def test_a_search_takes_a_step_for_each_word(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    run = loops.run

    def counted(*arguments: Any, **keywords: Any) -> int:
        taken.append(run(*arguments, **keywords))
        return taken[-1]

    monkeypatch.setattr(loops, "run", counted)
    ids = torch.tensor([[11, 12, 13], [14, 15, 16]])
    model_of(tmp_path, "gpt2").generate(ids, min_new_tokens=7, max_new_tokens=7, **settings)
    assert taken == [7]


def test_a_thread_of_its_own_serves_many_callers(tmp_path: Path) -> None:
    model = model_of(tmp_path, "gpt2")
    drawn = [drawn_request(random.Random(seed)) for seed in range(12)]
    expected = [alone(model, request) for request in drawn]
    found: dict[int, Tensor] = {}
    with Engine(model) as engine:

        def ask(number: int) -> None:
            found[number] = engine.submit(**drawn[number]).result(timeout=60)

        callers = [threading.Thread(target=ask, args=(number,)) for number in range(len(drawn))]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert all(torch.equal(found[number], words) for number, words in enumerate(expected))


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 4}])
@pytest.mark.parametrize("threaded", [False, True])
def test_certain_words_come_one_by_one(settings: dict[str, Any], threaded: bool, tmp_path: Path) -> None:
    model = model_of(tmp_path, "gpt2")
    request = {"input_ids": torch.tensor([[11, 12, 13]]), "max_new_tokens": 8, **settings}
    expected = alone(model, request)[0].tolist()
    engine = Engine(model)
    if threaded:
        with engine:
            words = list(engine.submit(**request))
    else:
        words = list(engine.submit(**request))
    assert words == expected[len(expected) - len(words) :]
    assert len(words) >= len(expected) - 2


def test_a_cancelled_request_leaves_the_others_alone(tmp_path: Path) -> None:
    model, ids = model_of(tmp_path, "gpt2"), torch.tensor([[11, 12, 13]])
    engine = Engine(model)
    first, second = (engine.submit(ids, max_new_tokens=20, min_new_tokens=20) for _ in range(2))
    for word in first:
        first.cancel()
        assert word >= 0
        break
    assert torch.equal(second.result(), model.generate(ids, max_new_tokens=20, min_new_tokens=20))  # pyright: ignore
    with pytest.raises(GenerationError, match="cancelled"):
        first.result()
    assert engine.rows == 0


def test_what_the_kernels_cannot_run_runs_alone(tmp_path: Path) -> None:
    model, ids = model_of(tmp_path, "gpt2"), torch.tensor([[11, 12, 13]])

    def halve(_: Tensor, scores: Tensor) -> Tensor:
        return scores / 2

    for settings in (
        {"logits_processor": [halve], "num_beams": 2},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"return_dict_in_generate": True, "output_scores": True},
    ):
        request = {"input_ids": ids, "max_new_tokens": 6, **settings}
        expected, found = model.generate(**request), Engine(model).submit(**request).result()
        if not isinstance(expected, Tensor):
            expected, found = expected.sequences, found.sequences  # pyright: ignore
        assert torch.equal(found, expected)  # pyright: ignore[reportArgumentType]


@KERNELS
@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "seed": 3}])
def test_processors_and_criteria_of_the_caller_cost_nobody_else(settings: dict[str, Any], tmp_path: Path) -> None:
    model, ids = model_of(tmp_path, "gpt2"), torch.tensor([[11, 12, 13]])

    def halve(_: Tensor, scores: Tensor) -> Tensor:
        return scores / 2

    def five(tokens: Tensor, scores: Any) -> bool:
        return tokens.shape[1] >= 5

    own = {"input_ids": ids, "max_new_tokens": 9, "logits_processor": [halve], "stopping_criteria": [five], **settings}
    engine = Engine(model)
    assert engine.joins(**{name: value for name, value in own.items() if name != "seed"})
    handles = [engine.submit(**own), engine.submit(ids, max_new_tokens=9)]
    engine.step()
    assert engine.rows == 2
    assert torch.equal(handles[0].result(), alone(model, own)) and handles[0].result().shape[1] == 5  # pyright: ignore
    assert torch.equal(handles[1].result(), model.generate(ids, max_new_tokens=9))  # pyright: ignore


def test_errors_belong_to_their_request(tmp_path: Path) -> None:
    model, ids = model_of(tmp_path, "gpt2"), torch.tensor([[11, 12, 13]])
    engine = Engine(model)
    wrong = engine.submit(ids, max_new_token=5)
    two = engine.submit(ids.repeat(2, 1), max_new_tokens=5)
    right = engine.submit(ids, max_new_tokens=5)
    assert torch.equal(right.result(), model.generate(ids, max_new_tokens=5))  # pyright: ignore
    with pytest.raises(GenerationError, match="max_new_tokens"):
        wrong.result()
    with pytest.raises(GenerationError, match="2 sources"):
        two.result()


def test_a_request_without_tokens_left_ends_with_an_error(tmp_path: Path) -> None:
    model, ids = model_of(tmp_path, "gpt2"), torch.tensor([[11, 12, 13]])
    words = model.decoder.spec.vocab_size
    bad: dict[str, Any] = {"bad_words_ids": [[first, second] for first in range(words) for second in range(words)]}
    engine = Engine(model)
    stuck, right = engine.submit(ids, max_new_tokens=5, **bad), engine.submit(ids, max_new_tokens=5)
    with pytest.raises(GenerationError, match="cannot go on"):
        stuck.result()
    assert torch.equal(right.result(), model.generate(ids, max_new_tokens=5))  # pyright: ignore


def test_a_closed_engine_takes_no_requests(tmp_path: Path) -> None:
    model, ids = model_of(tmp_path, "gpt2"), torch.tensor([[11, 12, 13]])
    with Engine(model) as engine:
        handle = engine.submit(ids, max_new_tokens=4)
    assert handle.done()
    with pytest.raises(GenerationError, match="closed"):
        engine.submit(ids)
    with pytest.raises(GenerationError, match="max_rows"):
        Engine(model, max_rows=0)


def test_memory_is_bounded(tmp_path: Path) -> None:
    model, ids = model_of(tmp_path, "gpt2"), torch.tensor([[11, 12, 13]])
    engine = Engine(model, max_bytes=1)
    handles = [engine.submit(ids, max_new_tokens=3) for _ in range(3)]
    engine.step()
    assert engine.rows <= 1  # one that exceeds the bound runs alone
    engine.run()
    assert all(handle.done() for handle in handles)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "seed": 4}])
def test_tokens_come_with_their_probabilities_and_attention(settings: dict[str, Any], tmp_path: Path) -> None:
    model = model_of(tmp_path, "gpt2")
    request = {"input_ids": torch.tensor([[11, 12, 13, 14]]), "max_new_tokens": 8, **settings}
    details = Details(top=3, attention=True)
    outcome = Engine(model).submit(**request, details=details).outcome()
    assert torch.equal(outcome.sequences, alone(model, request))
    assert outcome.details is not None
    for row, scores in enumerate(outcome.details):
        ids = outcome.sequences[row : row + 1, : outcome.prompt + len(scores)]
        whole = model(
            input_ids=request["input_ids"], decoder_input_ids=ids[:, :-1], use_cache=False, output_attentions=True
        )
        expected = whole.logits[0, outcome.prompt - 1 :].log_softmax(-1)
        assert [score.id for score in scores] == ids[0, outcome.prompt :].tolist()
        for place, score in enumerate(scores):
            assert score.logprob == pytest.approx(expected[place, score.id].item(), abs=1e-4)
            values, best = expected[place].topk(3)
            assert [token for token, _ in score.top] == best.tolist()
            assert [value for _, value in score.top] == pytest.approx(values.tolist(), abs=1e-4)
            weights = torch.stack(whole.cross_attentions).mean((0, 2))[0, outcome.prompt - 1 + place]
            assert score.attention == pytest.approx(weights.tolist(), abs=1e-4)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 4, "num_return_sequences": 2}])
def test_progress_adds_up_to_the_result(settings: dict[str, Any], tmp_path: Path) -> None:
    model = model_of(tmp_path, "gpt2")
    request = {"input_ids": torch.tensor([[11, 12, 13, 14]]), "max_new_tokens": 9, **settings}
    engine, heard = Engine(model), []

    class Listener:
        def put(self, progress: Progress) -> None:
            heard.append(progress)

        def end(self) -> None:
            heard.append(None)

    handle = engine.submit(**request, details=Details(top=2))
    handle.follow(Listener())
    outcome = handle.outcome()
    assert heard.pop() is None
    assert outcome.details is not None
    for row in range(len(outcome.sequences)):
        tokens = [token for progress in heard if progress.row == row for token in progress.tokens]
        scores = [score for progress in heard if progress.row == row for score in progress.scores or ()]
        assert tokens == outcome.tokens(row)[: len(tokens)]
        assert len(tokens) >= len(outcome.tokens(row)) - 1
        assert scores == outcome.details[row][: len(scores)]
    if settings.get("num_beams"):
        assert any(progress.guess for progress in heard)


def test_a_beam_search_tells_its_scores(tmp_path: Path) -> None:
    model, ids = model_of(tmp_path, "gpt2"), torch.tensor([[11, 12, 13]])
    settings: dict[str, Any] = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 6}
    expected = model.generate(ids, return_dict_in_generate=True, output_scores=True, **settings)
    outcome = Engine(model).submit(ids, **settings).outcome()
    assert torch.equal(outcome.sequences, expected.sequences)
    assert outcome.scores is not None
    assert torch.allclose(outcome.scores, expected.sequences_scores, atol=1e-5)  # pyright: ignore


def test_a_request_that_runs_alone_can_be_given_up(tmp_path: Path) -> None:
    model, ids = model_of(tmp_path, "gpt2"), torch.tensor([[11, 12, 13]])
    steps: list[int] = []

    def cancel(tokens: Tensor, scores: Tensor) -> Tensor:
        steps.append(tokens.shape[1])
        handle.cancel()
        return scores

    engine = Engine(model)
    handle = engine.submit(ids, max_new_tokens=20, num_beams=2, min_new_tokens=20, logits_processor=[cancel])
    with pytest.raises(GenerationError, match="cancelled"):
        handle.result()
    assert len(steps) < 4


def test_a_fault_of_one_request_leaves_the_engine_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = model_of(tmp_path, "gpt2"), torch.tensor([[11, 12, 13]])

    def break_down(*_: Any) -> Any:
        raise ZeroDivisionError("a fault")

    with Engine(model) as engine:
        with pytest.raises(GenerationError, match=r"attention.layer = 9"):
            engine.submit(ids, max_new_tokens=4, details=Details(attention=True, layer=9)).result(timeout=60)
        monkeypatch.setattr(Scorer, "read", break_down)
        with pytest.raises(ZeroDivisionError):
            engine.submit(ids, max_new_tokens=4, details=Details()).result(timeout=60)
        followed = engine.submit(ids, max_new_tokens=4, details=Details())
        with pytest.raises(ZeroDivisionError):
            list(followed)
        assert torch.equal(
            engine.submit(ids, max_new_tokens=4).result(timeout=60), model.generate(ids, max_new_tokens=4)
        )


class Followed:
    """A listener that only makes the engine return after every step."""

    def put(self, progress: Progress) -> None: ...

    def end(self) -> None: ...


@KERNELS
def test_a_few_requests_wait_for_each_other_while_many_rows_run(tmp_path: Path) -> None:
    model, ids = model_of(tmp_path, "gpt2"), torch.tensor([[11, 12, 13]])
    engine = Engine(model, max_rows=40)
    many = [engine.submit(ids, max_new_tokens=30, min_new_tokens=30) for _ in range(12)]
    many[0].follow(Followed())  # so that a call is a step
    engine.step()
    assert engine.running == 12
    late = [engine.submit(ids, max_new_tokens=3)]
    engine.step()
    assert (engine.running, engine.waiting) == (12, 1)
    late += [engine.submit(ids, max_new_tokens=3) for _ in range(2)]
    engine.step()
    assert engine.waiting == 0  # a quarter of the running rows
    alone = engine.submit(ids, max_new_tokens=3)
    for _ in range(6):
        engine.step()
    assert engine.waiting == 0  # nobody waits longer than a few steps
    engine.run()
    for handle in (*late, alone):
        assert torch.equal(handle.result(), model.generate(ids, max_new_tokens=3))  # pyright: ignore
    assert all(handle.done() for handle in many)


@pytest.mark.parametrize("name", ["bert-gpt2", "bart", "t5"])
def test_scores_of_beams_are_the_models_own_for_their_words(name: str) -> None:
    """What a hypothesis takes over from the one that it continues must be what it would have computed itself."""
    model, _ = models(name)
    ids, mask = sources(name, lengths=(7, 7))
    engine = Engine(model)
    kept = {"num_beams": 8, "num_return_sequences": 8, "max_new_tokens": 16, "min_new_tokens": 16}
    handles = [engine.submit(row[None], **kept) for row in ids]
    engine.run()
    for row, seen, handle in zip(ids, mask, handles, strict=True):
        outcome = handle.outcome()
        words = torch.as_tensor(outcome.sequences)
        every = {"input_ids": row.expand(8, -1), "attention_mask": seen.expand(8, -1)}
        with torch.no_grad():
            logits = model(**every, decoder_input_ids=words[:, :-1]).logits.log_softmax(-1)
        own = logits.gather(2, words[:, 1:, None])[:, -16:, 0].mean(1)
        torch.testing.assert_close(outcome.scores, own, rtol=1e-5, atol=1e-5)
