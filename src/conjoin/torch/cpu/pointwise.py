"""RMSNorm, gated activations and rotary positions with gradients on a CPU, each read and written once (decision 53).

By PyTorch's operators each is half a dozen passes over memory forward and a dozen backward, which together take as long
as half of the matrix products of a small language model.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from conjoin import spec
from conjoin.torch.cpu import native
from conjoin.torch.cpu.mode import mode_of

_DTYPES = (torch.float32, torch.bfloat16)


def _trains(*tensors: Tensor) -> bool:
    return mode_of(*tensors) == "training" and native.has("float32") and all(x.dtype in _DTYPES for x in tensors)


def norms_in_training(x: Tensor, weight: Tensor) -> bool:
    """True if `rms_norm` supports these tensors: training on a CPU by a weight in float32."""
    return weight.dtype == torch.float32 and _trains(x, weight)


def rms_norm(
    x: Float[Tensor, "*lead D"],
    weight: Float[Tensor, " D"],
    kind: spec.RMSNorm,
    by_operators: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, "*lead D"]:
    """Return the norm of every vector, in the dtype that `by_operators`, the same function, gives it.

    Args:
        weight: float32.
    """
    dtype = x.dtype if kind.scale_in_float32 else torch.float32
    return cast(Any, _RMSNorm).apply(x, weight, kind, dtype, by_operators)


def gates_in_training(activation: spec.Activation, gate: Tensor, up: Tensor) -> bool:
    """True if `gated` supports these tensors: training on a CPU with an activation that it knows."""
    return activation in native.GATES and gate.dtype == up.dtype and _trains(gate, up)


def gated(
    activation: spec.Activation,
    gate: Float[Tensor, "*any"],
    up: Float[Tensor, "*any"],
    by_operators: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, "*any"]:
    """Return activation(gate) * up; `by_operators` is the same function."""
    return cast(Any, _Gated).apply(gate, up, activation, by_operators)


def rotates_in_training(x: Tensor, cos: Tensor) -> bool:
    """True if `rotate` supports these tensors: training on a CPU with angles in float32, of every position."""
    return cos.shape[2] == x.shape[2] and cos.dtype == torch.float32 and not cos.requires_grad and _trains(x, cos)


def rotate(
    x: Float[Tensor, "R H T E"], cos: Float[Tensor, "#R 1 T size"], sin: Float[Tensor, "#R 1 T size"]
) -> Float[Tensor, "R H T E"]:
    """Rotate the leading dimensions of every head.

    Args:
        cos, sin: float32; their two halves are equal.
    """
    return cast(Any, _Rotated).apply(x, cos.contiguous(), sin.contiguous(), False)


def _differentiable(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], needed: Sequence[bool], dy: Tensor
) -> list[Tensor | None]:
    """Return gradients that can be differentiated: those of the function by PyTorch's operators."""
    wanted = [x for x, needs in zip(inputs, needed, strict=True) if needs]
    gradients = iter(torch.autograd.grad(function(*inputs), wanted, dy, create_graph=True))
    return [next(gradients) if needs else None for needs in needed]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, kind: spec.RMSNorm, dtype: torch.dtype, by_operators: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kind, ctx.by_operators = kind, by_operators
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        y = native.rms_norm(rows, weight.contiguous(), kind.eps, kind.offset, dtype)
        return torch.ops.aten._unsafe_view(y, list(x.shape))  # a view could not be modified in place

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        needed, kind = ctx.needs_input_grad[:2], ctx.kind
        if torch.is_grad_enabled():
            return *_differentiable(ctx.by_operators, (x, weight), needed, dy), None, None, None
        rows, grads = (t.reshape(-1, t.shape[-1]).contiguous() for t in (x, dy))
        dx, dweight = native.rms_norm_backward(
            grads, rows, weight.contiguous(), kind.eps, kind.offset, of_weight=needed[1]
        )
        return dx.view(x.shape) if needed[0] else None, dweight, None, None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: spec.Activation, by_operators: Any) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation, ctx.by_operators = activation, by_operators
        return native.gated(activation, gate.contiguous(), up.contiguous())

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            return *_differentiable(ctx.by_operators, (gate, up), needed, dy), None, None
        gradients = native.gated_backward(ctx.activation, *(t.contiguous() for t in (dy, gate, up)))
        return *(grad if needs else None for grad, needs in zip(gradients, needed, strict=True)), None, None


class _Rotated(torch.autograd.Function):
    """Rotation; its gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.back = back
        return native.rotate(x, cos, sin, back=back)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return cast(Any, _Rotated).apply(dy, *ctx.saved_tensors, not ctx.back), None, None, None
