"""Budgets of minutes and tokens: what follows training fits in, rates reach 0, resumed runs go on exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conjoin import ConfigError, ConjoinWarning, Seq2SeqTrainer, TrainingArguments
from conjoin.training import TrainerCallback
from conjoin.training.folder.metrics_log import read_log
from conjoin.training.folder.run_folder import RunFolder
from conjoin.training.loop import budget
from conjoin.training.torch.engine import Engine
from training_toys import arguments, toy_model, toy_rows, weights

MINUTE = 60.0
PEAK = 1e-2


class Clock:
    """A clock that stands still but for what it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of budgets; every step takes 1 to 3 seconds, every evaluation 7, every save 2."""
    found = Clock()
    monkeypatch.setattr(budget, "monotonic", found)

    def slow(name: str, seconds: Callable[[int], float]) -> None:
        work: Any = getattr(Engine, name)

        def taking(self: Engine, *given: Any, **named: Any) -> Any:
            number = given[0] if name == "step" else 0
            found.now += seconds(number)
            return work(self, *given, **named)

        monkeypatch.setattr(Engine, name, taking)

    slow("step", lambda number: 1 + number % 3)
    slow("save", lambda _: 2.0)
    slow("mean_loss", lambda _: 7 / 3)
    return found


class Dies(TrainerCallback):
    """Ends a run at the end of a step, as a kill would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if state.global_step == self.step:
            raise RuntimeError("killed")


def trainer_of(folder: Path, *callbacks: TrainerCallback, validates: bool = False, **changes: Any) -> Seq2SeqTrainer:
    values: dict[str, Any] = {"max_steps": -1, "learning_rate": PEAK, "logging_steps": 1, "save_steps": 4}
    args = arguments(folder / "run", **values | {"warmup_steps": 0.1} | changes)
    rows = toy_rows(12, 1) if validates else None
    return Seq2SeqTrainer(
        toy_model(folder, dropout=0.1), args=args, train_dataset=toy_rows(48), eval_dataset=rows, callbacks=callbacks
    )


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_log(folder / "run") if line["kind"] == kind]


def rates(folder: Path) -> list[float]:
    return [line["lr_decoder"] for line in lines(folder, "train")]


def test_minutes_hold_the_evaluation_and_the_save_at_the_end(tmp_path: Path, clock: Clock) -> None:
    before = clock.now
    out = trainer_of(tmp_path, validates=True, max_minutes=2).train()
    assert 0.85 * 2 * MINUTE < clock.now - before <= 2 * MINUTE
    found = rates(tmp_path)
    assert len(found) == out.global_step > 20
    assert max(found) > 0.8 * PEAK and found[-1] < 0.12 * PEAK
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1]) and found[top:] == sorted(found[top:], reverse=True)
    assert top == pytest.approx(0.1 * len(found), abs=3)
    assert lines(tmp_path, "eval")[-1]["step"] == out.global_step


def test_minutes_of_a_command_count_from_its_start(tmp_path: Path, clock: Clock) -> None:
    trainer = trainer_of(tmp_path, max_minutes=1)
    trainer.started = clock.now - 40  # reading and joining
    before = clock.now
    trainer.train()
    assert clock.now - before <= 20


def test_steps_that_become_slower_end_in_time(tmp_path: Path, clock: Clock) -> None:
    class Slower(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            clock.now += 5.0 if state.global_step in (6, 11) else 0.0  # someone else computes

    before = clock.now
    trainer_of(tmp_path, Slower(), max_minutes=1).train()
    assert clock.now - before <= MINUTE
    assert rates(tmp_path)[-1] < 0.25 * PEAK


def test_a_budget_that_is_used_up_at_once_takes_one_step(tmp_path: Path, clock: Clock) -> None:
    trainer = trainer_of(tmp_path, max_minutes=1)
    trainer.started = clock.now - 60
    with pytest.warns(ConjoinWarning, match="max_minutes = 1, 0 s are left for training: 60 s are used by now"):
        assert trainer.train().global_step == 1


@pytest.mark.parametrize("limits", [{"max_minutes": 1.0}, {"max_tokens": 2000}])
def test_a_killed_run_goes_on_exactly(limits: dict[str, Any], tmp_path: Path, clock: Clock) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = trainer_of(whole, **limits)
    out = first.train()
    with pytest.raises(RuntimeError, match="killed"):
        trainer_of(killed, Dies(10), **limits).train()
    clock.now += 10_000  # it is noticed the next day
    again = trainer_of(killed, **limits)
    assert again.train(resume_from_checkpoint=True).global_step == out.global_step
    torch.testing.assert_close(weights(again.model), weights(first.model), rtol=0, atol=0)
    assert rates(killed) == rates(whole)


def test_time_that_a_stopped_run_has_used_counts(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        trainer_of(tmp_path, Dies(8), max_minutes=1).train()
    before = clock.now
    trainer_of(tmp_path, max_minutes=1).train(resume_from_checkpoint=True)
    assert clock.now - before < MINUTE - 10


@pytest.mark.parametrize("before", [{"max_minutes": 1.0}, {"max_steps": 20}])
def test_more_minutes_stretch_the_schedule(before: dict[str, Any], tmp_path: Path, clock: Clock) -> None:
    """A run of one minute, at its end, is a quarter of one of four."""
    trainer_of(tmp_path, **before).train()
    steps, began = len(rates(tmp_path)), clock.now
    trainer_of(tmp_path, max_minutes=4.0).train(resume_from_checkpoint=True)
    after = rates(tmp_path)[steps:]
    is_minutes = "max_minutes" in before
    assert clock.now - began == pytest.approx((3 if is_minutes else 4) * MINUTE, abs=12)
    assert len(after) > 2 * steps and after[-1] < 0.05 * PEAK
    assert after[0] == pytest.approx(PEAK * (0.75 / 0.9 if is_minutes else 0), abs=0.06 * PEAK)


def test_steps_of_fewer_minutes_are_not_repeated_at_the_rates_they_had(tmp_path: Path, clock: Clock) -> None:
    """Killed near the end of a minute, four steps after its checkpoint; their rates were those of a run of a minute."""
    with pytest.raises(RuntimeError, match="killed"):
        trainer_of(tmp_path, Dies(19), max_minutes=1.0, save_steps=16).train()
    trainer_of(tmp_path, max_minutes=6.0, save_steps=16).train(resume_from_checkpoint=True)
    again = rates(tmp_path)[16:20]
    assert min(again) > 0.85 * PEAK


def test_tokens_are_counted_and_the_rate_follows_them(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_tokens=2000)
    trainer.train()
    checkpoint = RunFolder(tmp_path / "run").newest()
    assert checkpoint is not None
    state = checkpoint.state()
    assert trainer.train_examples is not None
    longest = int(trainer.train_examples.lengths.sum(1).max()) * 8
    assert 2000 <= state.tokens_seen < 2000 + longest and state.max_steps == 0
    found = rates(tmp_path)
    shares = [tokens / 2000 for tokens in _tokens_before_each_step(trainer, len(found))]
    expected = [PEAK * (share / 0.1 if share < 0.1 else (1 - share) / 0.9) for share in shares]
    assert found[1:] == pytest.approx(expected[:-1], abs=1e-5 * PEAK) or found == pytest.approx(expected, abs=1e-4)


def _tokens_before_each_step(trainer: Seq2SeqTrainer, steps: int) -> list[int]:
    from conjoin.training.data.batching import ByRows, Plan

    assert trainer.train_examples is not None
    lengths = trainer.train_examples.lengths
    plan = Plan(lengths=lengths, batching=ByRows(8), sampling="group_by_length", seed=42, batches_per_step=1)
    batches = [batch for epoch in range(9) for batch in plan.epoch(epoch)][:steps]
    sizes = [int(sum(lengths[row[0]].sum() for row in batch)) for batch in batches]
    return [sum(sizes[:at]) for at in range(steps)]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"max_minutes": 1, "max_steps": 5}, "max_steps and max_minutes are given; expected one of them"),
    ({"max_minutes": 1, "max_tokens": 5}, "max_minutes and max_tokens are given"),
    ({"max_minutes": 1, "warmup_steps": 10}, "warmup_steps = 10 with max_minutes; expected a part of the budget"),
    ({"max_tokens": 100, "encoder_warmup_steps": 5}, "encoder_warmup_steps = 5 with max_tokens"),
    ({"max_tokens": 100, "lr_scheduler_type": "noam"}, "max_tokens with a schedule that counts steps"),
    ({"max_minutes": 0}, "max_minutes = 0; expected a number above 0"),
]


@pytest.mark.parametrize(("values", "told"), WRONG)
def test_what_does_not_go_with_a_budget_is_an_error(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        TrainingArguments(**values)


def test_dropout_begins_with_the_second_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[bool] = []
    step: Any = Engine.step

    def watched(self: Engine, *given: Any) -> Any:
        found = step(self, *given)
        modes.append(self.model.decoder.training)
        return found

    monkeypatch.setattr(Engine, "step", watched)
    trainer_of(tmp_path, max_steps=10, warmup_steps=0, dropout_from_epoch=1.0).train()
    assert modes == [False] * 6 + [True] * 4
