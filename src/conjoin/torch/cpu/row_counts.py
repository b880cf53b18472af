"""How many rows a product of training has on a CPU: one of few numbers, whatever the batch.

oneDNN compiles a product for every number of rows that it meets, and keeps what it compiled: up to a megabyte for each
layer shape, and milliseconds. Batches of natural lengths have another number of tokens at every step, so a run would
compile at every step and grow by gigabytes.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

_SMALLEST_STEP = 16
"""Rows of a tile of AMX; below, more numbers of rows save no work."""


def rounded_up(rows: int) -> int:
    """At least as many rows: a multiple of 16, and of a 32nd of the next power of two.

    At most 16 numbers lie between two powers of two, and at most a 16th of the rows is added to 256 or more.
    """
    step = max(_SMALLEST_STEP, 2 ** (rows.bit_length() - 5)) if rows else 1
    return -(-rows // step) * step


def with_filler(x: Shaped[Tensor, "N *any"]) -> Shaped[Tensor, "n *any"]:
    """x with rows of zeros behind, up to `rounded_up` rows."""
    missing = rounded_up(len(x)) - len(x)
    return torch.cat((x, x.new_zeros(missing, *x.shape[1:]))) if missing else x


def over_rounded_rows(layer: Callable[[Tensor], Tensor], x: Float[Tensor, "*lead n"]) -> Float[Tensor, "*lead m"]:
    """layer(x) of a layer that maps each row on its own."""
    if not compiles_for_rows(x):
        return layer(x)
    rows = x.flatten(0, -2)
    return layer(with_filler(rows))[: len(rows)].unflatten(0, x.shape[:-1])


def compiles_for_rows(x: Tensor) -> bool:
    """Whether products of x are trained on a CPU, where the number of their rows matters."""
    return x.device.type == "cpu" and torch.is_grad_enabled()
