"""Decoding steps of a whole stack in one call of our kernels: few tokens, no gradient, nothing collected on the way.

`Block.forward` says what is computed; this hands the same work over, as far as a stack's bricks are known here.
"""

import ctypes
from ctypes import POINTER, Structure, c_double, c_float, c_int64, c_void_p
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from conjoin import spec
from conjoin.torch.native.kernels import has
from conjoin.torch.native.library import library


def _fields(pointers: str = "", whole: str = "", **others: Any) -> list[tuple[str, Any]]:
    return [*((n, c_void_p) for n in pointers.split()), *others.items(), *((n, c_int64) for n in whole.split())]


class _Linear(Structure):
    _fields_ = _fields("w bias scale sums", "n m kind")


class _Norm(Structure):
    _fields_ = _fields("weight bias", "kind", eps=c_float, offset=c_float)


class _Attention(Structure):
    _fields_ = (
        *((name, _Linear) for name in ("q", "k", "v", "o")),
        ("q_norm", _Norm),
        ("k_norm", _Norm),
        *_fields("gate", "heads kv_heads size window rotary"),
        ("scale", c_double),
    )


class _Layer(Structure):
    _fields_ = (
        ("self_attn", _Attention),
        ("cross_attn", _Attention),
        *((name, _Norm) for name in ("self_norm", "cross_norm", "mlp_norm", "self_post", "cross_post", "mlp_post")),
        *((name, _Linear) for name in ("up", "gate", "down")),
        *_fields(whole="order activation has_cross"),
    )


class _Kept(Structure):
    _fields_ = _fields("data", "row head time")


class _Angles(Structure):
    _fields_ = _fields("cos sin", "row width")


class _Call(Structure):
    _fields_ = (
        ("x", c_void_p),
        ("layers", POINTER(_Layer)),
        *((name, POINTER(_Kept)) for name in ("self_k", "self_v", "cross_k", "cross_v")),
        ("angles", POINTER(_Angles)),
        *_fields("source_mask", "count rows length past hidden sources source_keys mask_row mask_key threads"),
    )


_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
_CACHES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.int8: "int8"}
_ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "quick_gelu", "tanh")
_LINEARS = (
    "torch.nn.modules.linear.Linear",
    "conjoin.torch.linear.Linear",
    "conjoin.torch.quantization.QuantizedLinear",
)
"""With their modules: an adapter around one of them is called Linear as well, and has its weight (peft's)."""
_ORDERS = (spec.PostNorm, spec.PreNorm, spec.SandwichNorm, spec.ParallelNorm)


class _Unknown(Exception):
    """A brick that the kernels do not know."""


class Steps:
    """The blocks of one stack, ready to be run on a cache.

    Holds pointers to the weights, and float32 copies of what is small: weights that change afterwards need a new one.
    """

    def __init__(self, stack: Any) -> None:
        self._held: list[Tensor] = []
        self._rotary: list[spec.Rotary] = []
        self._count = len(stack.spec.weights_of)
        self._layers = (_Layer * self._count)()
        for layer, index in zip(self._layers, stack.spec.weights_of, strict=True):
            self._fill(layer, stack.blocks[index])
        self._hidden = stack.spec.hidden_size
        self._cross = stack.spec.has_cross_attention

    @classmethod
    def of(cls, stack: Any) -> "Steps | None":
        """The steps of a stack; None where it has bricks, hooks or numbers that the kernels do not know."""
        compiled = library()
        if compiled is None or not has("float32") or is_watched(stack):
            return None
        try:
            return cls(stack)
        except _Unknown:
            return None

    @property
    def rotary(self) -> list[spec.Rotary]:
        """The kinds of rotary positions whose angles `run` takes, in this order."""
        return self._rotary

    def run(
        self,
        x: Float[Tensor, "R T D"],
        cache: Any,
        angles: list[tuple[Float[Tensor, "A 1 T W"], Float[Tensor, "A 1 T W"]]],
        source_mask: Bool[Tensor, "B S"] | None,
    ) -> Float[Tensor, "R T D"]:
        """What the blocks make of x; the cache gets the new positions' keys and values, but is not advanced.

        Args:
            cache: A KVCache that holds earlier positions, and every layer's cross keys and values.
            angles: float32.
        """
        rows, length = x.shape[:2]
        made = x.float().contiguous()
        made = made.clone() if made.data_ptr() == x.data_ptr() else made
        cache.reserve(length)
        turns = (_Angles * max(1, len(angles)))()
        for turn, (cos, sin) in zip(turns, angles, strict=False):
            row = 0 if cos.shape[0] == 1 else cos.stride(0)
            turn.cos, turn.sin, turn.row, turn.width = cos.data_ptr(), sin.data_ptr(), row, cos.shape[-1]
        call = _Call(
            x=made.data_ptr(),
            layers=self._layers,
            self_k=_kept(cache.keys),
            self_v=_kept(cache.values),
            cross_k=_kept([k for k, _ in cache.cross]),
            cross_v=_kept([v for _, v in cache.cross]),
            angles=turns,
            count=self._count,
            rows=rows,
            length=length,
            past=cache.length,
            hidden=self._hidden,
            sources=cache.cross[0][0].shape[0] if self._cross else rows,
            source_keys=cache.cross[0][0].shape[2] if self._cross else 0,
            threads=torch.get_num_threads(),
        )
        if source_mask is not None:
            call.source_mask = source_mask.data_ptr()
            call.mask_row, call.mask_key = source_mask.stride()
        _function(cache.keys[0].dtype)(ctypes.byref(call))
        return made.to(x.dtype)

    def _fill(self, layer: _Layer, block: Any) -> None:
        kind = block.kind
        if type(kind.norm) not in _ORDERS or not kind.causal:
            raise _Unknown
        layer.order = _ORDERS.index(type(kind.norm))
        self._attention(layer.self_attn, block.self_attn, block.self_attn.rotary, block.self_attn.window)
        layer.has_cross = block.cross_attn is not None
        if block.cross_attn is not None:
            self._attention(layer.cross_attn, block.cross_attn, None, None)
            if block.cross_attn.gate is not None:
                layer.cross_attn.gate = self._small(block.cross_attn.gate)
        for part, name in (("self", "self_attn"), ("cross", "cross_attn"), ("mlp", "mlp")):
            self._norm(getattr(layer, f"{part}_norm"), getattr(block, f"{name}_norm", None))
            self._norm(getattr(layer, f"{part}_post"), getattr(block, f"{name}_post_norm", None))
        if kind.mlp.activation not in _ACTIVATIONS:
            raise _Unknown
        layer.activation = _ACTIVATIONS.index(kind.mlp.activation)
        self._linear(layer.up, block.mlp.up)
        self._linear(layer.down, block.mlp.down)
        if isinstance(kind.mlp, spec.GatedMLP):
            self._linear(layer.gate, block.mlp.gate)

    def _attention(self, made: _Attention, brick: Any, rotary: spec.Rotary | None, window: int | None) -> None:
        kind: spec.Attention = brick.kind
        if kind.softcap is not None:
            raise _Unknown
        for name in ("q", "k", "v", "o"):
            self._linear(getattr(made, name), getattr(brick, name))
        self._norm(made.q_norm, brick.q_norm)
        self._norm(made.k_norm, brick.k_norm)
        made.heads, made.kv_heads, made.size = kind.num_heads, kind.num_kv_heads, kind.head_size
        made.scale, made.window = kind.scale, window or 0
        if rotary is not None and rotary not in self._rotary:
            self._rotary.append(rotary)
        made.rotary = -1 if rotary is None else self._rotary.index(rotary)

    def _linear(self, made: _Linear, brick: nn.Module) -> None:
        weight, bias = getattr(brick, "weight", None), getattr(brick, "bias", None)
        known = f"{type(brick).__module__}.{type(brick).__name__}" in _LINEARS
        if not known or type(weight) is not nn.Parameter:
            raise _Unknown
        kind = _KINDS.get(weight.dtype)
        if kind is None or not weight.is_contiguous() or weight.device.type != "cpu" or (kind and not _has(kind)):
            raise _Unknown
        self._held.append(weight)
        made.w, made.kind, (made.m, made.n) = weight.data_ptr(), kind, weight.shape
        made.bias = None if bias is None else self._small(bias)
        if kind == _KINDS[torch.int8]:
            made.scale = self._small(brick.get_parameter("scale"))
            sums = brick.row_sums()  # pyright: ignore
            self._held.append(sums)
            made.sums = sums.data_ptr()

    def _norm(self, made: _Norm, brick: nn.Module | None) -> None:
        if brick is None:
            return
        weight, bias = getattr(brick, "weight", None), getattr(brick, "bias", None)
        made.weight = None if weight is None else self._small(weight)
        made.bias = None if bias is None else self._small(bias)
        kind = getattr(brick, "kind", None)
        if isinstance(kind, spec.RMSNorm):
            made.kind, made.eps, made.offset = 2, kind.eps, kind.offset
        elif isinstance(brick, nn.LayerNorm):
            made.kind, made.eps = 1, brick.eps
        else:
            raise _Unknown

    def _small(self, tensor: Tensor) -> int:
        """A pointer to a float32 form of a vector, which is held."""
        wide = tensor.detach().float().contiguous()
        if wide.device.type != "cpu":
            raise _Unknown
        self._held.append(wide)
        return wide.data_ptr()


def _has(kind: int) -> bool:
    return has("bfloat16" if kind == _KINDS[torch.bfloat16] else "int8")


def is_watched(stack: nn.Module) -> bool:
    """Whether somebody hangs on what a module of this one reads or makes."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in stack.modules())


def _kept(tensors: list[Tensor]) -> Any:
    made = (_Kept * max(1, len(tensors)))()
    for kept, tensor in zip(made, tensors, strict=False):
        kept.data, (kept.row, kept.head, kept.time, _) = tensor.data_ptr(), tensor.stride()
    return made


def _function(dtype: torch.dtype) -> Any:
    compiled = library()
    assert compiled is not None
    return compiled[f"conjoin_steps_{_CACHES[dtype]}"]
