"""The kernels of training as functions of tensors: contiguous ones, of float32 or bfloat16."""

import ctypes
from ctypes import c_float, c_int, c_int64, c_uint64, c_void_p

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from conjoin.torch.native.kernels import SUFFIX, compiled_function

STEPS = 2**16
"""Shares of what dropout keeps are told in 65536ths."""


def soften(
    scores: Float[Tensor, "n H T S"],
    weights: Float[Tensor, "n H T S"],
    read: Float[Tensor, "n H T S"] | None,
    scale: float,
    allowed: Bool[Tensor, "#n #H #T #S"] | None,
    bias: Float[Tensor, "#n #H #T #S"] | None,
    *,
    kept: int = STEPS,
    seed: int = 0,
    first_row: int = 0,
) -> None:
    """Write softmax(scores * scale + bias) over what is allowed to weights; nothing allowed gives zeros.

    Args:
        scores: float32.
        weights: Dropped ones get a negative sign.
        read: Gets 0 where weights are dropped, and the others, grown so that the mean stays; None if all are kept.
        kept: Of 65536, not dropped.
        seed: Of draws by Philox, counted on from `first_row` rows: the same draws however rows are grouped.
    """
    mask_at, mask_strides = _laid_out(allowed, scores.shape)
    bias_at, bias_strides = _laid_out(None if bias is None else bias.float(), scores.shape)
    numbers = (*scores.shape, *mask_strides, *bias_strides, first_row, kept)
    sizes = (c_int64 * len(numbers))(*numbers)
    types = (*(c_void_p,) * 6, c_float, c_uint64, c_int)
    compiled_function(f"conjoin_soften_{SUFFIX[weights.dtype]}", *types)(
        scores.data_ptr(),
        weights.data_ptr(),
        None if read is None else read.data_ptr(),
        None if mask_at is None else mask_at.data_ptr(),
        None if bias_at is None else bias_at.data_ptr(),
        ctypes.addressof(sizes),
        scale,
        seed,
        torch.get_num_threads(),
    )


def _laid_out(x: Tensor | None, shape: torch.Size) -> tuple[Tensor | None, tuple[int, ...]]:
    """x with its last axis side by side, and the strides of the others where it stands for all of a shape."""
    if x is None:
        return None, (0, 0, 0)
    if x.shape[-1] != shape[-1] or (shape[-1] > 1 and x.stride(-1) != 1):
        x = x.expand(*x.shape[:-1], shape[-1]).contiguous()
    return x, x.expand(shape).stride()[:3]


def soften_backward(
    weights: Float[Tensor, "n H T S"],
    slope: Float[Tensor, "n H T S"],
    read: Float[Tensor, "n H T S"] | None,
    scale: float,
    *,
    kept: int = STEPS,
) -> None:
    """Turn the gradient of what was read into that of scores, in place.

    Args:
        weights: As `soften` wrote them.
        read: Gets what `soften` gave as such.
    """
    types = (*(c_void_p,) * 3, c_int64, c_int64, c_float, c_float, c_int)
    compiled_function(f"conjoin_soften_backward_{SUFFIX[weights.dtype]}", *types)(
        weights.data_ptr(),
        slope.data_ptr(),
        None if read is None else read.data_ptr(),
        weights.shape[:-1].numel(),
        weights.shape[-1],
        STEPS / kept,
        scale,
        torch.get_num_threads(),
    )


def drop(x: Float[Tensor, "*any"], *, kept: int, seed: int) -> Float[Tensor, "*any"]:
    """x / share where it is kept, 0 elsewhere; a seed keeps the same places each time.

    Args:
        kept: The share, in 65536ths.
    """
    x = x.contiguous()
    y = torch.empty_like(x)
    types = (c_void_p, c_void_p, c_int64, c_uint64, c_int64, c_int)
    compiled_function(f"conjoin_drop_{SUFFIX[x.dtype]}", *types)(
        x.data_ptr(), y.data_ptr(), x.numel(), seed, kept, torch.get_num_threads()
    )
    return y
