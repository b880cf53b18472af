"""Fast dropout on a CPU.

PyTorch draws its masks value by value on one core, which takes as long as a matrix product. Our kernel uses a
counter-based generator on all cores, seeded by PyTorch's generator; without the kernel, each 64-bit number of PyTorch's
generator serves four values. Either way a seed makes training reproducible, though not equal to PyTorch's own dropout.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int16
from torch import Tensor
from torch.nn import functional as F

from conjoin.torch.cpu import native
from conjoin.torch.cpu.mode import is_eager

_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
_LEAST_ACCURACY = 1e-3
"""Rates are rounded to 1 / 65536; PyTorch handles those that rounding changes by more than this share."""


def dropout(x: Float[Tensor, "*any"], rate: float, training: bool = True) -> Float[Tensor, "*any"]:
    """Return x with a share of its values set to 0 and the others scaled up (Srivastava et al. 2014, JMLR 15)."""
    can_draw = training and is_eager(x) and x.is_cpu and x.numel() > 0 and x.dtype in _BITS and is_exact(rate)
    if not can_draw:
        return F.dropout(x, rate, training)
    return cast(Any, _Seeded).apply(x, rate, new_seed()) if native.has("float32") else cast(Any, _Drawn).apply(x, rate)


def is_exact(rate: float) -> bool:
    """True if a rate is accurate enough when it is rounded to 65536ths."""
    error = abs(share_kept(rate) / native.STEPS - (1 - rate))
    return error < _LEAST_ACCURACY * min(rate, 1 - rate)


def share_kept(rate: float) -> int:
    """Return the keep probability of a dropout rate, in 65536ths."""
    return round((1 - rate) * native.STEPS)


def scale_of(rate: float) -> float:
    """Return the factor of kept values that preserves the mean: 1 over the rounded keep probability."""
    return native.STEPS / share_kept(rate)


def new_seed() -> int:
    """Return 63 random bits of PyTorch's generator, which fit the signed integers of its profiler."""
    return int(torch.empty((), dtype=torch.int64).random_())


def draw(shape: torch.Size | list[int], rate: float) -> Int16[Tensor, "*shape"]:
    """Return a mask that has all bits set where a value is kept, and none where it is dropped."""
    count = torch.Size(shape).numel()
    numbers = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    edge = share_kept(rate) - native.STEPS // 2
    return numbers.view(torch.int16)[:count].clamp_(edge - 1, edge).sub_(edge).view(shape)


def keep(x: Float[Tensor, "*shape"], mask: Int16[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return x where the mask keeps it, 0 elsewhere."""
    bits = _BITS[x.dtype]
    return torch.bitwise_and(x.contiguous().view(bits), mask.to(bits)).view(x.dtype)


class _Drawn(torch.autograd.Function):
    """Dropout that saves its mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        mask = draw(x.shape, rate)
        ctx.save_for_backward(mask)
        ctx.scale = scale_of(rate)
        return keep(x, mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (mask,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient will be differentiated
            return dy * -mask * ctx.scale, None
        return keep(dy, mask).mul_(ctx.scale), None


class _Seeded(torch.autograd.Function):
    """Dropout that saves its seed, from which the kernel draws the mask again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float, seed: int) -> Tensor:
        ctx.rate, ctx.seed = rate, seed
        return native.drop(x, kept=share_kept(rate), seed=seed)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return cast(Any, _Seeded).apply(dy, ctx.rate, ctx.seed), None, None
