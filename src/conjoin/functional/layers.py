"""Linear maps, norms, activations and feed-forward bricks."""

import math

from jaxtyping import Float

from conjoin import spec
from conjoin.functional.ops import Array, Ops
from conjoin.functional.scope import Scope


def linear(here: Scope, x: Float[Array, "*lead n"]) -> Float[Array, "*lead m"]:
    """Return x W^T + b; W is (out, in)."""
    mapped, bias = product(here, "weight", x), here.get("bias")
    return mapped if bias is None else mapped + bias


def product(here: Scope, name: str, x: Float[Array, "*lead n"]) -> Float[Array, "*lead m"]:
    """Return x W^T for a matrix, computed from its transposed copy if there is one."""
    transposed = here.transposed(name)
    matrix = here[name] if transposed is None else transposed
    if is_float16(matrix) and not is_float16(x):
        matrix = here.ops.cast(matrix, x.dtype)
    return here.ops.linear(x, matrix, transposed=transposed is not None)


def is_float16(x: Array) -> bool:
    """True if the dtype is float16, whose largest number is 65504."""
    return x.dtype.name == "float16"


def norm(
    here: Scope, kind: spec.Norm, x: Float[Array, "*lead D"], own: tuple[int, int] | None = None
) -> Float[Array, "*lead D"]:
    """Normalise over the last axis, in float32.

    Args:
        own: Shape of the weights of a LayerNorm that has some for each entry of the axis before it.
    """
    match kind:
        case spec.RMSNorm():
            return _rms_norm(here, kind, x)
        case spec.LayerNorm(eps=eps) | spec.BareLayerNorm(eps=eps):
            return _layer_norm(here, eps, x, own or (-1,))


def _layer_norm(here: Scope, eps: float, x: Array, shape: tuple[int, ...]) -> Array:
    ops = here.ops
    wide = ops.cast(x, "float32")
    centred = wide - ops.mean(wide, -1, keepdims=True)
    normed = centred * ops.rsqrt(ops.mean(centred * centred, -1, keepdims=True) + eps)
    weight, bias = here.get("weight"), here.get("bias")
    if weight is not None:
        normed = normed * ops.reshape(ops.cast(weight, "float32"), shape)
    if bias is not None:
        normed = normed + ops.reshape(ops.cast(bias, "float32"), shape)
    return ops.cast(normed, x.dtype)


def _rms_norm(here: Scope, kind: spec.RMSNorm, x: Array) -> Array:
    ops = here.ops
    wide = ops.cast(x, "float32")
    normed = wide * ops.rsqrt(ops.mean(wide * wide, -1, keepdims=True) + kind.eps)
    weight = here["weight"]
    dtype = weight.dtype if is_float16(weight) else x.dtype
    if kind.scale_in_float32:
        return ops.cast(normed * (ops.cast(weight, "float32") + kind.offset), dtype)
    return ops.cast(normed, dtype) * (weight + kind.offset)


def activate(ops: Ops, kind: spec.Activation, x: Array) -> Array:
    """The activation of that name."""
    match kind:
        case "gelu":
            return x * 0.5 * (1.0 + ops.erf(x * math.sqrt(0.5)))
        case "gelu_tanh":  # Hendrycks & Gimpel 2016, arXiv:1606.08415
            return 0.5 * x * (1.0 + ops.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))
        case "relu":
            return ops.maximum(x, 0.0)
        case "silu":
            return x * ops.sigmoid(x)
        case "quick_gelu":
            return x * ops.sigmoid(1.702 * x)
        case "tanh":
            return ops.tanh(x)


def mlp(here: Scope, kind: spec.MLP, x: Float[Array, "*lead D"], *, wide: bool = False) -> Float[Array, "*lead D"]:
    """Map every vector on its own.

    Args:
        wide: As `spec.Block.wide_in_float16`.
    """
    up = linear(here / "up", x)
    if wide and is_float16(up):
        up = here.ops.cast(up, "float32")
    match kind:
        case spec.PlainMLP():
            inner = activate(here.ops, kind.activation, up)
        case spec.GatedMLP():
            gate = activate(here.ops, kind.activation, linear(here / "gate", x))
            inner = here.ops.cast(gate, up.dtype) * up
    return linear(here / "down", here.dropout(inner, kind.activation_dropout, "inner"))
