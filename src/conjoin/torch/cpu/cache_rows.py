"""Rows of a cache in 8 bits: whole numbers from -127 to 127, and behind them their unit, a float32, as four bytes.

A position's keys of one head are one row and its values another, so whatever moves rows moves their units too.
"""

import torch
from jaxtyping import Float, Int8
from torch import Tensor
from torch.nn import functional as F

_MOST, _UNIT_BYTES = 127, 4


def to_bytes(x: Float[Tensor, "*lead E"]) -> Int8[Tensor, "*lead bytes"]:
    """Round every row to multiples of a 127th of its largest number; E is filled up to a multiple of 4."""
    wide = x.float()
    most = wide.abs().amax(-1, keepdim=True)
    whole = torch.where(most > 0, wide * most.new_tensor(_MOST).div(most), 0.0).round().to(torch.int8)
    return torch.cat((F.pad(whole, (0, -x.shape[-1] % _UNIT_BYTES)), (most / _MOST).view(torch.int8)), -1)


def from_bytes(rows: Int8[Tensor, "*lead bytes"], size: int, dtype: torch.dtype) -> Float[Tensor, "*lead E"]:
    """The numbers that rows of `size` stand for."""
    unit = rows[..., -_UNIT_BYTES:].contiguous().view(torch.float32)
    return (rows[..., :size].float() * unit).to(dtype)
