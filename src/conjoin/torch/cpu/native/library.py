"""The kernels that PyTorch calls."""

import ctypes
from functools import lru_cache
from pathlib import Path

import torch

from conjoin.native.build import load


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels, on PyTorch's own OpenMP library, so that one pool of threads serves both; None without."""
    openmp = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))[:1]
    return load("kernels.cpp", "-fopenmp", *map(str, openmp))
