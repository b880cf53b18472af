"""int8 rows of a cache: integers from -127 to 127, followed by their scale, a float32, as four bytes.

The key of one position and head is one row and its value another, so a copy of rows copies their scales too.
"""

import torch
from jaxtyping import Float, Int8
from torch import Tensor
from torch.nn import functional as F

_MOST, _SCALE_BYTES = 127, 4


def to_bytes(x: Float[Tensor, "*lead E"]) -> Int8[Tensor, "*lead bytes"]:
    """Round every row to multiples of a 127th of its largest number; E is padded to a multiple of 4."""
    wide = x.float()
    most = wide.abs().amax(-1, keepdim=True)
    whole = torch.where(most > 0, wide * most.new_tensor(_MOST).div(most), 0.0).round().to(torch.int8)
    return torch.cat((F.pad(whole, (0, -x.shape[-1] % _SCALE_BYTES)), (most / _MOST).view(torch.int8)), -1)


def from_bytes(rows: Int8[Tensor, "*lead bytes"], size: int, dtype: torch.dtype) -> Float[Tensor, "*lead E"]:
    """Return the numbers that rows of `size` represent."""
    scale = rows[..., -_SCALE_BYTES:].contiguous().view(torch.float32)
    return (rows[..., :size].float() * scale).to(dtype)
