"""The mean of the weights at the last evaluations: what it is made of, when it is taken, and that it resumes."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from conjoin import ConfigError, EncoderDecoderModel, Seq2SeqTrainer
from conjoin.torch.pair.pretrained import plain_state
from conjoin.training import TrainerCallback
from conjoin.training.loop.interrupts import Stopped
from training_toys import arguments, toy_model, toy_rows, weights


class Keep(TrainerCallback):
    """Keeps copies of the weights at every evaluation, or at every checkpoint."""

    def __init__(self) -> None:
        self.evaluated: dict[int, dict[str, torch.Tensor]] = {}
        self.saved: dict[int, dict[str, torch.Tensor]] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.evaluated[state.global_step] = weights(keywords["model"])

    def on_save(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        self.saved[state.global_step] = weights(keywords["model"])


class Stop(TrainerCallback):
    """Ends the process after a step, as a kill does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def trainer_of(folder: Path, *callbacks: TrainerCallback, **changes: Any) -> Seq2SeqTrainer:
    settings: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "max_steps": 8}
    evaluates = changes.get("eval_strategy") != "no"
    return Seq2SeqTrainer(
        toy_model(folder, dropout=0.1),
        args=arguments(folder / "run", **{**settings, "average_checkpoints": 3, **changes}),
        train_dataset=toy_rows(48),
        eval_dataset=toy_rows(12, 1) if evaluates else None,
        callbacks=callbacks,
    )


def mean(kept: dict[int, dict[str, torch.Tensor]], *steps: int) -> dict[str, torch.Tensor]:
    return {name: sum(kept[step][name] for step in steps) / len(steps) for name in kept[steps[0]]}


def final(folder: Path) -> dict[str, torch.Tensor]:
    return plain_state(EncoderDecoderModel.from_pretrained(folder / "run"))


def test_the_final_model_is_the_mean_of_the_last_evaluations(tmp_path: Path, capsys: Any) -> None:
    keep = Keep()
    # at a rate that jumps about, the mean is far better than any of its parts
    trainer = trainer_of(tmp_path, keep, learning_rate=3e-2, lr_scheduler_type="constant")
    trainer.train()
    told = capsys.readouterr().err
    assert "steps 4, 6, 8 is the final model: loss" in told
    expected = mean(keep.evaluated, 4, 6, 8)
    for name, parameter in final(tmp_path).items():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-6, atol=1e-7)
    loss = trainer.evaluate()["eval_loss"]
    assert f"| loss | {loss:.4g} |" in (tmp_path / "run" / "README.md").read_text()
    assert not (tmp_path / "run" / "averaging").exists()
    last = EncoderDecoderModel.from_pretrained(tmp_path / "run" / "checkpoint-8")
    torch.testing.assert_close(plain_state(last), keep.evaluated[8], rtol=0, atol=0)


def test_a_mean_that_is_worse_is_not_taken(tmp_path: Path, capsys: Any) -> None:
    keep = Keep()
    trainer_of(tmp_path, keep, learning_rate=2e-3).train()  # the loss falls steadily, so the last weights are the best
    assert "is not better, and the final weights stay: loss" in capsys.readouterr().err
    torch.testing.assert_close(final(tmp_path), keep.evaluated[8], rtol=0, atol=0)


def test_the_mean_is_compared_with_the_best_model_where_that_is_loaded(tmp_path: Path, capsys: Any) -> None:
    keep = Keep()
    settings = {"load_best_model_at_end": True, "metric_for_best_model": "runtime", "greater_is_better": True}
    trainer = trainer_of(tmp_path, keep, **settings)
    scores = iter([5.0, 9.0, 1.0, 1.0, 7.0])
    trainer.evaluate = lambda: {"eval_runtime": next(scores)}  # type: ignore[method-assign]
    trainer.train()
    assert "runtime 7.0000 instead of 9.0000" in capsys.readouterr().err
    torch.testing.assert_close(final(tmp_path), keep.evaluated[4], rtol=0, atol=0)


def test_without_validation_data_the_last_checkpoints_are_averaged(tmp_path: Path, capsys: Any) -> None:
    keep = Keep()
    trainer_of(tmp_path, keep, eval_strategy="no").train()
    assert "steps 4, 6, 8 is the final model: there are no validation data" in capsys.readouterr().err
    expected = mean(keep.saved, 4, 6, 8)
    for name, parameter in final(tmp_path).items():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("stopped", [5, 7])
def test_a_run_that_was_killed_averages_the_same(tmp_path: Path, stopped: int) -> None:
    settings: dict[str, Any] = {"learning_rate": 3e-2, "lr_scheduler_type": "constant"}
    trainer_of(tmp_path / "whole", **settings).train()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path, Stop(stopped), **settings).train()
    trainer_of(tmp_path, **settings).train(resume_from_checkpoint=True)
    torch.testing.assert_close(final(tmp_path), final(tmp_path / "whole"), rtol=0, atol=0)


def test_a_signal_adds_nothing_to_the_mean(tmp_path: Path) -> None:
    """A run that is stopped saves the step that it has reached, at which an uninterrupted one saves nothing."""

    class Signal(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            if state.global_step == 5:
                signal.raise_signal(signal.SIGTERM)

    trainer_of(tmp_path / "whole", eval_strategy="no").train()
    with pytest.raises(Stopped):
        trainer_of(tmp_path, Signal(), eval_strategy="no").train()
    trainer_of(tmp_path, eval_strategy="no").train(resume_from_checkpoint=True)
    torch.testing.assert_close(final(tmp_path), final(tmp_path / "whole"), rtol=0, atol=0)


def test_one_evaluation_is_no_mean(tmp_path: Path) -> None:
    keep = Keep()
    trainer_of(tmp_path, keep, max_steps=2).train()
    torch.testing.assert_close(final(tmp_path), keep.evaluated[2], rtol=0, atol=0)


def test_jax_averages_too(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    import numpy as np

    from conjoin.jax.model import FlaxEncoderDecoderModel
    from conjoin.training.jax.trainer import Seq2SeqTrainer as FlaxTrainer

    toy_model(tmp_path).save_pretrained(tmp_path / "toy")
    kept: dict[int, dict[str, Any]] = {}

    class Arrays(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            kept[state.global_step] = {n: np.array(x) for n, x in keywords["model"].flat_params.items()}

    args = arguments(tmp_path / "run", average_checkpoints=2, save_steps=2, max_steps=4)
    FlaxTrainer(
        FlaxEncoderDecoderModel.from_pretrained(tmp_path / "toy"),
        args=args,
        train_dataset=toy_rows(24),
        callbacks=[Arrays()],
    ).train()
    for name, parameter in final(tmp_path).items():
        expected = (kept[2][name] + kept[4][name]) / 2
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-6, atol=1e-7)


def test_two_averages_at_once_are_refused() -> None:
    for other in ({"ema_decay": 0.9}, {"fsdp": "full"}, {"lora": 4}):
        with pytest.raises(ConfigError, match="average_checkpoints = 3 does not go with"):
            arguments(Path("x"), average_checkpoints=3, **other)
