"""`conjoin train --framework jax`: the PyTorch run's numbers, files and reports."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import conjoin.cli
from conjoin import ConfigError, EncoderDecoderModel, TrainingError
from conjoin.training.callbacks import TrainerCallback
from conjoin.training.jax.batches import in_few_shapes, rung
from conjoin.training.launch import launch
from conjoin.training.recipe import Recipe
from jax_models import CLOSE
from training_toys import toy_model, toy_rows, write_rows

RUN: dict[str, Any] = {
    "model": "model",
    "train": "train.jsonl",
    "validation": "validation.jsonl",
    "max_steps": 6,
    "save_steps": 3,
    "logging_steps": 1,
    "learning_rate": 3e-3,
    "weight_decay": 0.1,
    "gradient_accumulation_steps": 2,
    "label_smoothing_factor": 0.1,
    "ema_decay": 0.9,
    "warmup_steps": 2,
    "encoder_learning_rate": 1e-3,
    "eval_samples": 2,
    "doctor": False,
    "use_cpu": True,
    "report_to": "none",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and data in it."""
    folder = tmp_path_factory.mktemp("runs")
    toy_model(folder).save_pretrained(folder / "model")
    write_rows(folder / "train.jsonl", toy_rows(70))
    write_rows(folder / "validation.jsonl", toy_rows(6, 1))
    return folder


def train(framework: str, out: str, *callbacks: TrainerCallback, **changes: Any) -> list[dict[str, Any]]:
    """Run; what it recorded."""
    launch(Recipe.of({**RUN, "framework": framework, "out": out, **changes}), callbacks=callbacks)
    return [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]


def test_a_run_goes_as_on_torch_and_goes_on_after_a_stop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    theirs, ours = train("torch", "torch"), train("jax", "jax")
    assert [line["kind"] for line in ours] == [line["kind"] for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name, value in other.items():
            if name.startswith(("loss", "grad_norm", "lr_", "eval_loss", "step", "epoch")):
                assert mine[name] == pytest.approx(value, rel=1e-3), name
            if name in ("source", "target", "prediction"):
                assert mine[name] == value
    files = {path.name for path in Path("torch").iterdir()}
    assert {path.name for path in Path("jax").iterdir()} >= files - {"attention.json"}
    one, other = (EncoderDecoderModel.from_pretrained(name).state_dict() for name in ("jax", "torch"))
    for name, value in other.items():
        np.testing.assert_allclose(one[name], value, rtol=1e-2, atol=1e-3)

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            control.should_training_stop = state.global_step == 3

    train("jax", "stopped", Stop())
    train("jax", "stopped", resume_from_checkpoint="latest")
    again = EncoderDecoderModel.from_pretrained("stopped").state_dict()
    for name, value in one.items():
        np.testing.assert_allclose(again[name], value, **CLOSE)
    with pytest.raises(TrainingError, match="another framework wrote"):
        train("jax", "torch", resume_from_checkpoint="latest")


def test_packed_rows_metrics_and_frozen_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    changes = {"tokens_per_batch": 60, "packing": True, "max_steps": 2, "freeze": "encoder", "bf16": True}
    more = {"predict_with_generate": True, "metrics": "exact_match", "gradient_checkpointing": True, "ema_decay": None}
    lines = train("jax", "packed", **changes, **more, gradient_accumulation_steps=1)
    assert any("eval_exact_match" in line for line in lines)
    before, after = (EncoderDecoderModel.from_pretrained(name).state_dict() for name in ("model", "packed"))
    moved = {name.split(".")[0] for name, value in before.items() if not value.equal(after[name])}
    assert "decoder" in moved and "encoder" not in moved


def test_the_command_takes_the_word_and_refuses_what_is_torchs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="framework = jax: fp16"):
        train("jax", "wrong", fp16=True)
    with pytest.raises(SystemExit) as end:
        conjoin.cli.main(
            ["train", "--framework", "theano", "--model", "model", "--train", "train.jsonl", "--out", "no"]
        )
    assert end.value.code == 1


def test_batches_come_in_few_shapes() -> None:
    assert [rung(size) for size in (1, 2, 3, 4, 5, 7, 9, 13, 17, 25)] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    ids = np.arange(1, 11).reshape(2, 5)
    made = in_few_shapes({"input_ids": ids, "labels": np.full((2, 9), 4)}, 0, (8, None))
    assert {name: array.shape for name, array in made.items()} == {
        "input_ids": (2, 8),
        "labels": (2, 16),
        "attention_mask": (2, 8),
    }
    assert made["attention_mask"].sum() == 10 and (made["labels"] == -100).sum() == 14
