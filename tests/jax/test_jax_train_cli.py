"""`conjoin train --framework jax`: the PyTorch run's numbers, files and reports; each goes on where the other was."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import conjoin.cli
import jax_models  # noqa: F401  (the tests' settings of JAX)
from conjoin import ConfigError, EncoderDecoderModel, TrainingError
from conjoin.training.jax.batches import in_few_shapes, rung
from conjoin.training.launch import launch
from conjoin.training.loop.callbacks import TrainerCallback
from conjoin.training.settings.recipe import Recipe
from training_toys import halves, toy_model, toy_rows, write_rows

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
    "use_cpu": True,
    "report_to": "none",
    "auto": "none",
}
OTHER = {"torch": "jax", "jax": "torch"}
NEAR = {"rtol": 1e-2, "atol": 1e-3}
"""Adam divides by the root of tiny squares: what is left of rounding grows in six steps."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and data in it."""
    folder = tmp_path_factory.mktemp("runs")
    toy_model(folder).save_pretrained(folder / "model")
    write_rows(folder / "train.jsonl", toy_rows(70))
    write_rows(folder / "validation.jsonl", toy_rows(6, 1))
    return folder


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


class Stop(TrainerCallback):
    """Stops after step 3, with a checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        control.should_training_stop = state.global_step == 3


def train(framework: str, out: str, *callbacks: TrainerCallback, **changes: Any) -> list[dict[str, Any]]:
    """Run; what it recorded."""
    launch(Recipe.of({**RUN, "framework": framework, "out": out, **changes}), callbacks=callbacks)
    return [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The same run on both frameworks, uninterrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return {framework: train(framework, framework) for framework in OTHER}


def assert_same_lines(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [line["kind"] for line in ours] == [line["kind"] for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert set(mine) == set(other)
        for name, value in other.items():
            if name.startswith(("loss", "grad_norm", "lr_", "eval_loss", "step", "epoch")):
                assert mine[name] == pytest.approx(value, rel=1e-3), name
            if name in ("source", "target", "prediction"):
                assert mine[name] == value


def assert_same_weights(one: str, other: str, **tolerance: float) -> None:
    first, second = (EncoderDecoderModel.from_pretrained(name).state_dict() for name in (one, other))
    for name, value in second.items():
        np.testing.assert_allclose(first[name], value, **tolerance, err_msg=name)


@pytest.mark.slow
def test_a_run_goes_as_on_torch_and_leaves_the_same_files(whole: dict[str, list[dict[str, Any]]]) -> None:
    assert_same_lines(whole["jax"], whole["torch"])
    files = {name: {path.name for path in Path(name).iterdir()} for name in OTHER}
    assert files["jax"] == files["torch"] >= {"attention.json", "report.html", "README.md", "checkpoint-6"}
    assert_same_weights("jax", "torch", **NEAR)
    seen = {name: json.loads(Path(name, "attention.json").read_text()) for name in OTHER}
    for mine, other in zip(seen["jax"], seen["torch"], strict=True):
        assert (mine["source"], mine["target"]) == (other["source"], other["target"])
        np.testing.assert_allclose(mine["layers"], other["layers"], atol=2e-3)
    assert "What the decoder reads" in Path("jax", "report.html").read_text()


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_bit(whole: dict[str, list[dict[str, Any]]]) -> None:
    train("jax", "stopped", Stop())
    train("jax", "stopped", resume_from_checkpoint="latest")
    assert Path("stopped", "model.safetensors").read_bytes() == Path("jax", "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("first", OTHER)
def test_a_run_goes_on_in_the_other_framework(first: str, whole: dict[str, list[dict[str, Any]]]) -> None:
    out = f"{first}-then-{OTHER[first]}"
    before = len(train(first, out, Stop()))
    lines = train(OTHER[first], out, resume_from_checkpoint="latest")
    assert [line["step"] for line in lines[before:] if line["kind"] == "train"] == [4, 5, 6]
    losses = {
        name: [line["loss"] for line in found if line["kind"] == "train"]
        for name, found in {"whole": whole[first], "cut": lines}.items()
    }
    assert losses["cut"] == pytest.approx(losses["whole"], rel=1e-3)
    assert_same_weights(out, first, **NEAR)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"share": "all"}, {"fresh_first": 4}], ids=lambda changes: next(iter(changes)))
@pytest.mark.parametrize("first", OTHER)
def test_moments_find_their_parameters_in_the_other_framework(
    first: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    encoder, decoder = halves(tmp_path)
    if "share" in changes:  # the same checkpoint twice
        decoder = encoder
    sources = {"model": None, "encoder": str(encoder), "decoder": str(decoder), "train": "train.jsonl"}
    settings = {**sources, **changes, "ema_decay": None, "validation": None, "gradient_accumulation_steps": 1}
    settings |= {"doctor": False}
    train(first, str(tmp_path / "whole"), **settings)
    train(first, str(tmp_path / "cut"), Stop(), **settings)
    train(OTHER[first], str(tmp_path / "cut"), resume_from_checkpoint="latest", **settings)
    assert_same_weights(str(tmp_path / "cut"), str(tmp_path / "whole"), **NEAR)


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_is_refused(whole: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    resume = {"resume_from_checkpoint": "latest"}
    for framework in OTHER:
        with pytest.raises(TrainingError, match="its optimizer does not fit this run: ema_decay was set in one"):
            train("jax", framework, **resume, ema_decay=None, max_steps=8)
        with pytest.raises(TrainingError, match=r"optimizer does not fit this run: .* is trained by the checkpoint's"):
            train("jax", framework, **resume, freeze="encoder", max_steps=8)
        with pytest.raises(TrainingError, match="another order of batches"):
            train("jax", framework, **resume, seed=3)
        with pytest.raises(TrainingError, match="holds a run already"):
            train("jax", framework)
    checkpoint = tmp_path / "checkpoint-6"
    shutil.copytree("torch/checkpoint-6", checkpoint, ignore=shutil.ignore_patterns("optimizer.*"))
    (checkpoint / "shards").mkdir()
    with pytest.raises(TrainingError, match=r"in shards without an index\.json") as caught:
        train("jax", "torch", resume_from_checkpoint=str(checkpoint), max_steps=8)
    assert "pickles" in str(caught.value)


@pytest.mark.slow
def test_packed_rows_metrics_and_frozen_parts() -> None:
    changes = {"tokens_per_batch": 60, "packing": True, "max_steps": 2, "freeze": "encoder", "bf16": True}
    more = {"predict_with_generate": True, "metrics": "exact_match", "gradient_checkpointing": True, "ema_decay": None}
    lines = train("jax", "packed", **changes, **more, gradient_accumulation_steps=1)
    assert any("eval_exact_match" in line for line in lines)
    before, after = (EncoderDecoderModel.from_pretrained(name).state_dict() for name in ("model", "packed"))
    moved = {name.split(".")[0] for name, value in before.items() if not value.equal(after[name])}
    assert "decoder" in moved and "encoder" not in moved


def test_the_command_takes_the_word_and_refuses_what_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    for changes, named in (
        ({"fp16": True}, "fp16"),
        ({"torch_compile": True, "fsdp": "full"}, "torch_compile, fsdp"),
        ({"teacher": "model", "lora": 4, "r_drop": 1.0}, "teacher, lora, r_drop"),
    ):
        with pytest.raises(ConfigError, match=f"Not possible with framework = jax: {named}"):
            train("jax", "wrong", **changes)
    with pytest.raises(ConfigError, match="weights are trained in float32"):
        train("jax", "wrong", dtype="bfloat16")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process, and a launcher started 2"):
        train("jax", "wrong")
    assert not Path("wrong").exists()
    with pytest.raises(SystemExit) as end:
        conjoin.cli.main(
            ["train", "--framework", "theano", "--model", "model", "--train", "train.jsonl", "--out", "no"]
        )
    assert end.value.code == 1


_ALONE = """
import sys
from conjoin.training.launch import launch
from conjoin.training.settings.recipe import Recipe
from conjoin.training.loop.callbacks import TrainerCallback

class Die(TrainerCallback):
    def on_step_end(self, args, state, control, **keywords):
        if state.global_step == int(sys.argv[3]):
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)

launch(Recipe.of(eval(sys.argv[1])), callbacks=[Die()])
assert sys.argv[2] not in sys.modules, sys.argv[2]
"""


def alone(framework: str, out: str, *, dies: int = 0, **changes: Any) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own, which may not import the other framework and may be killed after a step."""
    words = {**RUN, "framework": framework, "out": out, "resume": True, **changes}
    cache = {f"JAX_{name}": str(jax.config.values[f"jax_{name.lower()}"]) for name in _CONFIG}
    environment = {**os.environ, **cache, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-W", "ignore", "-c", _ALONE, repr(words), OTHER[framework], str(dies)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


_CONFIG = ("PLATFORMS", "COMPILATION_CACHE_DIR", "DEFAULT_MATMUL_PRECISION", "DISABLE_MOST_OPTIMIZATIONS")


@pytest.mark.slow
@pytest.mark.parametrize("framework", OTHER)
def test_the_other_framework_is_not_imported(framework: str) -> None:
    done = alone(framework, f"{framework}-alone", max_steps=1, ema_decay=None)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(whole: dict[str, list[dict[str, Any]]]) -> None:
    for step in (2, 4, 5):
        assert alone("jax", "killed", dies=step).returncode == -9
    done = alone("jax", "killed")
    assert done.returncode == 0, done.stderr[-3000:]
    assert Path("killed", "model.safetensors").read_bytes() == Path("jax", "model.safetensors").read_bytes()


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
