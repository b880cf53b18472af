"""A run that goes wrong is noticed: it goes back to a good step, or starts again with a safer recipe, and says so."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from conjoin import Seq2SeqTrainer, TrainingError
from conjoin.training import TrainerCallback
from conjoin.training.folder.metrics_log import read_log
from conjoin.training.folder.run_folder import RunFolder
from conjoin.training.loop import recovery
from conjoin.training.loop.recovery import is_spike
from conjoin.training.torch.engine import Engine
from training_toys import arguments, toy_model, toy_rows, weights


def trainer_of(folder: Path, *callbacks: TrainerCallback, **changes: Any) -> Seq2SeqTrainer:
    args = arguments(folder / "run", recover=True, **changes)
    model = toy_model(folder, dropout=0.1)
    return Seq2SeqTrainer(model, args=args, train_dataset=toy_rows(96), callbacks=callbacks)


def told(folder: Path) -> list[str]:
    return [line["what"] for line in read_log(folder / "run") if line["kind"] == "event"]


def rates(folder: Path, part: str = "decoder") -> list[float]:
    return [line[f"lr_{part}"] for line in read_log(folder / "run") if line["kind"] == "train"]


def break_weights(monkeypatch: pytest.MonkeyPatch, factors: dict[int, float]) -> None:
    """Multiply the decoder's weights after these steps, once in the whole test; a factor of NaN is not finite."""
    step: Any = Engine.step

    def broken(self: Engine, number: int, *given: Any) -> Any:
        finite = step(self, number, *given)
        factor = factors.pop(number, 1.0)
        if factor != 1.0:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.mul_(factor if name.startswith("decoder") else 1.0)
        return finite and not math.isnan(factor)

    monkeypatch.setattr(Engine, "step", broken)


def test_a_number_that_is_not_finite_sends_the_run_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_weights(monkeypatch, {7: float("nan")})
    trainer = trainer_of(tmp_path, max_steps=12, logging_steps=1, lr_scheduler_type="constant", save_steps=5)
    assert trainer.train().global_step == 12
    (event,) = told(tmp_path)
    assert "not a finite number at step 7" in event and "back to the weights of step 5" in event
    assert event in capsys.readouterr().err
    assert rates(tmp_path) == [1e-2] * 7 + [5e-3] * 5
    assert all(tensor.isfinite().all() for tensor in weights(trainer.model).values())


def test_a_run_that_keeps_failing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_weights(monkeypatch, dict.fromkeys(range(3, 10), float("nan")))
    with pytest.raises(TrainingError, match="not a finite number any more at step 6"):
        trainer_of(tmp_path, max_steps=12).train()
    assert len(told(tmp_path)) == recovery.MOST_RETURNS


def test_without_recovery_the_first_one_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_weights(monkeypatch, {3: float("nan")})
    trainer = Seq2SeqTrainer(toy_model(tmp_path), args=arguments(tmp_path / "run"), train_dataset=toy_rows(96))
    with pytest.raises(TrainingError, match="not a finite number any more at step 3"):
        trainer.train()


def test_a_spike_of_the_loss_sends_the_run_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "WINDOW", 4)
    monkeypatch.setattr(recovery, "SNAPSHOT_STEPS", 8)
    break_weights(monkeypatch, {33: 40.0})
    trainer = trainer_of(tmp_path, max_steps=48, learning_rate=1e-3, lr_scheduler_type="constant", logging_steps=4)
    trainer.train()
    (event,) = told(tmp_path)
    assert event.startswith("The loss rose to") and "back to the weights of step 32" in event
    losses = [line["loss"] for line in read_log(tmp_path / "run") if line["kind"] == "train"]
    assert max(losses[9:]) < min(losses[:2])
    assert rates(tmp_path)[-1] == 5e-4


def test_what_is_a_spike() -> None:
    calm = [3.1, 3.0, 3.05, 2.95, 3.0, 2.9]
    assert is_spike(calm, 6.0) and is_spike(calm, 4.2)
    assert not is_spike(calm, 3.3) and not is_spike(calm, 2.0)
    assert not is_spike(calm[:3], 9.0)
    assert not is_spike([0.02, 0.03, 0.02, 0.02, 0.03], 0.3)
    assert not is_spike([9.0, 7.0, 6.0, 5.0, 4.5], 6.5)


UNREADING: dict[str, Any] = {
    "max_steps": 60,
    "learning_rate": 0.5,
    "logging_steps": 1,
    "save_steps": 20,
    "max_grad_norm": 0.0,
}
"""A rate at which nothing is learnt."""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading is judged after a few steps."""
    monkeypatch.setattr(recovery, "UNREAD_STEPS", 5)


@pytest.mark.usefixtures("soon")
def test_a_model_that_does_not_read_starts_again_once_with_a_safer_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(tmp_path, **UNREADING)
    first = weights(trainer.model)
    met: dict[int, dict[str, torch.Tensor]] = {}

    class Look(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            met[state.global_step] = weights(trainer.model)

    trainer.callbacks.append(Look())
    assert trainer.train().global_step == 60
    (event,) = told(tmp_path)
    assert "does not read its sources" in event and event in capsys.readouterr().err
    torch.testing.assert_close(met[6], first, rtol=0, atol=0)
    after, encoder = rates(tmp_path)[6:], rates(tmp_path, "encoder")[6:]
    assert 0 < max(after) <= 1e-3 and after[-1] < 0.05 * max(after) and max(encoder) < max(after) / 15
    assert after.index(max(after)) == pytest.approx(0.1 * len(after), abs=1.5)  # the warm-up begins anew
    readings = [line["source_gain"] for line in read_log(tmp_path / "run") if line["kind"] == "reading"]
    assert len(readings) == 10


@pytest.mark.usefixtures("soon")
def test_a_run_that_started_again_is_resumed_exactly(tmp_path: Path) -> None:
    class Dies(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            if state.global_step == 33:
                raise RuntimeError("killed")

    first = trainer_of(tmp_path / "whole", **UNREADING)
    first.train()
    with pytest.raises(RuntimeError, match="killed"):
        trainer_of(tmp_path / "killed", Dies(), **UNREADING).train()
    again = trainer_of(tmp_path / "killed", **UNREADING)
    again.train(resume_from_checkpoint=True)
    torch.testing.assert_close(weights(again.model), weights(first.model), rtol=0, atol=0)
    checkpoint = RunFolder(tmp_path / "killed" / "run").newest()
    assert checkpoint is not None and checkpoint.state().restarts == 1


@pytest.mark.usefixtures("soon")
def test_a_run_that_starts_again_need_not_beat_what_it_was_before(tmp_path: Path) -> None:
    """Evaluations before the restart, at step 6, may have been better than those of the steps that follow it."""
    evaluated: dict[int, int] = {}

    class Look(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            evaluated[state.global_step] = state.evaluations_without_progress

    def evaluate(*given: Any, **named: Any) -> dict[str, float]:
        return {"eval_loss": 0.1 if len(evaluated) < 2 else 5.0 - 0.01 * len(evaluated)}

    stops = {"early_stopping_patience": 3, "load_best_model_at_end": True}
    args = arguments(tmp_path / "run", recover=True, **UNREADING, **stops, eval_strategy="steps", eval_steps=2)
    trainer = Seq2SeqTrainer(
        toy_model(tmp_path), args=args, train_dataset=toy_rows(96), eval_dataset=toy_rows(8, 1), callbacks=[Look()]
    )
    trainer.evaluate = evaluate  # type: ignore[method-assign]
    assert trainer.train().global_step == 60 and len(told(tmp_path)) == 1
    assert 6 not in evaluated and evaluated[8] == 0
    newest = RunFolder(tmp_path / "run").newest()
    assert newest is not None and newest.state().best_step == 60


@pytest.mark.usefixtures("soon")
def test_a_gain_that_is_no_number_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conjoin.training.loop.evaluator.Evaluator.source_gain", lambda *_: math.nan)
    trainer_of(tmp_path, **UNREADING | {"learning_rate": 1e-3}).train()
    assert told(tmp_path) == []


@pytest.mark.usefixtures("soon")
@pytest.mark.filterwarnings("ignore:The model does not read its sources")
@pytest.mark.parametrize("longer", [{"max_steps": 240}, {"max_steps": -1, "num_train_epochs": 25}])
def test_a_run_that_started_again_may_be_lengthened(tmp_path: Path, longer: dict[str, Any]) -> None:
    trainer_of(tmp_path, **UNREADING).train()
    trainer_of(tmp_path, **UNREADING | longer).train(resume_from_checkpoint=True)
    after = rates(tmp_path)[60:]
    assert len(after) > 150 and min(after) >= 0
    # the restart was at step 6 of 60, and its schedule reaches from there to the new end
    restart, total = 6, 60 + len(after)
    peak, warmup = max(rates(tmp_path)[6:60]), 0.1
    done = (60 - restart) / (total - restart)
    assert after[0] == pytest.approx(peak * (1 - done) / (1 - warmup), rel=0.1)
    assert after == sorted(after, reverse=True)


@pytest.mark.usefixtures("soon")
def test_a_model_that_reads_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains = iter([0.5] * 10)
    monkeypatch.setattr("conjoin.training.loop.evaluator.Evaluator.source_gain", lambda *_: next(gains))
    trainer_of(tmp_path, **UNREADING | {"learning_rate": 1e-3}).train()
    assert told(tmp_path) == []
