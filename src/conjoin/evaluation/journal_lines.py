"""Lines of a journal, checked: every one is a result of ours, and every result stands once."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from conjoin.errors import FileError, plain
from conjoin.jsons import JsonError, parse_json_line

MARK = {"conjoin": "results"}
"""Begins the first line, so that no other file is taken for a journal."""
HINT = "--overwrite starts anew and throws away what it holds; or repair that line, or delete it."


@dataclass(frozen=True, slots=True)
class Result:
    """One finished result.

    Args:
        index: Its place in the input.
        input: Fingerprint of its input.
        output: What is to be written.
    """

    index: int
    input: str
    output: Any

    @classmethod
    def of(cls, path: Path, number: int, line: bytes) -> "Result":
        """What a line holds.

        Raises:
            FileError: it is no result.
        """
        found = parse_line(path, number, line)
        index, given = found.get("index"), found.get("input")
        if type(index) is not int or index < 0 or not isinstance(given, str) or "output" not in found:
            raise damaged(path, number, "is no result: expected an object with index, input and output")
        return cls(index, given, found["output"])

    def line(self) -> str:
        """What stands in the journal."""
        return json.dumps({"index": self.index, "input": self.input, "output": self.output}, ensure_ascii=False)


def parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """The object of a line.

    Raises:
        FileError: it holds none.
    """
    try:
        found = parse_json_line(line.decode())
    except UnicodeDecodeError as error:
        raise damaged(path, number, f"is not UTF-8 at byte {error.start + 1}") from None
    except JsonError as error:
        raise damaged(path, number, f"is {str(error).rstrip('.')}") from None
    if not isinstance(found, dict):
        raise damaged(path, number, "is no result: expected an object with index, input and output")
    return cast("dict[str, Any]", found)


def damaged(path: Path, number: int, what: str) -> FileError:
    """The error of a line."""
    return FileError(f"{path}, line {number}: {what}. Nothing was changed.", hint=HINT)


def whole_lines(file: IO[bytes], first: int) -> Iterator[tuple[int, bytes]]:
    """The lines that follow by number, without a last one that a kill cut short."""
    for number, line in enumerate(iter(file.readline, b""), first):
        if line.endswith(b"\n"):
            yield number, line


def open_plain(path: Path) -> IO[bytes]:
    """Open a file to read and append, or make it; through no link, since what is behind one is somebody else's.

    Raises:
        FileError: a link, a folder or a device; or it cannot be written.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "a link to another file" if path.is_symlink() else "no plain file"
        raise FileError(
            f"{path} is {kind}, and results would be kept there. Nothing was changed.",
            hint="remove it, or name another --output.",
        )
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.fdopen(os.open(path, flags, 0o666), "a+b")
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror}.") from None


def first_line(run: Mapping[str, Any]) -> str:
    """What a journal begins with: a mark, and what run it is."""
    return json.dumps({**MARK, **run}, ensure_ascii=False)


def require_journal(path: Path, line: bytes, run: Mapping[str, Any]) -> dict[str, Any]:
    """What run a journal is of, by its first line; {} where a kill cut that short.

    Raises:
        FileError: the file is somebody else's.
    """
    begins = json.dumps(MARK).rstrip("}").encode()
    if not line.endswith(b"\n") and (line.startswith(begins) or begins.startswith(line)):
        return {}
    try:
        found = parse_line(path, 1, line)
    except FileError:
        found = {}
    kept = {name: value for name, value in found.items() if name not in MARK}
    marked = len(kept) < len(found) or (bool(found) and found.keys() == run.keys())  # before there was a mark
    if not marked or not line.endswith(b"\n"):
        shown = plain(line[:60].decode("utf-8", "replace").strip())
        raise FileError(
            f"{path} is no record of results of this command: it begins with {shown!r}. Nothing was changed.",
            hint="it lies where results are kept until all are there: move it away, or name another --output.",
        )
    return kept
