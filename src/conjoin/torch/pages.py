"""Memory for weights."""

import contextlib
import math
import mmap
import sys
from collections.abc import Sequence

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
