"""Memory: large pages for weights, and what training frees kept for its next step."""

import contextlib
import ctypes
import math
import mmap
import platform
import sys
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_LEAST_BYTES = 64 * 1024


def weight_memory(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor on the CPU, in pages of 2 MB where Linux has them to give (madvise(2), MADV_HUGEPAGE).

    A decoding step reads every weight once, and memory gives more through large pages: 35 in place of 26 GB/s, where it
    was measured. Make all tensors before the first is filled: they lie side by side, and a page of 2 MB may lie under
    several.
    """
    size = math.prod(shape) * dtype.itemsize
    if sys.platform != "linux" or size < _LEAST_BYTES:
        return torch.empty(shape, dtype=dtype)
    # Not malloc: it writes in front of every tensor, and a page of 4 KB that is in use keeps a large one out.
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, where malloc is glibc's (mallopt(3)).

    A step of training frees gigabytes, and the next one needs them again: to take them from Linux each time, in pages
    of 4 KB full of zeros, costs as much as a tenth of the step. `give_freed_memory_back` ends it.
    """
    _set_malloc({_M_TRIM_THRESHOLD: -1, _M_MMAP_MAX: 0})


def give_freed_memory_back() -> None:
    """Hand to Linux what is kept and not in use (malloc_trim(3)), and from now on what is freed.

    malloc's thresholds are then where its own rule takes them in a process that has freed large tensors.
    """
    _set_malloc({_M_TRIM_THRESHOLD: 64 * 2**20, _M_MMAP_THRESHOLD: 32 * 2**20, _M_MMAP_MAX: 65536})
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h


def _set_malloc(values: dict[int, int]) -> None:
    if (libc := _glibc()) is not None:
        for name, value in values.items():
            libc.mallopt(name, value)


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
