"""Flax's `.msgpack` files: a map of maps whose leaves are arrays, found by walking the file, mapped when asked for.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md, and flax.serialization for what an array looks like in
it. The walk is ours because msgpack's own `unpackb` needs the file, its payloads and the arrays in memory at once.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint._mapping import map_bytes
from conjoin.checkpoint._packing import ARRAY, CHUNK_SHAPE, CHUNKED, CHUNKS
from conjoin.checkpoint.dtypes import BY_NAME
from conjoin.checkpoint.files import require_file
from conjoin.checkpoint.header import BadHeader, TensorInfo, byte_count
from conjoin.errors import FileError

_SCALAR = 3  # flax.serialization._MsgpackExtType.npscalar; a complex number, 2, is no part of a checkpoint
_MAX_DEPTH = 64
_MAX_NAME_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Extension:
    """An array's payload, not read yet: its type and where it lies."""

    kind: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The numbers of one array, or of one chunk of it, and where they lie."""

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
            self._file = open(path, "rb")  # noqa: SIM115  # open for as long as arrays may be asked for
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
        found = self._view(first, dtype)
        if more:
            found = np.concatenate([found, *(self._view(piece, dtype) for piece in more)])
        array = found.reshape(info.shape)
        array = array if array.flags.aligned else array.copy()
        array.flags.writeable = False
        return array

    def _view(self, piece: Piece, dtype: np.dtype[Any]) -> NDArray[Any]:
        if piece.length == 0:
            return np.empty(0, dtype)
        return np.frombuffer(map_bytes(self._file.fileno(), piece.start, piece.length, file=self.path), dtype)

    def close(self) -> None:
        """Close the file; arrays already given out stay good."""
        self._file.close()


def read_pieces(file: BinaryIO) -> dict[str, list[Piece]]:
    """Find the arrays of an open file, without reading any.

    Returns:
        Path -> shape, and the pieces that the array's numbers lie in.
    Raises:
        BadHeader: truncated, or anything but a map of maps of arrays.
    """
    walk = _Walk(file)
    tree = walk.value()
    if walk.position != walk.size:
        raise BadHeader([f"{walk.size - walk.position} bytes behind the end of the map"])
    if not isinstance(tree, dict):
        raise BadHeader([f"holds a {type(tree).__name__}, expected a map of arrays"])
    found: dict[str, list[Piece]] = {}
    problems: list[str] = []
    for name, leaf in _leaves(cast(dict[str, Any], tree)):
        try:
            found[name] = _chunks(walk, cast(dict[str, Any], leaf)) if isinstance(leaf, dict) else [_piece(walk, leaf)]
        except BadHeader as bad:
            problems += [f"{name}: {problem}" for problem in bad.problems]
    if problems:
        raise BadHeader(problems)
    return found


class _Walk:
    """Reads MessagePack values one after the other and steps over payloads."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.position = 0

    def value(self, depth: int = 0) -> Any:
        """The next value; extensions and bytes as `Extension`, unread."""
        if depth > _MAX_DEPTH:
            raise BadHeader([f"maps inside maps, more than {_MAX_DEPTH} deep"])
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
        """A value whose first byte has no room for its size."""
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
        """Nothing, negative and floating numbers are no part of a Flax checkpoint."""
        return BadHeader([f"unexpected byte {code:#04x} at {self.position - 1}"])

    def number(self, width: int) -> int:
        """The next bytes as a whole number, most significant first."""
        return int.from_bytes(self.read(width), "big")

    def read(self, length: int) -> bytes:
        """The next bytes."""
        found = self.file.read(length)
        self.position += len(found)
        if len(found) < length:
            raise BadHeader([f"truncated: the file ends after {self.position} bytes, in the middle of a value"])
        return found

    def seek(self, position: int) -> None:
        """Go on from another place."""
        self.file.seek(position)
        self.position = position

    def _text(self, length: int) -> str:
        if length > _MAX_NAME_BYTES:
            raise BadHeader([f"a text of {length} bytes at {self.position}, where a name is expected"])
        try:
            return self.read(length).decode("utf-8")
        except UnicodeDecodeError:
            raise BadHeader([f"a name before byte {self.position} is not text"]) from None

    def _list(self, count: int, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, str):
                raise BadHeader([f"a key before byte {self.position} is a {type(key).__name__}, expected text"])
            if key in found:
                raise BadHeader([f"{key!r} appears twice in one map"])
            found[key] = self.value(depth + 1)
        return found

    def _skipped(self, kind: int, length: int) -> Extension:
        start = self.position
        if start + length > self.size:
            missing = start + length - self.size
            raise BadHeader([f"truncated: {missing} bytes of an array of {length} are missing"])
        self.seek(start + length)
        return Extension(kind, start, length)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is no map, or a chunked array's map, with its path."""
    for key, value in tree.items():
        if isinstance(value, dict) and CHUNKED not in value:
            yield from _leaves(cast(dict[str, Any], value), f"{prefix}{key}/")
        else:
            yield prefix + key, value


def _piece(walk: _Walk, leaf: Any) -> Piece:
    """The array behind an extension: its shape, its dtype's name, and where its bytes lie."""
    if not isinstance(leaf, Extension) or leaf.kind not in (ARRAY, _SCALAR):
        what = f"extension {leaf.kind}" if isinstance(leaf, Extension) else type(leaf).__name__
        raise BadHeader([f"a value of type {what}, expected an array"])
    walk.seek(leaf.start)
    match walk.value():
        case [[*shape], str(dtype), Extension(kind=0, start=start, length=length)]:
            pass
        case _:
            raise BadHeader(["expected shape, dtype and bytes inside an array"])
    if dtype not in BY_NAME:
        raise BadHeader([f"dtype {dtype!r} is not one of {', '.join(BY_NAME)}"])
    wanted = byte_count("array", shape, BY_NAME[dtype].itemsize)
    if length != wanted or walk.position != leaf.start + leaf.length:
        raise BadHeader([f"shape {shape} of {dtype} needs {wanted} bytes, {length} are there"])
    return Piece(tuple(shape), dtype, start, length)


def _chunks(walk: _Walk, leaf: Mapping[str, Any]) -> list[Piece]:
    """The pieces of an array that flax cut; the first one carries the whole array's shape."""
    shape, chunks = _in_order(leaf.get(CHUNK_SHAPE)), _in_order(leaf.get(CHUNKS))
    if shape is None or not chunks:
        raise BadHeader(["expected shape and chunks, numbered from 0, in a chunked array"])
    pieces = [_piece(walk, chunk) for chunk in chunks]
    length = sum(piece.length for piece in pieces)
    itemsize = BY_NAME[pieces[0].dtype].itemsize
    if len({piece.dtype for piece in pieces}) > 1 or length != byte_count("array", shape, itemsize):
        raise BadHeader([f"{len(pieces)} chunks of {length} bytes do not make up shape {shape} of {pieces[0].dtype}"])
    first = pieces[0]
    return [Piece(tuple(shape), first.dtype, first.start, first.length), *pieces[1:]]


def _in_order(numbered: Any) -> list[Any] | None:
    """Flax writes a tuple as a map from "0", "1", ..."""
    if not isinstance(numbered, dict):
        return None
    entries = cast(dict[str, Any], numbered)
    keys = [str(index) for index in range(len(entries))]
    return [entries[key] for key in keys] if set(keys) == set(entries) else None


def _info(name: str, pieces: list[Piece]) -> TensorInfo:
    return TensorInfo(name, pieces[0].shape, pieces[0].dtype)
