"""The compiled library of the kernels that PyTorch calls."""

import ctypes
from functools import lru_cache
from pathlib import Path

import torch

from conjoin.native.build import load


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, on PyTorch's OpenMP so that both share one thread pool; None without kernels."""
    openmp = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))[:1]
    return load("kernels.cpp", "-fopenmp", *map(str, openmp))
