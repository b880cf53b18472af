"""The kernels of RMSNorm, gated activations and rotary positions in training, as functions of tensors."""

import ctypes
from ctypes import c_float, c_int, c_int64, c_void_p

import torch
from jaxtyping import Float
from torch import Tensor

from conjoin import spec
from conjoin.torch.cpu.native.checks import is_matrix, is_vector, on_cpu, refuse
from conjoin.torch.cpu.native.kernels import SUFFIX, compiled_function
from conjoin.torch.cpu.native.training import like_tokens, whole_heads

GATES: dict[spec.Activation, int] = {"gelu": 0, "gelu_tanh": 1, "silu": 2}
"""The activations that `gated` knows, and their numbers there."""

_PART_ROWS = 32
"""Rows whose part of a norm's weight gradient is summed by one thread."""


def rms_norm(
    x: Float[Tensor, "rows D"], weight: Float[Tensor, " D"], eps: float, offset: float, dtype: torch.dtype
) -> Float[Tensor, "rows D"]:
    """Return x / sqrt(mean(x^2) + eps) * (weight + offset), row by row.

    Args:
        x: float32 or bfloat16, contiguous.
        weight: float32.
        dtype: Of the result: x's, or float32.
    """
    _check_norm("rms_norm", x, weight)
    y = torch.empty_like(x, dtype=dtype)
    types = (*(c_void_p,) * 3, c_int64, c_int64, c_float, c_float, c_int)
    compiled_function(f"conjoin_rms_norm_{SUFFIX[x.dtype]}_{SUFFIX[dtype]}", *types)(
        x.data_ptr(), weight.data_ptr(), y.data_ptr(), *x.shape, eps, offset, torch.get_num_threads()
    )
    return y


def rms_norm_backward(
    dy: Float[Tensor, "rows D"],
    x: Float[Tensor, "rows D"],
    weight: Float[Tensor, " D"],
    eps: float,
    offset: float,
    *,
    of_weight: bool,
) -> tuple[Float[Tensor, "rows D"], Float[Tensor, " D"] | None]:
    """Return the gradients of `rms_norm` by x and, if `of_weight`, by the weight."""
    _check_norm("rms_norm_backward", x, weight)
    if not (is_matrix(dy, x.shape[1], dy.dtype) and len(dy) == len(x) and dy.dtype in (x.dtype, torch.float32)):
        refuse("rms_norm_backward", dy=dy, x=x)
    dx = torch.empty_like(x)
    parts = weight.new_empty(-(-len(x) // _PART_ROWS), len(weight)) if of_weight else None
    types = (*(c_void_p,) * 5, c_int64, c_int64, c_int64, c_float, c_float, c_int)
    compiled_function(f"conjoin_rms_norm_backward_{SUFFIX[x.dtype]}_{SUFFIX[dy.dtype]}", *types)(
        dy.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        dx.data_ptr(),
        None if parts is None else parts.data_ptr(),
        _PART_ROWS,
        *x.shape,
        eps,
        offset,
        torch.get_num_threads(),
    )
    return dx, None if parts is None else parts.sum(0)


def _check_norm(kernel: str, x: Tensor, weight: Tensor) -> None:
    size = weight.numel()
    if not (is_matrix(x, size, x.dtype) and is_vector(weight, size, torch.float32)):
        refuse(kernel, x=x, weight=weight)


def gated(activation: spec.Activation, gate: Float[Tensor, "*any"], up: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return activation(gate) * up of contiguous tensors in float32 or bfloat16."""
    _check_alike("gated", gate=gate, up=up)
    y = torch.empty_like(gate)
    compiled_function(f"conjoin_gated_{SUFFIX[gate.dtype]}", *(c_void_p,) * 3, c_int64, c_int64, c_int)(
        gate.data_ptr(), up.data_ptr(), y.data_ptr(), gate.numel(), GATES[activation], torch.get_num_threads()
    )
    return y


def gated_backward(
    activation: spec.Activation, dy: Float[Tensor, "*any"], gate: Float[Tensor, "*any"], up: Float[Tensor, "*any"]
) -> tuple[Float[Tensor, "*any"], Float[Tensor, "*any"]]:
    """Return the gradients of `gated` by gate and up."""
    _check_alike("gated_backward", dy=dy, gate=gate, up=up)
    dgate, dup = torch.empty_like(gate), torch.empty_like(up)
    compiled_function(f"conjoin_gated_backward_{SUFFIX[gate.dtype]}", *(c_void_p,) * 5, c_int64, c_int64, c_int)(
        dy.data_ptr(),
        gate.data_ptr(),
        up.data_ptr(),
        dgate.data_ptr(),
        dup.data_ptr(),
        gate.numel(),
        GATES[activation],
        torch.get_num_threads(),
    )
    return dgate, dup


def _check_alike(kernel: str, **tensors: Tensor) -> None:
    first, *others = tensors.values()
    alike = all(x.shape == first.shape and x.dtype == first.dtype for x in others)
    if not (alike and on_cpu(*tensors.values()) and all(x.is_contiguous() for x in tensors.values())):
        refuse(kernel, **tensors)


def rotate(
    x: Float[Tensor, "R H T E"], cos: Float[Tensor, "#R 1 T size"], sin: Float[Tensor, "#R 1 T size"], *, back: bool
) -> Float[Tensor, "R H T E"]:
    """Rotate the leading dimensions of every head; the result has the layout of `like_tokens`.

    Args:
        cos, sin: float32, contiguous; their two halves are equal.
        back: Rotate by the negative angles, as the gradient does.
    """
    rows, heads, tokens, size = x.shape
    turned = cos.shape[-1]
    fit = (
        cos.shape == sin.shape
        and cos.shape[:-1] in ((rows, 1, tokens), (1, 1, tokens))
        and turned <= size
        and not turned % 2
        and cos.dtype == sin.dtype == torch.float32
        and cos.is_contiguous()
        and sin.is_contiguous()
        and on_cpu(x, cos, sin)
    )
    if not fit:
        refuse("rotate", x=x, cos=cos, sin=sin)
    x = whole_heads(x)
    y = like_tokens(x, size)
    angle_row = 0 if len(cos) == 1 else tokens * turned
    numbers = (rows, heads, tokens, size, turned, *x.stride()[:3], *y.stride()[:3], angle_row)
    sizes = (c_int64 * len(numbers))(*numbers)
    compiled_function(f"conjoin_rotate_{SUFFIX[x.dtype]}", *(c_void_p,) * 5, c_float, c_int)(
        ctypes.addressof(sizes),
        x.data_ptr(),
        y.data_ptr(),
        cos.data_ptr(),
        sin.data_ptr(),
        -1.0 if back else 1.0,
        torch.get_num_threads(),
    )
    return y
