"""Dtypes: their names in safetensors, numpy and torch, and the bits of NaN and infinity in each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Dtype:
    """One dtype.

    Args:
        name: Its name in numpy, torch and `TensorInfo.dtype`.
        tag: Its name in a safetensors header.
        storage: The numpy dtype that holds the bits (uint16 for bfloat16, uint8 for the 8-bit floats).
        special: (mask, value): a number is NaN or infinite if bits & mask == value. None for integers.
    """

    name: str
    tag: str
    storage: str
    special: tuple[int, int] | None = None

    @property
    def itemsize(self) -> int:
        return np.dtype(self.storage).itemsize


def _exponent(mask: int) -> tuple[int, int]:
    return mask, mask


DTYPES = (
    Dtype("float64", "F64", "<f8", _exponent(0x7FF0_0000_0000_0000)),
    Dtype("float32", "F32", "<f4", _exponent(0x7F80_0000)),
    Dtype("float16", "F16", "<f2", _exponent(0x7C00)),
    Dtype("bfloat16", "BF16", "<u2", _exponent(0x7F80)),
    Dtype("float8_e4m3fn", "F8_E4M3", "u1", _exponent(0x7F)),  # no infinity; all ones is NaN
    Dtype("float8_e4m3fnuz", "F8_E4M3FNUZ", "u1", (0xFF, 0x80)),  # NaN sits where minus zero would be
    Dtype("float8_e5m2", "F8_E5M2", "u1", _exponent(0x7C)),
    Dtype("float8_e5m2fnuz", "F8_E5M2FNUZ", "u1", (0xFF, 0x80)),
    Dtype("float8_e8m0fnu", "F8_E8M0", "u1", _exponent(0xFF)),
    Dtype("complex64", "C64", "<c8", _exponent(0x7F80_0000)),  # counted part by part
    Dtype("int64", "I64", "<i8"),
    Dtype("int32", "I32", "<i4"),
    Dtype("int16", "I16", "<i2"),
    Dtype("int8", "I8", "i1"),
    Dtype("uint64", "U64", "<u8"),
    Dtype("uint32", "U32", "<u4"),
    Dtype("uint16", "U16", "<u2"),
    Dtype("uint8", "U8", "u1"),
    Dtype("bool", "BOOL", "?"),
)
BY_NAME = {dtype.name: dtype for dtype in DTYPES}
BY_TAG = {dtype.tag: dtype for dtype in DTYPES}

_CHUNK = 1 << 18  # elements checked at a time: the temporaries stay in the L2 cache


def nonfinite(array: NDArray[Any], dtype: str) -> int:
    """Count the NaN and infinite numbers in an array.

    Args:
        array: Any shape; uint16 or uint8 bits if numpy lacks the dtype (see `Checkpoint.array`).
        dtype: The true dtype of the bits, as in `TensorInfo.dtype`. Integers count as finite.
    """
    special = BY_NAME[dtype].special
    if special is None or array.size == 0:
        return 0
    mask, value = special
    return sum(int(np.count_nonzero((bits & mask) == value)) for bits in _chunks_of_bits(array))


def to_float32(array: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Return floating numbers of a checkpoint as float32; bfloat16 comes as its bits."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)


def from_float32(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return finite numbers in the storage of a floating dtype, rounded to the nearest, ties to even."""
    if dtype != "bfloat16":
        return array.astype(BY_NAME[dtype].storage)
    bits = array.astype(np.float32, copy=False).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _chunks_of_bits(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    width = 4 if array.dtype.kind == "c" else array.dtype.itemsize
    bits = np.ascontiguousarray(array).reshape(-1).view(f"u{width}")
    for start in range(0, bits.size, _CHUNK):
        yield bits[start : start + _CHUNK]
