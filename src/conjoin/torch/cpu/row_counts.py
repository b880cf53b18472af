"""Round the number of rows of a matrix product in training on a CPU, so that only few numbers occur.

oneDNN compiles a product for every new number of rows and keeps the result, which takes milliseconds and up to a
megabyte per layer shape. Real batches have another number of tokens at every step, so training would compile at every
step and grow by gigabytes.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

_SMALLEST_STEP = 16
"""Rows of an AMX tile; smaller steps would save no work."""


def rounded_up(rows: int) -> int:
    """Round up to a multiple of 16 and of a 32nd of the next power of two.

    At most 16 results lie between two powers of two, and at most a 16th is added to 256 rows or more.
    """
    step = max(_SMALLEST_STEP, 2 ** (rows.bit_length() - 5)) if rows else 1
    return -(-rows // step) * step


def with_filler(x: Shaped[Tensor, "N *any"]) -> Shaped[Tensor, "n *any"]:
    """Return x with rows of zeros appended, up to `rounded_up` rows."""
    missing = rounded_up(len(x)) - len(x)
    return torch.cat((x, x.new_zeros(missing, *x.shape[1:]))) if missing else x


def over_rounded_rows(layer: Callable[[Tensor], Tensor], x: Float[Tensor, "*lead n"]) -> Float[Tensor, "*lead m"]:
    """Return layer(x), computed over `rounded_up` rows; the layer must map each row on its own."""
    if not compiles_for_rows(x):
        return layer(x)
    rows = x.flatten(0, -2)
    return torch.unflatten(layer(with_filler(rows))[: len(rows)], 0, x.shape[:-1])


def compiles_for_rows(x: Tensor) -> bool:
    """True if oneDNN would compile for the number of x's rows: on a CPU, with gradients."""
    return x.device.type == "cpu" and torch.is_grad_enabled()
