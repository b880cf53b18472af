"""The structs of native/stack.h and native/pass.h, field by field in the same order."""

from ctypes import POINTER, Structure, c_double, c_float, c_int64, c_void_p
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _fields(pointers: str = "", whole: str = "", **others: Any) -> list[tuple[str, Any]]:
    return [*((n, c_void_p) for n in pointers.split()), *others.items(), *((n, c_int64) for n in whole.split())]


class Linear(Structure):
    """A matrix (m outputs, n inputs) with its bias; int8 has a scale and a sum per row."""

    _fields_ = _fields("w bias scale sums", "n m kind")


class Norm(Structure):
    """A norm; kind 0 is none."""

    _fields_ = _fields("weight bias", "kind", eps=c_float, offset=c_float)


class Branch(Structure):
    """The norms of a branch."""

    _fields_ = (("pre", Norm), ("out", Norm), ("post", Norm))


class Attention(Structure):
    """Projections and sizes of an attention."""

    _fields_ = (
        *((name, Linear) for name in ("q", "k", "v", "o")),
        ("q_norm", Norm),
        ("k_norm", Norm),
        *_fields("gate", "heads kv_heads size window ahead rotary norms_over"),
        ("scale", c_double),
        ("softcap", c_double),
    )


class Bias(Structure):
    """A table of biases, a row per head."""

    _fields_ = _fields("values", "reach width")


class Layer(Structure):
    """A block."""

    _fields_ = (
        ("self_attn", Attention),
        ("cross_attn", Attention),
        *((name, Branch) for name in ("self_norms", "cross_norms", "mlp_norms")),
        *((name, Linear) for name in ("up", "gate", "down")),
        *_fields(whole="parallel activation has_cross source state"),
        ("residual_scale", c_double),
        ("bias", Bias),
    )


class Table(Structure):
    """Rows of an embedding."""

    _fields_ = _fields("rows", "count size kind")


class Embedding(Structure):
    """What becomes of ids."""

    _fields_ = (
        ("words", Table),
        ("positions", Table),
        ("types", Table),
        ("norm", Norm),
        ("projection", Linear),
        *_fields("replacement", "replaced projects first_position padding_id padding_row"),
        ("scale", c_double),
    )


class Head(Structure):
    """From states to logits."""

    _fields_ = (
        ("projection", Linear),
        ("dense", Linear),
        ("vocab", Linear),
        ("norm", Norm),
        ("activation", c_int64),
        ("scale", c_double),
        ("softcap", c_double),
    )


class Angles(Structure):
    """Cosines and sines of one kind of rotary positions, a row per position."""

    _fields_ = _fields("cos sin", "count width")


class Stack(Structure):
    """All of them."""

    _fields_ = (
        ("layers", POINTER(Layer)),
        ("angles", POINTER(Angles)),
        ("embedding", Embedding),
        ("final_norm", Norm),
        ("head", Head),
        *_fields("states", "state_count count hidden causal continues"),
    )


class CacheTensor(Structure):
    """Keys or values of one layer."""

    _fields_ = _fields("data", "row head time")


class Call(Structure):
    """One call of a pass."""

    _fields_ = (
        ("stack", POINTER(Stack)),
        *_fields("sources x hidden logits seconds", "count every_token threads"),
    )


SOURCE = (
    "self_k", "self_v", "cross_k", "cross_v", "mask", "slots", "ids", "types", "places", "first_slot", "cross_row",
    "ids_row", "keys", "mask_key", "rows", "past", "length",
)  # fmt: skip
"""Fields of `Source` in pass.h, all of 8 bytes."""
Sources = np.ndarray
SOURCE_DTYPE = np.dtype([(name, np.int64) for name in SOURCE])

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
"""Of weights."""
CACHES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.int8: "int8"}
"""Of keys and values, as names of functions have them."""


def cache_tensors(tensors: list[Tensor]) -> Any:
    """Return tensors of a cache, one per layer, as the kernels read them."""
    array = (CacheTensor * max(1, len(tensors)))()
    for fields, tensor in zip(array, tensors, strict=False):
        fields.data, (fields.row, fields.head, fields.time, _) = tensor.data_ptr(), tensor.stride()
    return array
