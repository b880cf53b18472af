"""Logs of a running training: metrics.jsonl, TensorBoard and the progress line."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from conjoin.errors import FileError, MissingBackend
from conjoin.training.folder.metrics_log import FILE, Kind, MetricsLog, forget_after
from conjoin.training.folder.run_folder import RunFolder
from conjoin.training.folder.state import TrainerState
from conjoin.training.terminal import error_console

PARTS = 1000
"""Parts of a budget of minutes or tokens, which the progress line counts."""


class Recorder:
    """Writes the metrics of a run, on the first process only.

    Args:
        state: Progress of the run; every record takes its step and time from it.
    """

    def __init__(self, run: RunFolder, state: TrainerState, report_to: str, *, shown: bool) -> None:
        self.state = state
        self._sinks: list[Sink] = open_sinks(run.path, state, report_to) if shown else []
        done = state.global_step if state.max_steps else 0
        self._progress = TrainingProgress(state.max_steps, done, shown=shown)
        self._clock = time.perf_counter()
        self._logged = (state.tokens_seen, state.seconds)

    def stepped(self, share: float) -> None:
        """Count a step, and add its time.

        Args:
            share: Part of the run that is done.
        """
        self.tick()
        self._progress.step(share)

    def tick(self) -> None:
        """Add the time since the last call to the time of the run."""
        now = time.perf_counter()
        self.state.seconds += max(
            now - self._clock, 0.0
        )  # the clock may go back when a machine wakes up or is migrated
        self._clock = now

    def pause(self) -> None:
        """Exclude the time since the last call, in which the run evaluated or saved, from the training time."""
        self._clock = time.perf_counter()

    def train(self, epoch: float, loss: float, grad_norm: float, rates: dict[str, float]) -> dict[str, Any]:
        """Record the metrics of a training step.

        Args:
            rates: Learning rate by part of the model.
        """
        tokens, seconds = self._logged
        self._logged = (self.state.tokens_seen, self.state.seconds)
        speed = (self.state.tokens_seen - tokens) / max(self.state.seconds - seconds, 1e-9)
        logs: dict[str, Any] = {"loss": loss, **{f"lr_{part}": rate for part, rate in rates.items()}}
        logs |= {"grad_norm": grad_norm, "tokens_per_s": round(speed, 1)}
        self._write("train", epoch, logs)
        self._progress.log(loss, speed)
        return logs

    def evaluation(self, epoch: float, metrics: dict[str, float]) -> None:
        """Record an evaluation."""
        self._write("eval", epoch, metrics)

    def event(self, epoch: float, kind: Kind, values: dict[str, Any]) -> None:
        """Record what the run noticed or did."""
        self._write(kind, epoch, values)

    def sample(self, epoch: float, source: str, target: str, prediction: str) -> None:
        """Record the prediction for one pair."""
        self._write("sample", epoch, {"source": source, "target": target, "prediction": prediction})

    def _write(self, kind: Any, epoch: float, values: dict[str, Any]) -> None:
        base = {"epoch": round(epoch, 4), "time_s": round(self.state.seconds, 3)}
        for sink in self._sinks:
            sink.write(kind, self.state.global_step, base | values)

    def close(self) -> None:
        """Flush and close."""
        self._progress.close()
        for sink in self._sinks:
            sink.close()


class Sink(Protocol):
    """A log of values by kind, step and name."""

    def write(self, kind: Kind, step: int, values: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Writes numbers to TensorBoard events under `events/`; samples are in metrics.jsonl only."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary import Writer

        with _without_tensorflow():
            self._writer: Any = Writer(str(folder / "events"))

    def write(self, kind: Kind, step: int, values: dict[str, Any]) -> None:
        """Write every numeric value."""
        for name, value in values.items():
            if kind != "sample" and isinstance(value, int | float) and name not in ("epoch", "time_s"):
                self._writer.add_scalar(f"{kind}/{name.removeprefix('eval_')}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


@contextmanager
def _without_tensorflow() -> Generator[None]:
    """Keep tensorboard from loading a whole TensorFlow, which is slow and prints its log.

    `tensorboard.compat.notf` is tensorboard's own switch for that; tensorboard reads it once per process.
    """
    name = "tensorboard.compat.notf"
    if "tensorflow" in sys.modules or name in sys.modules:
        yield
        return
    sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]


def open_sinks(folder: Path, state: TrainerState, report_to: str) -> list[Sink]:
    """Open the logs of a run that starts from a state.

    Raises:
        MissingBackend: tensorboard is requested but not installed.
        FileError: the folder cannot be written, or its metrics.jsonl is damaged.
    """
    try:
        forget_after(folder, state)
        sinks: list[Sink] = [MetricsLog(folder)]
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{folder / FILE}: cannot be written: {error.strerror or error}.") from None
    if report_to != "none":
        require_sinks(report_to)
        sinks += _tensorboard(folder)
    return sinks


def require_sinks(report_to: str) -> None:
    """Check, before a run changes anything, that its logs can be written.

    Raises:
        MissingBackend: tensorboard is requested but not installed.
    """
    if report_to == "tensorboard":
        try:
            import_module("tensorboard.summary")
        except ImportError:
            raise MissingBackend("report_to='tensorboard' needs tensorboard: pip install tensorboard") from None


def _tensorboard(folder: Path) -> list[Sink]:
    try:
        return [TensorBoard(folder)]
    except ImportError:
        return []


class TrainingProgress:
    """A progress line with step, loss, speed and remaining time.

    Args:
        shown: False on all processes but the first.
    """

    def __init__(self, total: int, done: int, *, shown: bool) -> None:
        console = error_console()
        self._bar = Progress(
            TextColumn("step" if total else "0.1 %"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tokens/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self._counts_steps = total > 0
        self._task = self._bar.add_task("train", total=total or PARTS, completed=done, loss="-", speed="-")
        self._bar.start()

    def step(self, share: float) -> None:
        """Count a step, after which this part of the run is done."""
        with suppress(OSError):  # the run must go on when its terminal is closed
            if self._counts_steps:
                self._bar.advance(self._task)
            else:
                self._bar.update(self._task, completed=int(PARTS * share))

    def log(self, loss: float, tokens_per_s: float) -> None:
        """Show loss and speed."""
        with suppress(OSError):
            self._bar.update(self._task, loss=f"{loss:.3f}", speed=f"{tokens_per_s:,.0f}")

    def close(self) -> None:
        """Stop the progress line; its last state stays on the screen."""
        with suppress(OSError):
            self._bar.stop()
