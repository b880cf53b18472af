"""Numpy arrays of the dtypes that numpy itself lacks, as JAX and TensorFlow take and give them."""

from typing import Any

import ml_dtypes
import numpy as np

from conjoin.checkpoint import TensorInfo

FLOATING = ("float32", "bfloat16", "float16", "float64")
_BITS: dict[str, Any] = {
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}
"""Dtypes that checkpoints give as bits."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of that name."""
    return np.dtype(_BITS.get(name, name))


def stored_dtype(infos: list[TensorInfo]) -> str:
    """The widest floating dtype among a checkpoint's tensors."""
    found = {info.dtype for info in infos} & set(FLOATING)
    return max(found, key=lambda name: numpy_dtype(name).itemsize, default="float32")


def with_meaning(array: np.ndarray, dtype: str) -> np.ndarray:
    """An array of bits as what they mean; others as they are."""
    return array.view(_BITS[dtype]) if dtype in _BITS and array.dtype.kind == "u" else array


def as_bits(array: np.ndarray) -> np.ndarray:
    """The inverse of `with_meaning`."""
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.name in _BITS else array
