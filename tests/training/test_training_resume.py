"""A run that was killed, whenever that was, and resumed ends with the very weights of a run that never stopped."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conjoin import EncoderDecoderConfig, EncoderDecoderModel, Seq2SeqTrainer, TrainingError
from conjoin.training import TrainerCallback
from conjoin.training.folder.run_folder import RunFolder
from conjoin.training.loop.interrupts import Interrupts, Stopped
from lanes import lanes
from training_toys import arguments, decoder_config, encoder_config, tokenizers, toy_model, toy_rows, weights

WORKERS = Path(__file__).with_name("train_workers")
POINTS = [
    "step:1",
    "step:5",
    "step:8",
    "weights:3",
    "weights:4",
    "weights:11",
    "random-states:2",
    "before-swap:2",
    "after-swap:2",
    "before-swap:6",
    "after-swap:6",
    "rotation:2",
    "log:7",
    "random",
]
"""Where a run of 9 steps with 5 saves dies; its 6th save is the final model."""
POINTS_BY_LANE = lanes(POINTS, ("step:5", "weights:4", "random-states:2", "after-swap:2", "before-swap:6").__contains__)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the runs that died at the points of this session's tests."""
    folder = tmp_path_factory.mktemp("runs")
    selected = {item.callspec.params.get("point") for item in request.session.items if hasattr(item, "callspec")}
    command = [sys.executable, WORKERS / "killed_runs.py", folder, *(point for point in POINTS if point in selected)]
    work = subprocess.run(command, check=False, capture_output=True, text=True, env=environment())
    assert work.returncode == 0, work.stderr[-3000:]
    return folder


def environment() -> dict[str, str]:
    tests = WORKERS.parents[1]
    return {**os.environ, "PYTHONPATH": f"{tests.parent / 'src'}:{tests / 'support'}", "OMP_NUM_THREADS": "1"}


def losses(run: Path) -> list[tuple[int, str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["kind"], line.get("loss", line.get("eval_loss"))) for line in lines]


@pytest.mark.parametrize("point", POINTS_BY_LANE)
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(point: str, runs: Path) -> None:
    whole, resumed = runs / "whole", runs / point
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    if point != "random":  # which logs at other steps where it saves at others
        assert [line[:2] for line in losses(resumed)] == [line[:2] for line in losses(whole)]
        values = ([line[2] for line in losses(run)] for run in (resumed, whole))
        assert next(values) == pytest.approx(next(values), rel=1e-6)


@pytest.mark.parametrize("point", POINTS_BY_LANE)
def test_nothing_is_left_lying_about(point: str, runs: Path) -> None:
    left = [path.name for path in (runs / point).iterdir() if path.name.startswith(".")]
    assert not left
    assert len(list((runs / point).glob("checkpoint-*"))) == 2


def trainer_of(folder: Path, callbacks: Any = (), **changes: Any) -> Seq2SeqTrainer:
    args = arguments(folder / "run", **{"save_steps": 2, **changes})
    return Seq2SeqTrainer(toy_model(folder, dropout=0.1), args=args, train_dataset=toy_rows(48), callbacks=callbacks)


class Stop(TrainerCallback):
    """Raises at the end of a step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


VARIANTS: list[dict[str, Any]] = [
    {"fp16": True},
    {"bf16": True, "gradient_checkpointing": True},
    {"tokens_per_batch": 200, "packing": True},
    {"fresh_first": 4},
    {"two_optimizers": True, "train_sampling_strategy": "random"},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: next(iter(changes)))
def test_every_kind_of_run_resumes_to_the_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    whole = trainer_of(tmp_path / "whole", **changes)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path / "cut", [Stop()], **changes).train()
    resumed = trainer_of(tmp_path / "cut", **changes)
    resumed.train(resume_from_checkpoint=True)
    torch.testing.assert_close(weights(resumed.model), weights(whole.model), rtol=0, atol=0)


def test_resuming_a_finished_run_changes_nothing_and_more_steps_go_on(tmp_path: Path) -> None:
    trainer_of(tmp_path).train()
    before = weights(EncoderDecoderModel.from_pretrained(tmp_path / "run"))
    out = trainer_of(tmp_path).train(resume_from_checkpoint=True)
    assert out.global_step == 6
    after = weights(EncoderDecoderModel.from_pretrained(tmp_path / "run"))
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert trainer_of(tmp_path, max_steps=8).train(resume_from_checkpoint=True).global_step == 8


def test_resume_without_a_checkpoint_begins(tmp_path: Path) -> None:
    assert trainer_of(tmp_path).train(resume_from_checkpoint="latest").global_step == 6


def test_an_older_checkpoint_may_be_named(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.train()
    again = trainer_of(tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    torch.testing.assert_close(weights(again.model), weights(trainer.model), rtol=0, atol=0)
    with pytest.raises(TrainingError, match="is no checkpoint of a training run"):
        trainer_of(tmp_path).train(resume_from_checkpoint=str(tmp_path))


def test_a_run_that_was_taken_back_leaves_no_later_checkpoint(tmp_path: Path) -> None:
    """`--resume` would go on with the run that was given up."""
    trainer_of(tmp_path, save_total_limit=9, save_steps=1).train()
    folder = RunFolder(tmp_path / "run")

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                signal.raise_signal(signal.SIGTERM)

    again = trainer_of(tmp_path, [Stop()], save_total_limit=2, save_steps=5)
    with pytest.raises(Stopped):
        again.train(resume_from_checkpoint=str(folder.checkpoint(3)))
    assert [each.step for each in folder.checkpoints()] == [3, 4]
    assert trainer_of(tmp_path).train(resume_from_checkpoint=True).global_step == 6


def test_other_data_or_batches_are_refused(tmp_path: Path) -> None:
    trainer_of(tmp_path).train()
    other = trainer_of(tmp_path, per_device_train_batch_size=4, seed=7)
    with pytest.raises(TrainingError, match=r"another order of batches \(batches: ByRows\(rows=8\) before.*seed: 42"):
        other.train(resume_from_checkpoint=True)
    other = trainer_of(tmp_path)
    other.train_examples = other._examples(toy_rows(48, seed=9), "other data")
    with pytest.raises(TrainingError, match="training data: "):
        other.train(resume_from_checkpoint=True)
    with pytest.raises(TrainingError, match="its optimizer does not fit this run: ema_decay"):
        trainer_of(tmp_path, ema_decay=0.9).train(resume_from_checkpoint=True)


def other_model(folder: Path) -> EncoderDecoderModel:
    """A decoder with one layer more."""
    pair = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder_config(), decoder_config(num_hidden_layers=3), decoder_start_token_id=2, pad_token_id=0
    )
    model = EncoderDecoderModel(config=pair)
    model.tokenizer = tokenizers(folder)
    return model


def test_another_model_is_refused(tmp_path: Path) -> None:
    trainer_of(tmp_path).train()
    args = arguments(tmp_path / "run", save_steps=2)
    model = other_model(tmp_path)
    with pytest.raises(TrainingError, match="holds another model than the one to be trained"):
        Seq2SeqTrainer(model, args=args, train_dataset=toy_rows(48)).train(resume_from_checkpoint=True)


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    trainer_of(tmp_path).train()
    (tmp_path / "run" / "checkpoint-6" / "random.pt").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(TrainingError, match=r"random.pt: cannot be read"):
        trainer_of(tmp_path).train(resume_from_checkpoint=True)
    optimizer = tmp_path / "run" / "checkpoint-6" / "optimizer.safetensors"
    optimizer.write_bytes(optimizer.read_bytes()[:-1])
    with pytest.raises(TrainingError, match=r"optimizer.safetensors: cannot be read: .*damaged"):
        trainer_of(tmp_path).train(resume_from_checkpoint=True)
    optimizer.unlink()
    with pytest.raises(TrainingError, match=r"holds no optimizer\.safetensors"):
        trainer_of(tmp_path).train(resume_from_checkpoint=True)


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "weights": cut_weights,
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "state": lambda folder: (folder / "trainer_state.json").write_text('{"global_step": 6,'),
    "another state": lambda folder: (folder / "trainer_state.json").write_text('{"steps": 6}'),
    "config": lambda folder: (folder / "config.json").write_text("{"),
    "no optimizer": lambda folder: (folder / "optimizer.safetensors").unlink(),
    "random states": lambda folder: (folder / "random.pt").write_bytes(b"PK"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three checkpoints."""
    folder = tmp_path_factory.mktemp("finished")
    trainer_of(folder, save_total_limit=None).train()
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_older_checkpoint_is_named_where_the_newest_is_damaged(damage: str, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished / "run", tmp_path / "run")
    DAMAGES[damage](run / "checkpoint-6")
    told = re.escape(f"hint: --resume-from-checkpoint {run / 'checkpoint-4'} goes on")
    with pytest.raises(TrainingError, match=rf"checkpoint-6 is damaged(.|\n)*{told}"):
        trainer_of(tmp_path).train(resume_from_checkpoint=True)
    cut_weights(run / "checkpoint-4")
    with pytest.raises(TrainingError, match=rf"hint: --resume-from-checkpoint {re.escape(str(run / 'checkpoint-2'))} "):
        trainer_of(tmp_path).train(resume_from_checkpoint=True)
    shutil.rmtree(run / "checkpoint-2")
    with pytest.raises(TrainingError, match=r"hint: (no older checkpoint|begin a new run from its weights)"):
        trainer_of(tmp_path).train(resume_from_checkpoint=True)


def test_a_full_disk_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def full(value: Any, path: Any) -> None:
        if "checkpoint-4" in str(path):
            Path(path).write_bytes(b"PK")
            raise RuntimeError("[enforce fail at inline_container.cc:862] PytorchStreamWriter failed writing file")
        save(value, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"step 4 could not be saved(.|\n)*checkpoint-2 is whole") as caught:
        trainer_of(tmp_path).train()
    assert "failed writing file" in str(caught.value)
    assert [c.step for c in RunFolder(tmp_path / "run").checkpoints()] == [2]
    monkeypatch.undo()
    assert trainer_of(tmp_path).train(resume_from_checkpoint=True).global_step == 6


def test_a_file_size_limit_of_the_system_costs_no_checkpoint(tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    trainer = trainer_of(tmp_path)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(TrainingError, match="checkpoint of step 2 could not be saved"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert not list((tmp_path / "run").glob(".checkpoint-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_with_a_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    class Send(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            if state.global_step == 3:
                os.kill(os.getpid(), number)

    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    with pytest.raises(TrainingError, match=rf"Stopped by {number.name} after step 3 of 6; .*checkpoint-3 is saved"):
        trainer_of(tmp_path, [Send()]).train()
    whole = trainer_of(tmp_path / "whole")
    whole.train()
    resumed = trainer_of(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    torch.testing.assert_close(weights(resumed.model), weights(whole.model), rtol=0, atol=0)


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts(watched=True) as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupts.name is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_time_does_not_run_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6, 0, -1))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    trainer_of(tmp_path).train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["time_s"] == 0 for line in lines)


def test_training_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    thread = threading.Thread(target=trainer_of(tmp_path).train)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert (tmp_path / "run" / "model.safetensors").is_file()
