"""Small copies beside our kernels, in the caller's thread alone.

PyTorch shares a copy of 32,768 numbers or an indexing operation of any size among the threads of its OpenMP, and these
spin for milliseconds afterwards, on the processors that the kernels' threads then want: encoding one sentence took
twice as long. These are without gradients.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

_SHARED = 32768
"""Numbers from which on PyTorch shares an operation among threads (`at::internal::GRAIN_SIZE`)."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def rows_where(x: Shaped[Tensor, "B S D"], real: Bool[Tensor, "B S"]) -> Shaped[Tensor, "tokens D"]:
    """Return x[real]."""
    if not x.is_cpu or x.requires_grad:
        return x[real]
    rows = _bits(x).numpy()[real.numpy()]
    return torch.from_numpy(rows).view(x.dtype)


def spread_where(rows: Shaped[Tensor, "tokens D"], real: Bool[Tensor, "B S"]) -> Shaped[Tensor, "B S D"]:
    """Return a tensor with these rows where `real` is True, in order, and zeros elsewhere."""
    shape = (*real.shape, rows.shape[1])
    if not rows.is_cpu or rows.requires_grad:
        out = rows.new_zeros(shape)
        out[real] = rows
        return out
    bits = _bits(rows).numpy()
    padded = np.zeros(shape, bits.dtype)
    padded[real.numpy()] = bits
    return torch.from_numpy(padded).view(rows.dtype)


def converted(x: Float[Tensor, "N D"], dtype: torch.dtype) -> Float[Tensor, "N D"]:
    """Return x.to(dtype)."""
    return x if x.dtype == dtype else joined([x], dtype)


def joined(parts: Sequence[Float[Tensor, "_ D"]], dtype: torch.dtype) -> Float[Tensor, "N D"]:
    """Return parts one below the other, in another dtype."""
    if any(not part.is_cpu or part.requires_grad for part in parts):
        return torch.cat([*parts]).to(dtype)
    width = parts[0].shape[1]
    out, row = torch.empty(sum(map(len, parts)), width, dtype=dtype), 0
    few = max(1, (_SHARED - 1) // max(1, width))
    for part in parts:
        for start in range(0, len(part), few):
            some = part[start : start + few]
            out[row : row + len(some)].copy_(some)
            row += len(some)
    return out


def _bits(x: Tensor) -> Tensor:
    """Return the same memory as integers, which NumPy knows for every dtype."""
    return x.detach().contiguous().view(_INTEGERS[x.element_size()])
