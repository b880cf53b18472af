"""Dtypes by name, and numpy arrays of those that numpy itself lacks."""

from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from conjoin.checkpoint import TensorInfo
from conjoin.errors import ConfigError

_FLOATING = ("float32", "bfloat16", "float16", "float64")
_BITS: dict[str, Any] = {
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}
"""Dtypes that checkpoints give as bits."""


def dtype_name(dtype: Any) -> str:
    """A floating dtype's name from its name or from itself.

    Raises:
        ConfigError: no floating dtype of that name.
    """
    given = dtype.removeprefix("torch.") if isinstance(dtype, str) else dtype
    try:
        name = jnp.dtype(given).name
    except TypeError:
        name = str(given)
    if name not in _FLOATING:
        raise ConfigError(f"dtype = {dtype!r}; expected one of {', '.join(_FLOATING)}.")
    return name


def stored_dtype(infos: list[TensorInfo]) -> str:
    """The widest floating dtype among a checkpoint's tensors."""
    found = {info.dtype for info in infos} & set(_FLOATING)
    return max(found, key=lambda name: np.dtype(jnp.dtype(name)).itemsize, default="float32")


def with_meaning(array: np.ndarray, dtype: str) -> np.ndarray:
    """An array of bits as what they mean; others as they are."""
    return array.view(_BITS[dtype]) if dtype in _BITS and array.dtype.kind == "u" else array


def as_bits(array: np.ndarray) -> np.ndarray:
    """The inverse of `with_meaning`."""
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.name in _BITS else array
