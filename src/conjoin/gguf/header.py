"""Metadata and tensor list of a GGUF file, versions 2 and 3 (github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Parsed here rather than by the package `gguf`, which believes what a damaged file says of its sizes.
"""

import math
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conjoin.errors import FileError, WeightError, listing
from conjoin.gguf.metadata import wrong_values

SUFFIX = ".gguf"
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
"""ggml's number of a type -> its name, and numbers and bytes of one block (ggml.h, ggml-common.h)."""
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_DIMENSIONS = 4  # GGML_MAX_DIMS
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor as the file has it.

    Args:
        shape: As numpy and PyTorch count, the reverse of ggml's.
        kind: ggml's name of its type.
        start, length: Its bytes in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says before its numbers."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Stored]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the model family."""
        return str(self.metadata.get("general.architecture"))


def read_header(path: Path) -> Header:
    """Read what a GGUF file says before its numbers.

    Raises:
        FileError: the file cannot be read.
        WeightError: it is damaged or truncated, one part of several, or of a type that is not decoded.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < len(_MAGIC) or file.read(len(_MAGIC)) != _MAGIC:
                raise _damaged(path, f"it has {size} bytes and does not begin with GGUF")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _header(path, _Bytes(path, data))
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}.") from None


def _header(path: Path, data: "_Bytes") -> Header:
    version = data.scalar("I")
    if version not in _VERSIONS:
        raise _damaged(path, f"its version is {version}; expected 2 or 3, little-endian")
    tensors, entries = data.count(16), data.count(12)
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        name = data.text()
        metadata[name] = data.value(data.scalar("I"))
    if wrong := wrong_values(metadata):
        raise _damaged(path, f"values of its metadata are of another kind:\n{listing(wrong)}")
    if metadata.get("split.count", 0) > 1:
        raise WeightError(
            f"{path}: one part of {metadata['split.count']}.",
            hint="join them first: llama-gguf-split --merge FIRST_PART OUT.gguf",
        )
    listed = [_entry(data) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    start = -(-data.place // alignment) * alignment
    stored = [_stored(path, entry, start, len(data.data)) for entry in listed]
    if len({tensor.name for tensor in stored}) != len(stored):
        raise _damaged(path, "two tensors have one name")
    return Header(path, metadata, {tensor.name: tensor for tensor in stored})


def _entry(data: "_Bytes") -> tuple[str, tuple[int, ...], int, int]:
    name, dimensions = data.text(), data.scalar("I")
    if not 1 <= dimensions <= _DIMENSIONS:
        raise _damaged(data.path, f"tensor {name!r} has {dimensions} dimensions")
    shape = tuple(data.scalar("Q") for _ in range(dimensions))
    return name, shape[::-1], data.scalar("I"), data.scalar("Q")


def _stored(path: Path, entry: tuple[str, tuple[int, ...], int, int], start: int, size: int) -> Stored:
    name, shape, number, offset = entry
    if number not in TYPES:
        known = ", ".join(kind for kind, *_ in TYPES.values())
        raise WeightError(
            f"{path}: tensor {name!r} is of ggml's type {number}, which conjoin does not decode.\nExpected: {known}.",
            hint="take a file of another quantization, such as Q8_0 or Q4_K_M, or the model's original checkpoint",
        )
    kind, numbers, bytes_ = TYPES[number]
    if shape[-1] % numbers:
        raise _damaged(path, f"rows of {name!r} have {shape[-1]} numbers, no multiple of {kind}'s {numbers}")
    length = math.prod(shape) // numbers * bytes_
    if start + offset + length > size:
        raise _damaged(path, f"{name!r} ends at byte {start + offset + length}, the file at {size}")
    return Stored(name, shape, kind, start + offset, length)


class _Bytes:
    """A place in the file's bytes; nothing is read behind their end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.place = len(_MAGIC)

    def scalar(self, code: str) -> Any:
        """Read one number."""
        return self._read(struct.Struct("<" + code))[0]

    def count(self, least: int) -> int:
        """Read how many things of at least so many bytes follow."""
        number = self.scalar("Q")
        if number * least > len(self.data) - self.place:
            raise _damaged(self.path, f"byte {self.place} promises {number} entries, more than the file can hold")
        return number

    def text(self) -> str:
        """Read a string."""
        length = self.count(1)
        raw = self.data[self.place : self.place + length]
        self.place += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise _damaged(self.path, f"a text before byte {self.place} is not UTF-8") from None

    def value(self, kind: int) -> Any:
        """Read a value of the metadata; arrays hold no arrays."""
        if kind != _ARRAY:
            return self._one(kind)()
        kind, read = self.scalar("I"), self._one
        if kind in _SCALARS:
            code = _SCALARS[kind]
            count = self.count(struct.calcsize(code))
            return list(self._read(struct.Struct(f"<{count}{code}")))
        one = read(kind)
        return [one() for _ in range(self.count(8))]

    def _one(self, kind: int) -> Callable[[], Any]:
        if kind == _STRING:
            return self.text
        if kind not in _SCALARS:
            raise _damaged(self.path, f"before byte {self.place} stands a value of unknown type {kind}")
        return lambda: self.scalar(_SCALARS[kind])

    def _read(self, form: struct.Struct) -> tuple[Any, ...]:
        if self.place + form.size > len(self.data):
            raise _damaged(self.path, f"it ends within its header, at byte {len(self.data)}")
        values = form.unpack_from(self.data, self.place)
        self.place += form.size
        return values


def _damaged(path: Path, what: str) -> WeightError:
    return WeightError(f"{path}: no usable GGUF file: {what}.", hint="download or convert the file again")
