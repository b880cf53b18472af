"""Write Flax's `.msgpack` files, byte for byte as flax.serialization does."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

ARRAY = 1  # flax.serialization._MsgpackExtType.ndarray
CHUNKED, CHUNK_SHAPE, CHUNKS = "__msgpack_chunked_array__", "shape", "chunks"
_CHUNK_BYTES = 1 << 30  # flax.serialization.MAX_CHUNK_SIZE; MessagePack's lengths end at 4 GB


def write_msgpack(
    path: Path, tensors: Mapping[str, tuple[NDArray[Any], str]], *, chunk_bytes: int = _CHUNK_BYTES
) -> None:
    """Write arrays, whose names are paths joined by "/", as flax writes them: the same bytes.

    Args:
        tensors: Name -> (array, dtype); bfloat16 as uint16 bits with its true dtype's name.
        chunk_bytes: Larger arrays are split into chunks of this size.
    """
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *folders, leaf = name.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[leaf] = tensor
    with open(path, "wb") as file:
        _pack(file.write, tree, chunk_bytes)
        file.flush()
        os.fsync(file.fileno())


def _pack(write: Callable[[Any], object], value: Any, chunk_bytes: int) -> None:
    """Write a map of maps whose leaves are pairs of array and dtype."""
    match value:
        case dict():
            entries = cast(dict[str, Any], value)
            write(_head(len(entries), fixed=(0x80, 16), codes=(None, 0xDE, 0xDF)))
            for key, inner in entries.items():
                write(_packed_text(key))
                _pack(write, inner, chunk_bytes)
        case bool():
            write(b"\xc3" if value else b"\xc2")
        case int():
            write(_packed_number(value))
        case _:
            array, dtype = cast(tuple[NDArray[Any], str], value)
            if array.nbytes > chunk_bytes:
                _pack(write, _cut(array, dtype, chunk_bytes), chunk_bytes)
            else:
                _pack_array(write, array, dtype)


def _pack_array(write: Callable[[Any], object], array: NDArray[Any], dtype: str) -> None:
    shape = _head(array.ndim, fixed=(0x90, 16), codes=(None, 0xDC, 0xDD)) + b"".join(map(_packed_number, array.shape))
    head = b"\x93" + shape + _packed_text(dtype) + _head(array.nbytes, fixed=None, codes=(0xC4, 0xC5, 0xC6))
    length = len(head) + array.nbytes
    if length in (1, 2, 4, 8, 16):
        write(bytes([0xD4 + length.bit_length() - 1, ARRAY]))
    else:
        write(_head(length, fixed=None, codes=(0xC7, 0xC8, 0xC9)) + bytes([ARRAY]))
    write(head)
    write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _cut(array: NDArray[Any], dtype: str, chunk_bytes: int) -> dict[str, Any]:
    flat, step = np.ascontiguousarray(array).reshape(-1), max(1, chunk_bytes // array.itemsize)
    chunks = [(flat[start : start + step], dtype) for start in range(0, flat.size, step)]
    numbered = {str(index): chunk for index, chunk in enumerate(chunks)}
    sizes = {str(index): int(size) for index, size in enumerate(array.shape)}
    return {CHUNKED: True, CHUNK_SHAPE: sizes, CHUNKS: numbered}


def _packed_text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return _head(len(raw), fixed=(0xA0, 32), codes=(0xD9, 0xDA, 0xDB)) + raw


def _packed_number(number: int) -> bytes:
    if number < 0x80:
        return bytes([number])
    width = next(width for width in (1, 2, 4, 8) if number < 1 << 8 * width)
    return bytes([0xCC + width.bit_length() - 1]) + number.to_bytes(width, "big")


def _head(count: int, *, fixed: tuple[int, int] | None, codes: tuple[int | None, int, int]) -> bytes:
    """Return a type byte and a count, in MessagePack's shortest form."""
    if fixed and count < fixed[1]:
        return bytes([fixed[0] | count])
    for code, width in zip(codes, (1, 2, 4), strict=True):
        if code is not None and count < 1 << 8 * width:
            return bytes([code]) + count.to_bytes(width, "big")
    raise ValueError(f"{count} is too large for MessagePack")
