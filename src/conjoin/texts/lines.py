"""Lines of data from plain files, .gz files and stdin; every kind of damage is one error that names the line."""

import gzip
import sys
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Self, cast

from conjoin.errors import DataError
from conjoin.jsons import JsonError, parse_json_line
from conjoin.limits import DATA_PROBLEMS, LINE_BYTES, UNPACKED_FREE, UNPACKED_TIMES

STDIN = "-"
SHOWN = 5
"""Lines with the same problem that a message lists."""


class Bad(str):
    """The problem of a line.

    Attributes:
        row: What the line holds all the same.
    """

    row: Mapping[str, Any] = MappingProxyType({})

    def of(self, row: Mapping[str, Any]) -> Self:
        """Return this problem of a row."""
        self.row = row
        return self


def raw_lines(path: str | Path) -> Iterator[bytes]:
    """Yield the lines of a file, ends included, without a byte order mark; "-" is stdin.

    Raises:
        DataError: it cannot be opened or read, is a damaged .gz file or one that becomes far too large, or a line is
            too long; with the line.
    """
    name = _shown(path)
    number = 0
    with _open(path) as raw:
        packed = _is_packed(path)
        file = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw
        size = 0
        try:
            while line := file.readline(LINE_BYTES + 1):
                number += 1
                size += len(line)
                if len(line) > LINE_BYTES:
                    raise DataError(f"{name}, line {number}: longer than {LINE_BYTES:,} bytes.")
                if packed:
                    _reject_bomb(f"{name}, line {number}", size, raw)
                yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{name}, line {number + 1}: cannot be read: {_reason(error)}.") from None


def copy_contents(path: str | Path, copy: IO[bytes]) -> None:
    """Write the contents of a file, unpacked if it is a .gz file, into another; "-" is stdin.

    Raises:
        DataError: it cannot be read, is a damaged .gz file or one that becomes far too large.
    """
    with _open(path) as raw:
        packed = _is_packed(path)
        file = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw
        size = 0
        try:
            while block := file.read(1 << 20):
                size += len(block)
                if packed:
                    _reject_bomb(_shown(path), size, raw)
                copy.write(block)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{_shown(path)}: cannot be read: {_reason(error)}.") from None


def _shown(path: str | Path) -> str:
    return "stdin" if path == STDIN else str(path)


def _is_packed(path: str | Path) -> bool:
    return path != STDIN and Path(path).suffix == ".gz"


def _reject_bomb(place: str, size: int, raw: IO[bytes]) -> None:
    if size > UNPACKED_FREE and size > UNPACKED_TIMES * raw.tell():
        raise DataError(
            f"{place}: the file becomes more than {UNPACKED_TIMES} times its size.",
            hint="if that is meant, unpack it with gunzip first.",
        )


def _reason(error: Exception) -> str:
    if isinstance(error, zlib.error):
        return "the compressed data are damaged"
    if isinstance(error, EOFError):
        return "the compressed data end too early"
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def _open(path: str | Path) -> IO[bytes]:
    if path == STDIN:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {_reason(error)}.") from None


def decoded(line: bytes) -> str | Bad:
    """Decode a line."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return Bad(f"not UTF-8 at byte {error.start + 1} ({error.reason}).")


def parsed(line: bytes) -> Any:
    """Return the value of a line of JSON, or its problem, as `Bad`."""
    text = decoded(line)
    if isinstance(text, Bad):
        return text
    try:
        return parse_json_line(text)
    except JsonError as error:
        shown = text.strip()
        return Bad(f"{str(error).rstrip('.')}: {shown[:60]}{' ...' if len(shown) > 60 else ''}")


def problems_of(found: list[tuple[int, str]], unit: str = "line") -> list[str]:
    """Describe the problems of lines; lines with the same problem are listed together."""
    grouped: dict[str, list[int]] = {}
    for number, what in found:
        grouped.setdefault(what, []).append(number)
    told = [f"{_numbers(numbers, unit)}: {what}" for what, numbers in grouped.items()]
    if len(found) >= DATA_PROBLEMS:
        told.append(f"Reading stopped after {len(found)} problems.")
    return told


def _numbers(numbers: list[int], unit: str) -> str:
    if len(numbers) == 1:
        return f"{unit} {numbers[0]}"
    shown = ", ".join(map(str, numbers[:SHOWN]))
    return f"{unit}s {shown}" if len(numbers) <= SHOWN else f"{unit}s {shown} ... ({len(numbers)} {unit}s)"


def as_json(value: Any) -> Any:
    """Return a value of a table as JSON; dates and the like become text, bytes become base64."""
    if isinstance(value, dict):
        return {str(name): as_json(inner) for name, inner in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in cast("list[Any]", value)]
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    return value if isinstance(value, str | int | float | bool | None) else str(value)
