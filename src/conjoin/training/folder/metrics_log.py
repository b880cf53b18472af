"""metrics.jsonl: one JSON object a line, for every logged step, evaluation and sample."""

import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TextIO, cast

from conjoin.errors import FileError, shown
from conjoin.jsons import JsonError, parse_json
from conjoin.limits import STEPS
from conjoin.training.folder.state import TrainerState

Kind = Literal["train", "eval", "sample", "reading", "event"]
FILE = "metrics.jsonl"


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
    """Open a file of lines; half a character, which UTF-8 cannot hold, is written as JSON's escape."""
    return cast("TextIO", open(path, mode, encoding="utf-8", errors="backslashreplace"))


def _as_line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """Return a value for JSON, which has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a run's metrics.jsonl; a last line that a kill cut short is skipped.

    Raises:
        FileError: any other line is not one of a log; with its number and field.
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
        except _OddLine as error:
            raise _odd(path, number, str(error)) from None


def _odd(path: Path, number: int, what: str) -> FileError:
    return FileError(
        f"{path}, line {number}: {what}.", hint="take the line out, or move the file away; the run goes on without it."
    )


class _OddLine(ValueError):
    """A line is JSON, but not one that a run writes."""


_TEXTS = {"sample": ("source", "target", "prediction"), "event": ("what",)}


def _checked(line: Any) -> dict[str, Any]:
    """Check step, kind, times and texts of a line; other fields may hold anything.

    Raises:
        _OddLine: one of them is wrong.
    """
    if not isinstance(line, dict):
        raise _OddLine(f"holds {shown(line)}, expected an object with step and kind")
    values = cast("dict[str, Any]", line)
    step, kind = values.get("step"), values.get("kind")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < STEPS:
        raise _OddLine(f"step = {shown(step)}; expected a whole number, 0 or more")
    if not isinstance(kind, str):
        raise _OddLine(f"kind = {shown(kind)}; expected train, eval, sample, reading or event")
    for name in ("epoch", "time_s"):
        value = values.get(name)
        if value is not None and not is_number(value):
            raise _OddLine(f"{name} = {shown(value)}; expected a number")
    for name in _TEXTS.get(kind, ()):
        if not isinstance(values.get(name), str):
            raise _OddLine(f"{name} = {shown(values.get(name))}; expected text")
    return values


def is_number(value: Any) -> bool:
    """True if a value of JSON is a number that can be drawn and compared."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max


def forget_after(folder: Path, state: TrainerState) -> None:
    """Delete lines that a resumed run writes again: of later steps, and of an evaluation that is still due."""
    path = folder / FILE
    if not path.is_file():
        return
    step, due = state.global_step, state.evaluation_due
    lines = [
        _as_line(line)
        for line in read_log(folder)
        if line["step"] < step or (line["step"] == step and (line["kind"] == "train" or not due))
    ]
    unfinished = path.with_suffix(".partial")
    with _open(unfinished, "w") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
