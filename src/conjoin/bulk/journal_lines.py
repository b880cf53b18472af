"""Lines of a journal, checked."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from conjoin.errors import FileError, lone_surrogate, plain
from conjoin.jsons import JsonError, parse_json_line

MARK = {"conjoin": "results"}
"""Start of the first line, so that no other file is taken for a journal."""
HINT = "--overwrite starts anew and throws away what it holds; or repair that line, or delete it."


@dataclass(frozen=True, slots=True)
class Result:
    """One finished result.

    Args:
        index: Its position in the input.
        input: Fingerprint of its input.
        output: What is written.
        failed: True if nothing could be generated, and `output` has the error.
    """

    index: int
    input: str
    output: Mapping[str, Any]
    failed: bool = False

    @classmethod
    def of(cls, path: Path, number: int, values: Mapping[str, Any]) -> "Result":
        """Return the result of a line's object.

        Raises:
            FileError: it is not a result.
        """
        index, fingerprint, output = (values.get(name) for name in ("index", "input", "output"))
        if type(index) is not int or index < 0 or not isinstance(fingerprint, str) or not isinstance(output, dict):
            raise damaged(path, number, "is no result: expected an object with index, input and output")
        return cls(index, fingerprint, cast("dict[str, Any]", output), values.get("failed") is True)

    def line(self) -> str:
        """Return the line in the journal."""
        values = {"index": self.index, "input": self.input, "output": self.output}
        return json.dumps(values | ({"failed": True} if self.failed else {}), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Replaceable:
    """The note that the run may replace the results file: it wrote that file itself, some sources having failed, or was
    told to overwrite it.

    Args:
        digest: Hash of that file; another one is not replaced.
    """

    digest: str

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Replaceable | None":
        """Return the note of a line's object; None if it is another line."""
        digest = values.get("replaceable")
        return cls(digest) if isinstance(digest, str) and len(values) == 1 else None

    def line(self) -> str:
        """Return the line in the journal."""
        return json.dumps({"replaceable": self.digest})


def parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """Parse the object of a line.

    Raises:
        FileError: it holds none.
    """
    try:
        value = parse_json_line(line.decode())
    except UnicodeDecodeError as error:
        raise damaged(path, number, f"is not UTF-8 at byte {error.start + 1}") from None
    except JsonError as error:
        raise damaged(path, number, f"is {str(error).rstrip('.')}") from None
    if not isinstance(value, dict):
        raise damaged(path, number, "is no result: expected an object with index, input and output")
    if b"\\u" in line and (problem := lone_surrogate(json.dumps(value, ensure_ascii=False))):
        raise damaged(path, number, problem.rstrip("."))
    return cast("dict[str, Any]", value)


def damaged(path: Path, number: int, what: str) -> FileError:
    """Return the error of a line."""
    return FileError(f"{path}, line {number}: {what}. Nothing was changed.", hint=HINT)


def whole_lines(file: IO[bytes], first: int) -> Iterator[tuple[int, bytes]]:
    """Yield the following lines with their numbers, without a last one that a kill cut short."""
    for number, line in enumerate(iter(file.readline, b""), first):
        if line.endswith(b"\n"):
            yield number, line


def open_plain(path: Path) -> IO[bytes]:
    """Open or create a file to read and append; never through a link, since its target is somebody else's.

    Raises:
        FileError: it is a link, a folder or a device; or it cannot be written.
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
    """Return the first line of a journal: a mark, and the description of the run."""
    return json.dumps({**MARK, **run}, ensure_ascii=False)


def require_journal(path: Path, line: bytes, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a journal's run from its first line; {} if a kill cut that short.

    Raises:
        FileError: the file is somebody else's.
    """
    begins = json.dumps(MARK).rstrip("}").encode()
    if not line.endswith(b"\n") and (line.startswith(begins) or begins.startswith(line)):
        return {}
    try:
        values = parse_line(path, 1, line)
    except FileError:
        values = {}
    run_values = {name: value for name, value in values.items() if name not in MARK}
    marked = len(run_values) < len(values) or (bool(values) and values.keys() == run.keys())  # before there was a mark
    if not marked or not line.endswith(b"\n"):
        shown = plain(line[:60].decode("utf-8", "replace").strip())
        raise FileError(
            f"{path} is no record of results of this command: it begins with {shown!r}. Nothing was changed.",
            hint="it lies where results are kept until all are there: move it away, or name another --output.",
        )
    return run_values
