"""The kernels as functions of tensors. Callers check `has` first; arguments are checked before a kernel reads them."""

import ctypes
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import cache
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from conjoin.torch.cpu.native.checks import is_matrix, is_vector, kept_width, on_cpu, refuse
from conjoin.torch.cpu.native.library import library

Kept = Float[Tensor, "B K S E"] | Int8[Tensor, "B K S bytes"]
Kernel = Literal["float32", "bfloat16", "int8"]
SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


def has(kernel: Kernel) -> bool:
    """True if this machine has compiled kernels, which every level has in float32, bfloat16 and int8."""
    return library() is not None


@cache
def compiled_function(name: str, *arguments: Any) -> Any:
    compiled = library()
    assert compiled is not None, "ask has() first"
    function = compiled[name]
    function.argtypes, function.restype = arguments, None
    return function


def _linear_function(dtype: torch.dtype) -> Any:
    pointer, size = c_void_p, c_int64
    return compiled_function(
        f"conjoin_linear_{SUFFIX[dtype]}", pointer, size, size, pointer, pointer, pointer, size, size, c_int
    )


def linear(
    x: Float[Tensor, "*lead n"], weight: Float[Tensor, "m n"], bias: Float[Tensor, " m"] | None
) -> Float[Tensor, "*lead m"]:
    """Return x W^T + b in float32 or bfloat16 (sums in float32); a row's result does not depend on the other rows.

    Args:
        weight: Contiguous, in x's dtype.
    """
    if not (x.is_cpu and is_matrix(weight, x.shape[-1], x.dtype) and is_vector(bias, weight.shape[0], x.dtype)):
        refuse("linear", x=x, weight=weight, bias=bias)
    rows, stride = _rows(x)
    outputs, inputs = weight.shape
    y = x.new_empty(*x.shape[:-1], outputs)
    _linear_function(x.dtype)(
        rows.data_ptr(),
        rows.shape[0],
        stride,
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        y.data_ptr(),
        inputs,
        outputs,
        torch.get_num_threads(),
    )
    return y


def linear_int8(
    x: Float[Tensor, "*lead n"],
    weight: Int8[Tensor, "m n"],
    scale: Float[Tensor, " m"],
    sums: Int[Tensor, " m"],
    bias: Float[Tensor, " m"] | None,
) -> Float[Tensor, "*lead m"]:
    """Return x (scale W)^T + b; every row of x is rounded to int8 with a scale of its own.

    Args:
        scale: float32, the scale of each row of the weight.
        sums: int32, the sum of each row of the weight.
        bias: In x's dtype.
    """
    if not (x.is_cpu and is_matrix(weight, x.shape[-1], torch.int8) and are_units(weight, scale, sums, bias, x.dtype)):
        refuse("linear_int8", x=x, weight=weight, scale=scale, sums=sums, bias=bias)
    rows, stride = _rows(x)
    outputs, inputs = weight.shape
    y = x.new_empty(*x.shape[:-1], outputs)
    pointer, size = c_void_p, c_int64
    types = (pointer, size, size, pointer, pointer, pointer, pointer, pointer, size, size, c_int)
    compiled_function(f"conjoin_linear_int8_{SUFFIX[x.dtype]}", *types)(
        rows.data_ptr(),
        rows.shape[0],
        stride,
        weight.data_ptr(),
        scale.data_ptr(),
        sums.data_ptr(),
        None if bias is None else bias.data_ptr(),
        y.data_ptr(),
        inputs,
        outputs,
        torch.get_num_threads(),
    )
    return y


def are_units(weight: Tensor, scale: Tensor, sums: Tensor, bias: Tensor | None, dtype: torch.dtype) -> bool:
    """True if scales, sums and biases have one value for every row of a weight."""
    rows = weight.shape[0]
    return is_vector(scale, rows, torch.float32) and is_vector(sums, rows, torch.int32) and is_vector(bias, rows, dtype)


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """Return x as a matrix with contiguous rows, and the stride between rows."""
    rows = x.reshape(-1, x.shape[-1])
    if rows.stride(-1) != 1 and rows.shape[-1] != 1:
        rows = rows.contiguous()
    return rows, rows.stride(0)


def attention(
    q: Float[Tensor, "R H T E"],
    k: Kept,
    v: Kept,
    scale: float,
    allowed: Bool[Tensor, "#B 1 #T #S"] | None = None,
    bias: Float[Tensor, "1 H #T #S"] | None = None,
) -> Float[Tensor, "R T H E"]:
    """Return softmax(q k^T * scale + bias) v over the allowed keys; of R = N B rows, N (beams) read each source.

    Keys and values are read once for all queries of a source. A query that may read no key returns zeros.

    Args:
        k, v: In q's dtype, or int8 rows of a cache (`cache_rows`).
        allowed: Broadcastable to the shape in the signature.
        bias: float32, broadcastable to the shape in the signature.
    """
    rows, heads, length, size = q.shape
    sources, kv_heads, keys, width = k.shape
    shapes_fit = (
        k.shape == v.shape and width == kept_width(size, k.dtype) and not rows % sources and not heads % kv_heads
    )
    dtypes_fit = (
        k.dtype == v.dtype and k.dtype in (q.dtype, torch.int8) and (allowed is None or allowed.dtype == torch.bool)
    )
    if not (shapes_fit and dtypes_fit and on_cpu(q, k, v, allowed, bias)):
        refuse("attention", q=q, k=k, v=v, allowed=allowed, bias=bias)
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    if allowed is not None:
        allowed = allowed.expand(sources, 1, length, keys)
    if bias is not None:
        bias = bias.float().expand(1, heads, length, keys)
    out = q.new_empty(rows, length, heads, size)
    mask_strides = (0, 0, 0) if allowed is None else (allowed.stride(0), allowed.stride(2), allowed.stride(3))
    bias_strides = (0, 0, 0) if bias is None else bias.stride()[1:]
    numbers = (sources, rows // sources, heads, kv_heads, length, keys, size)
    numbers += (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *mask_strides, *bias_strides)
    sizes = (c_int64 * len(numbers))(*numbers)
    types = (*(c_void_p,) * 7, c_float, c_int)
    cached = "int8_" if k.dtype == torch.int8 else ""
    compiled_function(f"conjoin_attention_{cached}{SUFFIX[q.dtype]}", *types)(
        q.data_ptr(),
        k.data_ptr(),
        v.data_ptr(),
        None if allowed is None else allowed.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
        ctypes.addressof(sizes),
        scale,
        torch.get_num_threads(),
    )
    return out
