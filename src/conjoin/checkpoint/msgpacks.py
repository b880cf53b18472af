"""Flax's `.msgpack` files: nested maps whose leaves are arrays, located by scanning the file and mapped on access.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md, and flax.serialization for the arrays in it. We scan it
ourselves because msgpack's `unpackb` holds the file, its payloads and the arrays in memory at once.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint.dtypes import BY_NAME
from conjoin.checkpoint.files import require_file
from conjoin.checkpoint.header import BadHeader, TensorInfo, byte_count
from conjoin.checkpoint.mapping import map_bytes
from conjoin.checkpoint.msgpack_writer import ARRAY, CHUNK_SHAPE, CHUNKED, CHUNKS
from conjoin.errors import FileError

_SCALAR = 3  # flax.serialization._MsgpackExtType.npscalar; checkpoints hold no complex numbers (2)
_MAX_DEPTH = 64
_MAX_NAME_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Extension:
    """An array's payload that is not read yet: its type and position."""

    kind: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The position of the numbers of one array, or of one chunk of it."""

    shape: tuple[int, ...]
    dtype: str
    start: int
    length: int


class MsgpackFile:
    """One open Flax file; names are paths joined by "/".

    Raises:
        BadHeader: with every problem of the file.
        FileError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata = {"format": "flax"}
        require_file(path)
        try:
            self._file = open(path, "rb")  # noqa: SIM115  # stays open for `array`
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror or error}.") from None
        try:
            self._pieces = read_pieces(self._file)
            self.infos = {name: _info(name, pieces) for name, pieces in self._pieces.items()}
        except BadHeader as bad:
            self.close()
            raise BadHeader([f"{path.name}: {problem}" for problem in bad.problems]) from None

    def array(self, name: str) -> NDArray[Any]:
        """Map one array, or gather its chunks."""
        info, (first, *more) = self.infos[name], self._pieces[name]
        dtype = np.dtype(BY_NAME[info.dtype].storage)
        array = self._view(first, dtype)
        if more:
            array = np.concatenate([array, *(self._view(piece, dtype) for piece in more)])
        array = array.reshape(info.shape)
        array = array if array.flags.aligned else array.copy()
        array.flags.writeable = False
        return array

    def _view(self, piece: Piece, dtype: np.dtype[Any]) -> NDArray[Any]:
        if piece.length == 0:
            return np.empty(0, dtype)
        return np.frombuffer(map_bytes(self._file.fileno(), piece.start, piece.length, file=self.path), dtype)

    def close(self) -> None:
        """Close the file; arrays returned before remain valid."""
        self._file.close()


def read_pieces(file: BinaryIO) -> dict[str, list[Piece]]:
    """Locate the arrays of an open file, without reading any.

    Returns:
        Path -> the pieces of the array's numbers; the first piece has the whole array's shape.
    Raises:
        BadHeader: the file is truncated, or is anything but nested maps of arrays.
    """
    scan = _Scanner(file)
    tree = scan.value()
    if scan.position != scan.size:
        raise BadHeader([f"{scan.size - scan.position} bytes after the end of the map"])
    if not isinstance(tree, dict):
        raise BadHeader([f"holds a {type(tree).__name__}, expected a map of arrays"])
    arrays: dict[str, list[Piece]] = {}
    problems: list[str] = []
    for name, leaf in _leaves(cast(dict[str, Any], tree)):
        try:
            arrays[name] = _chunks(scan, cast(dict[str, Any], leaf)) if isinstance(leaf, dict) else [_piece(scan, leaf)]
        except BadHeader as bad:
            problems += [f"{name}: {problem}" for problem in bad.problems]
    if problems:
        raise BadHeader(problems)
    return arrays


class _Scanner:
    """Reads MessagePack values one after the other and skips payloads."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0

    def value(self, depth: int = 0) -> Any:
        """Read the next value; extensions and bytes are returned as `Extension`, unread."""
        if depth > _MAX_DEPTH:
            raise BadHeader([f"maps are nested more than {_MAX_DEPTH} deep"])
        code = self.number(1)
        match code >> 4:
            case 0x0 | 0x1 | 0x2 | 0x3 | 0x4 | 0x5 | 0x6 | 0x7:
                return code
            case 0x8:
                return self._map(code & 0x0F, depth)
            case 0x9:
                return self._list(code & 0x0F, depth)
            case 0xA | 0xB:
                return self._text(code & 0x1F)
            case 0xC | 0xD:
                return self._long(code, depth)
            case _:
                raise self._unexpected(code)

    def _long(self, code: int, depth: int) -> Any:
        """Read a value whose size is not in its first byte."""
        match code:
            case 0xC2 | 0xC3:
                return code == 0xC3
            case 0xC4 | 0xC5 | 0xC6:
                return self._skipped(0, self.number(1 << code - 0xC4))
            case 0xC7 | 0xC8 | 0xC9:
                length = self.number(1 << code - 0xC7)
                return self._skipped(self.number(1), length)
            case 0xCC | 0xCD | 0xCE | 0xCF:
                return self.number(1 << code - 0xCC)
            case 0xD4 | 0xD5 | 0xD6 | 0xD7 | 0xD8:
                return self._skipped(self.number(1), 1 << code - 0xD4)
            case 0xD9 | 0xDA | 0xDB:
                return self._text(self.number(1 << code - 0xD9))
            case 0xDC | 0xDD:
                return self._list(self.number(2 << code - 0xDC), depth)
            case 0xDE | 0xDF:
                return self._map(self.number(2 << code - 0xDE), depth)
            case _:
                raise self._unexpected(code)

    def _unexpected(self, code: int) -> BadHeader:
        """Return the error for nil, negative and floating-point numbers, which are not in Flax checkpoints."""
        return BadHeader([f"unexpected byte {code:#04x} at {self.position - 1}"])

    def number(self, width: int) -> int:
        """Read the next bytes as a big-endian whole number."""
        return int.from_bytes(self.read(width), "big")

    def read(self, length: int) -> bytes:
        """Read the next bytes."""
        data = self.file.read(length)
        self.position += len(data)
        if len(data) < length:
            raise BadHeader([f"truncated: the file ends after {self.position} bytes, in the middle of a value"])
        return data

    def seek(self, position: int) -> None:
        """Continue at another position."""
        self.file.seek(position)
        self.position = position

    def _text(self, length: int) -> str:
        if length > _MAX_NAME_BYTES:
            raise BadHeader([f"a text of {length} bytes at {self.position}, expected a name"])
        try:
            return self.read(length).decode("utf-8")
        except UnicodeDecodeError:
            raise BadHeader([f"a name before byte {self.position} is not text"]) from None

    def _list(self, count: int, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, str):
                raise BadHeader([f"a key before byte {self.position} is a {type(key).__name__}, expected text"])
            if key in entries:
                raise BadHeader([f"{key!r} appears twice in one map"])
            entries[key] = self.value(depth + 1)
        return entries

    def _skipped(self, kind: int, length: int) -> Extension:
        start = self.position
        if start + length > self.size:
            missing = start + length - self.size
            raise BadHeader([f"truncated: {missing} bytes of an array of {length} are missing"])
        self.seek(start + length)
        return Extension(kind, start, length)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield path and value of every leaf: a value that is not a map, or the map of a chunked array."""
    for key, value in tree.items():
        if isinstance(value, dict) and CHUNKED not in value:
            yield from _leaves(cast(dict[str, Any], value), f"{prefix}{key}/")
        else:
            yield prefix + key, value


def _piece(scan: _Scanner, leaf: Any) -> Piece:
    """Read the shape, the dtype and the position of an array inside an extension."""
    if not isinstance(leaf, Extension) or leaf.kind not in (ARRAY, _SCALAR):
        kind = f"extension {leaf.kind}" if isinstance(leaf, Extension) else type(leaf).__name__
        raise BadHeader([f"a value of type {kind}, expected an array"])
    scan.seek(leaf.start)
    match scan.value():
        case [[*shape], str(dtype), Extension(kind=0, start=start, length=length)]:
            pass
        case _:
            raise BadHeader(["expected shape, dtype and bytes inside an array"])
    if dtype not in BY_NAME:
        raise BadHeader([f"dtype {dtype!r} is not one of {', '.join(BY_NAME)}"])
    expected = byte_count("array", shape, BY_NAME[dtype].itemsize)
    if length != expected or scan.position != leaf.start + leaf.length:
        raise BadHeader([f"shape {shape} of {dtype} needs {expected} bytes, found {length}"])
    return Piece(tuple(shape), dtype, start, length)


def _chunks(scan: _Scanner, leaf: Mapping[str, Any]) -> list[Piece]:
    """Return the pieces of an array that flax split; the first one has the whole array's shape."""
    shape, chunks = _in_order(leaf.get(CHUNK_SHAPE)), _in_order(leaf.get(CHUNKS))
    if shape is None or not chunks:
        raise BadHeader(["expected shape and chunks, numbered from 0, in a chunked array"])
    pieces = [_piece(scan, chunk) for chunk in chunks]
    length = sum(piece.length for piece in pieces)
    itemsize = BY_NAME[pieces[0].dtype].itemsize
    if len({piece.dtype for piece in pieces}) > 1 or length != byte_count("array", shape, itemsize):
        raise BadHeader([f"{len(pieces)} chunks of {length} bytes do not make up shape {shape} of {pieces[0].dtype}"])
    first = pieces[0]
    return [Piece(tuple(shape), first.dtype, first.start, first.length), *pieces[1:]]


def _in_order(numbered: Any) -> list[Any] | None:
    """Return the values of a tuple, which flax writes as a map from "0", "1", ...; None if it is not one."""
    if not isinstance(numbered, dict):
        return None
    entries = cast(dict[str, Any], numbered)
    keys = [str(index) for index in range(len(entries))]
    return [entries[key] for key in keys] if set(keys) == set(entries) else None


def _info(name: str, pieces: list[Piece]) -> TensorInfo:
    return TensorInfo(name, pieces[0].shape, pieces[0].dtype)
