"""Two processes do what one does: DDP and FSDP2, saved by one number of processes and resumed by another."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from conjoin import ConfigError, EncoderDecoderModel, Seq2SeqTrainer
from training_toys import arguments, halves, toy_model, toy_rows, weights

WORKER = Path(__file__).with_name("train_workers") / "processes.py"
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def worker() -> ModuleType:
    """The worker's file as a module."""
    spec = importlib.util.spec_from_file_location("processes", WORKER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of all runs: those of one process made here, those of two by torchrun."""
    folder = tmp_path_factory.mktemp("runs")
    halves(folder)
    train = worker().train
    train(folder, "one", processes=1)
    train(folder, "one-fresh", processes=1, fresh_first=2)
    train(folder, "one-average", processes=1, ema_decay=0.5)
    train(folder, "one-constant", processes=1, lr_scheduler_type="constant")
    train(folder, "one-average-constant", processes=1, ema_decay=0.5, lr_scheduler_type="constant")
    train(folder, "one-then-ddp", processes=1, max_steps=2, lr_scheduler_type="constant")
    train(folder, "one-to-fsdp", processes=1, max_steps=2, lr_scheduler_type="constant")
    tests = WORKER.parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", WORKER, folder]
    environment = {**os.environ, "PYTHONPATH": f"{tests.parent / 'src'}:{tests / 'support'}", "OMP_NUM_THREADS": "1"}
    work = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=300)
    assert work.returncode == 0, work.stderr[-4000:]
    train(folder, "fsdp-to-one", processes=1, resume=True, lr_scheduler_type="constant")
    return folder


def saved(folder: Path) -> dict[str, torch.Tensor]:
    return weights(EncoderDecoderModel.from_pretrained(folder))


@pytest.mark.parametrize(
    ("two", "one"),
    [
        ("ddp", "one"),
        ("ddp-fresh", "one-fresh"),
        ("fsdp", "one-average"),
        ("fsdp-cut", "one-average-constant"),
        ("fsdp-to-one", "one-constant"),
        ("one-to-fsdp", "one-constant"),
    ],
)
def test_processes_change_no_weight(two: str, one: str, runs: Path) -> None:
    torch.testing.assert_close(saved(runs / two), saved(runs / one), **CLOSE)


@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize(("two", "one"), [("ddp", "one"), ("fsdp", "one-average")])
def test_checkpoints_of_processes_hold_the_same_weights(step: int, two: str, one: str, runs: Path) -> None:
    folders = (runs / name / f"checkpoint-{step}" for name in (two, one))
    torch.testing.assert_close(*(saved(folder) for folder in folders), **CLOSE)


@pytest.mark.parametrize(("two", "one"), [("ddp", "one"), ("fsdp", "one-average")])
def test_processes_log_the_loss_of_the_whole_batch(two: str, one: str, runs: Path) -> None:
    from conjoin.training.folder.metrics_log import read_log

    def told(name: str) -> list[Any]:
        lines = list(read_log(runs / name))
        return [(line["step"], line.get("loss") or line.get("eval_loss") or 0.0) for line in lines]

    assert [step for step, _ in told(two)] == [step for step, _ in told(one)]
    assert [loss for _, loss in told(two)] == pytest.approx([loss for _, loss in told(one)], rel=1e-4)


def test_a_sharded_model_generates_what_the_saved_one_does(runs: Path) -> None:
    model = EncoderDecoderModel.from_pretrained(runs / "fsdp")
    trainer = Seq2SeqTrainer(model, args=arguments(runs / "again"))
    assert trainer.predict(toy_rows(9, 1)).predictions == (runs / "fsdp" / "predictions.txt").read_text().split("\n")


@pytest.mark.slow
def test_shards_are_plain_tensors_that_jax_goes_on_from(runs: Path, tmp_path: Path) -> None:
    checkpoint = runs / "fsdp-to-one" / "checkpoint-2"
    assert sorted(path.name for path in (checkpoint / "shards").iterdir()) == [
        "index.json",
        "process-0.safetensors",
        "process-1.safetensors",
    ]
    pytest.importorskip("jax")
    from conjoin import FlaxEncoderDecoderModel
    from conjoin.training.jax.trainer import Seq2SeqTrainer as OnJax

    changes: dict[str, Any] = {
        "max_grad_norm": 0.5,
        "adam_epsilon": 1e-3,
        "lr_scheduler_type": "constant",
        "max_steps": 5,
    }
    trainer = OnJax(
        FlaxEncoderDecoderModel.from_pretrained(checkpoint),
        args=arguments(tmp_path / "run", gradient_accumulation_steps=4, **changes),
        train_dataset=toy_rows(56, 2),
    )
    trainer.train(resume_from_checkpoint=str(checkpoint))
    torch.testing.assert_close(saved(tmp_path / "run"), saved(runs / "one-constant"), rtol=1e-3, atol=1e-5)


def test_another_number_of_processes_goes_on_with_the_same_batches(runs: Path) -> None:
    torch.testing.assert_close(
        saved(runs / "one-then-ddp" / "checkpoint-2"), saved(runs / "one-constant" / "checkpoint-2")
    )
    steps = [int(path.name[11:]) for path in (runs / "one-then-ddp").glob("checkpoint-*")]
    assert sorted(steps) == [2, 3, 4, 5]


def test_what_cannot_be_sharded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fsdp needs several processes"):
        Seq2SeqTrainer(toy_model(tmp_path), args=arguments(tmp_path, fsdp="full")).engine()
    with pytest.raises(ConfigError, match="does not go with fp16"):
        arguments(tmp_path, fsdp="full", fp16=True)
    with pytest.raises(ConfigError, match="does not go with fresh_first"):
        arguments(tmp_path, fsdp="full", fresh_first=3)
