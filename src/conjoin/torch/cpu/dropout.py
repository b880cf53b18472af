"""Dropout that a CPU draws quickly.

PyTorch draws its masks one by one, on one core, at the price of a matrix product. Our kernel draws by counting, on all
cores, from a seed that PyTorch's generator gives; without it, four draws are made of one of that generator's 64-bit
numbers. Either way a seed gives one course of training, though not PyTorch's.
"""

from typing import Any

import torch
from jaxtyping import Float, Int16
from torch import Tensor
from torch.nn import functional as F

from conjoin.torch.cpu import native
from conjoin.torch.cpu.mode import is_eager

_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
_LEAST_ACCURACY = 1e-3
"""A rate is rounded to 1 / 65536; one that this changes by a larger share of itself is left to PyTorch."""


def dropout(x: Float[Tensor, "*any"], rate: float, training: bool = True) -> Float[Tensor, "*any"]:
    """Set a share of the values to 0 and scale the others up (Srivastava et al. 2014, JMLR 15)."""
    can_draw = training and is_eager(x) and x.is_cpu and x.numel() > 0 and x.dtype in _BITS and is_exact(rate)
    if not can_draw:
        return F.dropout(x, rate, training)
    drawn = _Seeded.apply(x, rate, new_seed()) if native.has("float32") else _Drawn.apply(x, rate)
    return drawn  # pyright: ignore[reportReturnType]


def is_exact(rate: float) -> bool:
    """True if a rate in 65536ths is near enough to the rate that was asked for."""
    error = abs(share_kept(rate) / native.STEPS - (1 - rate))
    return error < _LEAST_ACCURACY * min(rate, 1 - rate)


def share_kept(rate: float) -> int:
    """What a rate keeps, in 65536ths."""
    return round((1 - rate) * native.STEPS)


def scale_of(rate: float) -> float:
    """By what kept values grow, so that the mean stays; 1 over the share that is really kept."""
    return native.STEPS / share_kept(rate)


def new_seed() -> int:
    """63 bits of PyTorch's generator: what its profiler, too, takes for a whole number."""
    return int(torch.empty((), dtype=torch.int64).random_())


def draw(shape: torch.Size | list[int], rate: float) -> Int16[Tensor, "*shape"]:
    """A mask: all bits set where a value is kept, none where it is dropped."""
    count = torch.Size(shape).numel()
    numbers = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    edge = share_kept(rate) - native.STEPS // 2
    return numbers.view(torch.int16)[:count].clamp_(edge - 1, edge).sub_(edge).view(shape)


def keep(x: Float[Tensor, "*shape"], mask: Int16[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x where it is kept, 0 elsewhere."""
    bits = _BITS[x.dtype]
    return torch.bitwise_and(x.contiguous().view(bits), mask.to(bits)).view(x.dtype)


class _Drawn(torch.autograd.Function):
    """With a mask that is drawn and kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        mask = draw(x.shape, rate)
        ctx.save_for_backward(mask)
        ctx.scale = scale_of(rate)
        return keep(x, mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (mask,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            return dy * -mask * ctx.scale, None
        return keep(dy, mask).mul_(ctx.scale), None


class _Seeded(torch.autograd.Function):
    """With a mask that the kernel draws again when it is wanted again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float, seed: int) -> Tensor:
        ctx.rate, ctx.seed = rate, seed
        return native.drop(x, kept=share_kept(rate), seed=seed)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Seeded.apply(dy, ctx.rate, ctx.seed), None, None  # pyright: ignore[reportReturnType]
