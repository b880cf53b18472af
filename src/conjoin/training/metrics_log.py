"""metrics.jsonl: one JSON object a line, for every logged step, evaluation and sample."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from conjoin.errors import FileError, MissingBackend

Kind = Literal["train", "eval", "sample"]
FILE = "metrics.jsonl"


class Sink(Protocol):
    """Something that takes numbers by name and step."""

    def write(self, kind: Kind, step: int, values: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class MetricsLog:
    """Appends to a run's metrics.jsonl; every line is on its way to the disk before `write` returns."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / FILE, "a", encoding="utf-8")  # noqa: SIM115  (closed by `close`)

    def write(self, kind: Kind, step: int, values: dict[str, Any]) -> None:
        """Add a line."""
        line = {"step": step, "kind": kind, **{name: _plain(value) for name, value in values.items()}}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _plain(value: Any) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line that a kill cut short is passed over."""
    path = folder / FILE
    if not path.is_file():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def forget_after(folder: Path, step: int) -> None:
    """Drop lines of later steps: a resumed run writes them again."""
    path = folder / FILE
    if not path.is_file():
        return
    kept = [json.dumps(line, ensure_ascii=False) + "\n" for line in read_log(folder) if line["step"] <= step]
    unfinished = path.with_suffix(".partial")
    with open(unfinished, "w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


class TensorBoard:
    """TensorBoard events under `events/`; numbers only, samples are in metrics.jsonl."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary import Writer

        self._writer = Writer(str(folder / "events"))

    def write(self, kind: Kind, step: int, values: dict[str, Any]) -> None:
        """Add numbers."""
        for name, value in values.items():
            if kind != "sample" and isinstance(value, int | float) and name not in ("epoch", "time_s"):
                self._writer.add_scalar(f"{kind}/{name.removeprefix('eval_')}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def open_sinks(folder: Path, step: int, report_to: str) -> list[Sink]:
    """The logs of a run that goes on after `step`.

    Raises:
        MissingBackend: tensorboard is asked for and not installed.
        FileError: the folder cannot be written.
    """
    try:
        forget_after(folder, step)
        sinks: list[Sink] = [MetricsLog(folder)]
    except OSError as error:
        raise FileError(f"{folder / FILE}: cannot be written: {error.strerror or error}.") from None
    if report_to != "none":
        require_sinks(report_to)
        sinks += _tensorboard(folder)
    return sinks


def require_sinks(report_to: str) -> None:
    """Check, before a run changes anything, that its logs can be written.

    Raises:
        MissingBackend: tensorboard is asked for and not installed.
    """
    if report_to == "tensorboard":
        try:
            from tensorboard.summary import Writer  # noqa: F401  (asked for, not used)
        except ImportError:
            raise MissingBackend("report_to='tensorboard' needs tensorboard: pip install tensorboard") from None


def _tensorboard(folder: Path) -> list[Sink]:
    try:
        return [TensorBoard(folder)]
    except ImportError:
        return []
