"""Memory: large pages for weights, and what training frees kept for its next step."""

import contextlib
import ctypes
import math
import mmap
import platform
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

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


class KeptMemory:
    """Lets this process keep memory that a step of training frees, where malloc is glibc's (mallopt(3)).

    A step frees gigabytes, and the next one needs them again: to take them from Linux each time, in pages of 4 KB full
    of zeros, costs as much as a tenth of the step. But batches differ in size, so what is kept breaks into pieces that
    fit less and less, and grows. What a process holds is therefore compared with the most that was ever in use, and
    handed back where it is too much more.
    """

    def __init__(self) -> None:
        _set_malloc({_M_TRIM_THRESHOLD: -1, _M_MMAP_MAX: 0})
        _hand_back()
        self._most_in_use = 0
        self._others = resident_bytes() - in_use_bytes()

    def look(self) -> None:
        """Note what is in use now; to be called where that may be most."""
        self._most_in_use = max(self._most_in_use, in_use_bytes())

    def limit(self) -> None:
        """Hand free memory to Linux where too much is kept; to be called between steps."""
        self.look()
        if resident_bytes() - self._others > _MOST_KEPT * self._most_in_use:
            _hand_back()

    def give_back(self) -> None:
        """Hand to Linux what is kept and not in use (malloc_trim(3)), and from now on what is freed.

        malloc's thresholds are then where its own rule takes them in a process that has freed large tensors.
        """
        _set_malloc({_M_TRIM_THRESHOLD: 64 * 2**20, _M_MMAP_THRESHOLD: 32 * 2**20, _M_MMAP_MAX: 65536})
        _hand_back()


_MOST_KEPT = 1.4
"""Times what was ever in use; a step alone takes up to 1.25 times what is in use at its loss."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h


def resident_bytes() -> int:
    """Memory that this process has of Linux (proc(5)); 0 elsewhere."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


def in_use_bytes() -> int:
    """Memory that was asked of malloc and not freed (mallinfo2(3)); 0 where malloc is not glibc's, of 2.33 or later."""
    libc = _glibc()
    if libc is None or not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = _MallocInfo
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


class _MallocInfo(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    )


def _hand_back() -> None:
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _set_malloc(values: dict[int, int]) -> None:
    if (libc := _glibc()) is not None:
        for name, value in values.items():
            libc.mallopt(name, value)


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
