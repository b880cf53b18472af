"""metrics.jsonl: one JSON object a line, for every logged step, evaluation and sample."""

import json
import math
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, TextIO, cast

from conjoin.errors import FileError, MissingBackend, shown
from conjoin.jsons import JsonError, parse_json
from conjoin.limits import STEPS
from conjoin.training.folder.state import TrainerState

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
        self._file = _open(folder / FILE, "a")

    def write(self, kind: Kind, step: int, values: dict[str, Any]) -> None:
        """Add a line."""
        named = {name: _plain(value) for name, value in values.items() if name not in ("step", "kind")}
        self._file.write(_as_line({"step": step, "kind": kind, **named}))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _open(path: Path, mode: str) -> TextIO:
    """What UTF-8 cannot hold, half of a character, becomes the escape that JSON has for it."""
    return cast("TextIO", open(path, mode, encoding="utf-8", errors="backslashreplace"))


def _as_line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line that a kill cut short is passed over.

    Raises:
        FileError: any other line is none of a log, with its number and field.
    """
    path = folder / FILE
    try:
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}.") from None
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    for number, line in filled:
        try:
            yield _checked(parse_json(line.decode("utf-8")))
        except (JsonError, UnicodeDecodeError) as error:
            if number != filled[-1][0]:
                raise _odd(path, number, f"{error}".removesuffix(".")) from None
        except OddLine as error:
            raise _odd(path, number, str(error)) from None


def _odd(path: Path, number: int, what: str) -> FileError:
    return FileError(
        f"{path}, line {number}: {what}.", hint="take the line out, or move the file away; the run goes on without it."
    )


class OddLine(ValueError):
    """A line is JSON, but none that a run writes."""


_TEXTS = {"sample": ("source", "target", "prediction")}


def _checked(line: Any) -> dict[str, Any]:
    """A line whose step, kind, times and texts are what they must be; other fields may be anything.

    Raises:
        OddLine: they are not.
    """
    if not isinstance(line, dict):
        raise OddLine(f"holds {shown(line)}, expected an object with step and kind")
    found = cast("dict[str, Any]", line)
    step, kind = found.get("step"), found.get("kind")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < STEPS:
        raise OddLine(f"step = {shown(step)}; expected a whole number, 0 or more")
    if not isinstance(kind, str):
        raise OddLine(f"kind = {shown(kind)}; expected train, eval or sample")
    for name in ("epoch", "time_s"):
        value = found.get(name)
        if value is not None and not is_number(value):
            raise OddLine(f"{name} = {shown(value)}; expected a number")
    for name in _TEXTS.get(kind, ()):
        if not isinstance(found.get(name), str):
            raise OddLine(f"{name} = {shown(found.get(name))}; expected text")
    return found


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that can be drawn and compared."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max


def forget_after(folder: Path, state: TrainerState) -> None:
    """Drop lines that a resumed run writes again: of later steps, and of an evaluation that is still due."""
    path = folder / FILE
    if not path.is_file():
        return
    step, due = state.global_step, state.evaluation_due
    kept = [
        _as_line(line)
        for line in read_log(folder)
        if line["step"] < step or (line["step"] == step and (line["kind"] == "train" or not due))
    ]
    unfinished = path.with_suffix(".partial")
    with _open(unfinished, "w") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


class TensorBoard:
    """TensorBoard events under `events/`; numbers only, samples are in metrics.jsonl."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary import Writer

        with _without_tensorflow():
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


@contextmanager
def _without_tensorflow() -> Generator[None]:
    """Let tensorboard write with its own files: it would load a whole TensorFlow, which is slow and prints its log.

    `tensorboard.compat.notf` is tensorboard's own word for that; it is asked for once a process.
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
    """The logs of a run that goes on from a state.

    Raises:
        MissingBackend: tensorboard is asked for and not installed.
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
