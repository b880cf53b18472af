"""The compiled library of the kernels that PyTorch calls."""

import ctypes
from functools import lru_cache

from conjoin.native.build import load


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, which have threads of their own; None without kernels."""
    return load("kernels.cpp")
