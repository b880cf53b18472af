"""The header of a safetensors file, checked completely before any tensor is read.

Format: 8 bytes little-endian header length, that many bytes of JSON, then the tensors' bytes without gaps
(https://github.com/huggingface/safetensors#format). We parse it ourselves because the library's errors name neither the
file nor more than one problem.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from conjoin.checkpoint.dtypes import BY_TAG

_MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
_MAX_TENSOR_BYTES = 1 << 62  # numpy counts bytes with a signed 64-bit number
_MAX_DIMENSIONS = 64  # numpy's own limit


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, shape and dtype of one tensor of a checkpoint.

    Args:
        dtype: Its name in numpy and torch: "float32", "bfloat16", "int64", ...
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Span:
    """One tensor and the position of its bytes in the file."""

    info: TensorInfo
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors of one safetensors file, by name, and its `__metadata__`."""

    spans: dict[str, Span]
    metadata: dict[str, str]


class BadHeader(Exception):
    """All problems of one file, for the caller, who turns them into one error."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(*problems)
        self.problems = list(problems)


def read_header(fd: int, path: Path) -> Header:
    """Read and check the header of an open safetensors file.

    Raises:
        BadHeader: with one line per problem, each naming the file.
    """
    size = os.fstat(fd).st_size
    try:
        length = _header_length(fd, size)
        entries = _parse(_read_at(fd, length, 8))
        metadata = _metadata(entries.pop("__metadata__", {}))
        return Header(_spans(entries, data_start=8 + length, data_bytes=size - 8 - length), metadata)
    except BadHeader as bad:
        raise BadHeader([f"{path.name}: {problem}" for problem in bad.problems]) from None


def _read_at(fd: int, length: int, offset: int) -> bytes:
    """Return bytes of an open file; Windows has no pread."""
    os.lseek(fd, offset, os.SEEK_SET)
    parts: list[bytes] = []
    while length > 0 and (part := os.read(fd, length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _header_length(fd: int, size: int) -> int:
    if size < 8:
        raise BadHeader([f"truncated: {size} bytes, too short for a safetensors file"])
    length = int.from_bytes(_read_at(fd, 8, 0), "little")
    if length > _MAX_HEADER_BYTES:
        raise BadHeader([f"not a safetensors file: its header would be {length} bytes long"])
    if length > size - 8:
        raise BadHeader([f"truncated: the header is {length} bytes long, the file ends after {size - 8} of them"])
    return length


def _parse(raw: bytes) -> dict[str, Any]:
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated.extend(sorted({key for key in keys if keys.count(key) > 1}))
        return entries

    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise BadHeader([f"the header is not JSON: {error}"]) from None
    if repeated:
        raise BadHeader([f"{key!r} appears twice in the header" for key in repeated])
    if not isinstance(entries, dict):
        raise BadHeader([f"the header is a JSON {type(entries).__name__}, expected an object"])
    return cast(dict[str, Any], entries)


def _metadata(entry: Any) -> dict[str, str]:
    items = cast(dict[Any, Any], entry).items() if isinstance(entry, dict) else None
    if items is None or not all(isinstance(value, str) for _, value in items):
        raise BadHeader(["__metadata__ must map text to text"])
    return dict(items)


def _spans(entries: dict[str, Any], *, data_start: int, data_bytes: int) -> dict[str, Span]:
    spans: dict[str, Span] = {}
    problems: list[str] = []
    for name, entry in entries.items():
        try:
            info, start, length = _entry(name, entry)
            spans[name] = Span(info, data_start + start, length)
        except BadHeader as bad:
            problems += bad.problems
    if not problems:
        problems = _gaps(list(spans.values()), data_start=data_start, data_bytes=data_bytes)
    if problems:
        raise BadHeader(problems)
    return spans


def _entry(name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    match entry:
        case {"dtype": str(tag), "shape": [*shape], "data_offsets": [int(start), int(end)], **rest} if not rest:
            pass
        case _:
            raise BadHeader([f"{name}: expected exactly dtype, shape and two data_offsets"])
    if tag not in BY_TAG:
        raise BadHeader([f"{name}: dtype {tag!r} is not one of {', '.join(BY_TAG)}"])
    dtype = BY_TAG[tag]
    expected = byte_count(name, shape, dtype.itemsize)
    if not 0 <= start <= end:
        raise BadHeader([f"{name}: data_offsets [{start}, {end}] run backwards"])
    if (actual := end - start) != expected:
        raise BadHeader(
            [f"{name}: shape {shape} of {dtype.name} needs {expected} bytes, its data_offsets span {actual}"]
        )
    return TensorInfo(name, tuple(shape), dtype.name), start, expected


def byte_count(name: str, shape: list[Any], itemsize: int) -> int:
    """Return the size of an array in bytes.

    Raises:
        BadHeader: the shape is invalid, or larger than any memory.
    """
    if len(shape) > _MAX_DIMENSIONS or not all(type(size) is int and size >= 0 for size in shape):
        raise BadHeader([f"{name}: shape must be at most {_MAX_DIMENSIONS} whole numbers >= 0, got {str(shape)[:80]}"])
    if math.prod(size or 1 for size in shape) * itemsize > _MAX_TENSOR_BYTES:
        raise BadHeader([f"{name}: shape {str(shape)[:80]} is larger than any memory"])
    return math.prod(shape) * itemsize


def _gaps(spans: list[Span], *, data_start: int, data_bytes: int) -> list[str]:
    """Return problems unless the tensors are contiguous: no overlap, no gap, nothing before, after or outside."""
    problems: list[str] = []
    end, last = data_start, ""
    for span in sorted(spans, key=lambda span: (span.start, span.length)):
        if span.start < end:
            problems.append(f"{span.info.name}: overlaps {last} by {end - span.start} bytes")
        elif span.start > end:
            problems.append(f"{span.start - end} bytes before {span.info.name} belong to no tensor")
        end, last = max(end, span.start + span.length), span.info.name
    size = data_start + data_bytes
    if end > size:
        cut = [span.info.name for span in spans if span.start + span.length > size]
        problems.append(f"truncated: {end - size} bytes are missing; cut off: {_some(cut)}")
    elif end < size:
        problems.append(f"{size - end} bytes after the last tensor belong to no tensor")
    return problems


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
