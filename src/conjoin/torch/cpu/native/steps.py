"""Decoding steps of a whole stack in one kernel call: few tokens, no gradients, no hidden states or attentions.

The kernel computes the same as `Block.forward`. A stack with bricks that the kernel lacks has no `Steps`.
"""

import ctypes
from ctypes import POINTER, Structure, c_double, c_float, c_int64, c_void_p
from operator import is_
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from conjoin import spec
from conjoin.torch.cpu.native.checks import is_vector, refuse
from conjoin.torch.cpu.native.kernels import has
from conjoin.torch.cpu.native.library import library


def _fields(pointers: str = "", whole: str = "", **others: Any) -> list[tuple[str, Any]]:
    return [*((n, c_void_p) for n in pointers.split()), *others.items(), *((n, c_int64) for n in whole.split())]


class _Linear(Structure):
    _fields_ = _fields("w bias scale sums", "n m kind")


class _Norm(Structure):
    _fields_ = _fields("weight bias", "kind", eps=c_float, offset=c_float)


class _Branch(Structure):
    _fields_ = (("pre", _Norm), ("out", _Norm), ("post", _Norm))


class _Attention(Structure):
    _fields_ = (
        *((name, _Linear) for name in ("q", "k", "v", "o")),
        ("q_norm", _Norm),
        ("k_norm", _Norm),
        *_fields("gate", "heads kv_heads size window rotary norms_projection"),
        ("scale", c_double),
    )


class _Layer(Structure):
    _fields_ = (
        ("self_attn", _Attention),
        ("cross_attn", _Attention),
        *((name, _Branch) for name in ("self_norms", "cross_norms", "mlp_norms")),
        *((name, _Linear) for name in ("up", "gate", "down")),
        *_fields(whole="parallel activation has_cross"),
    )


class _CacheTensor(Structure):
    _fields_ = _fields("data", "row head time")


class _Angles(Structure):
    _fields_ = _fields("cos sin", "row width")


class _Call(Structure):
    _fields_ = (
        ("x", c_void_p),
        ("layers", POINTER(_Layer)),
        *((name, POINTER(_CacheTensor)) for name in ("self_k", "self_v", "cross_k", "cross_v")),
        ("angles", POINTER(_Angles)),
        *_fields("source_mask", "count rows length past hidden sources source_keys mask_row mask_key threads"),
    )


_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
_CACHES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.int8: "int8"}
_ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "quick_gelu", "tanh")
_LINEARS = (
    "torch.nn.modules.linear.Linear",
    "conjoin.torch.cpu.linear.Linear",
    "conjoin.torch.cpu.quantization.QuantizedLinear",
)
"""Names include the module: peft's adapters are called Linear as well and have the weight of the layer they wrap."""


class _Unsupported(Exception):
    """The kernels do not support a brick."""


class Steps:
    """Decoding steps of one stack on one cache.

    Holds pointers to the weights and the cache's tensors, and float32 copies of small parameters: after a change of
    weights a new object is needed. The object keeps the memory of all its pointers alive.
    """

    def __init__(self, stack: Any) -> None:
        self._held: list[Tensor] = []
        self._parameter_slots: list[tuple[dict[str, Any], str]] = []
        self._parameters: list[Tensor] = []
        self._copied: list[Tensor] = []
        self._rotary: list[spec.Rotary] = []
        self._smallest_head = 1 << 20  # size of the smallest head with rotary positions
        self._count = len(stack.spec.weights_of)
        self._hidden = stack.spec.hidden_size
        self._layers = (_Layer * self._count)()
        for layer, index in zip(self._layers, stack.spec.weights_of, strict=True):
            self._fill(layer, stack.blocks[index])
        self._cross = stack.spec.has_cross_attention
        self._pointers = [each.data_ptr() for each in self._parameters]
        self._copied_versions = self._versions()
        self._cache: list[Tensor] = []
        self._cache_fields: dict[str, Any] = {}

    @classmethod
    def of(cls, stack: Any) -> "Steps | None":
        """Return the steps of a stack; None if it has bricks or dtypes that the kernels do not know."""
        if library() is None or not has("float32"):
            return None
        try:
            return cls(stack)
        except _Unsupported:
            return None

    def _versions(self) -> list[int]:
        return [each._version for each in self._copied]

    def are_current(self) -> bool:
        """True if all parameters are the same tensors in the same memory, and those that were copied are unchanged."""
        now = [parameters.get(name) for parameters, name in self._parameter_slots]
        return (
            all(map(is_, now, self._parameters))
            and list(map(Tensor.data_ptr, self._parameters)) == self._pointers
            and self._versions() == self._copied_versions
        )

    def takes(self, cache: Any) -> bool:
        """True if a cache's tensors have one supported dtype, are in CPU memory and have contiguous heads."""
        dtype = cache.keys[0].dtype
        if dtype not in _CACHES or len({k.shape[2] for k, _ in cache.cross}) > 1:
            return False
        if not all(x.dtype == dtype and x.is_cpu and x.stride(3) == 1 for x in cache.tensors):
            return False
        self._point_at(cache)
        return True

    def _point_at(self, cache: Any) -> None:
        self._cache = cache.tensors
        sources, _, source_keys, _ = cache.cross[0][0].shape if self._cross else (len(cache.keys[0]), 0, 0, 0)
        self._cache_fields = {
            "self_k": _cache_tensors(cache.keys),
            "self_v": _cache_tensors(cache.values),
            "cross_k": _cache_tensors([k for k, _ in cache.cross]),
            "cross_v": _cache_tensors([v for _, v in cache.cross]),
            "sources": sources,
            "source_keys": source_keys,
        }

    @property
    def rotary(self) -> list[spec.Rotary]:
        """The kinds of rotary positions for which `run` takes angles, in this order."""
        return self._rotary

    def run(
        self,
        x: Float[Tensor, "R T D"],
        cache: Any,
        angles: list[tuple[Float[Tensor, "A 1 T W"], Float[Tensor, "A 1 T W"]]],
        source_mask: Bool[Tensor, "B S"] | None,
    ) -> Float[Tensor, "R T D"]:
        """Return the output of the last block and write new keys and values to the cache, without advancing it.

        Args:
            cache: Holds earlier positions, and every layer's cross keys and values. `takes` has returned True for it,
                and only its own methods have changed it since.
            angles: cos and sin in float32, for each of `rotary`.
        """
        supported = x.is_cpu and x.shape[2] == self._hidden and len(x) == len(cache.keys[0])
        if not supported or not self._take_angles(angles, x):
            refuse("steps", x=x, **{f"angles {index}": cos for index, (cos, _) in enumerate(angles)})
        rows, length = x.shape[:2]
        out = x.float().contiguous()
        out = out.clone() if out.data_ptr() == x.data_ptr() else out
        cache.reserve(length)
        tensors = cache.tensors
        if len(tensors) != len(self._cache) or not all(map(is_, tensors, self._cache)):
            self._point_at(cache)
        angle_fields = (_Angles * max(1, len(angles)))()
        for fields, (cos, sin) in zip(angle_fields, angles, strict=False):
            row = 0 if cos.shape[0] == 1 else cos.stride(0)
            fields.cos, fields.sin, fields.row, fields.width = cos.data_ptr(), sin.data_ptr(), row, cos.shape[-1]
        call = _Call(
            x=out.data_ptr(),
            layers=self._layers,
            angles=angle_fields,
            count=self._count,
            rows=rows,
            length=length,
            past=cache.length,
            hidden=self._hidden,
            threads=torch.get_num_threads(),
            **self._cache_fields,
        )
        if source_mask is not None:
            source_mask = source_mask.expand(call.sources, call.source_keys)
            call.source_mask = source_mask.data_ptr()
            call.mask_row, call.mask_key = source_mask.stride()
        _function(cache.keys[0].dtype)(ctypes.byref(call))
        return out.to(x.dtype)

    def _take_angles(self, angles: list[tuple[Tensor, Tensor]], x: Tensor) -> bool:
        return len(angles) == len(self._rotary) and all(_are_angles(*pair, x, self._smallest_head) for pair in angles)

    def _fill(self, layer: _Layer, block: Any) -> None:
        kind: spec.Block = block.kind
        if not kind.causal:
            raise _Unsupported
        layer.parallel = kind.parallel
        self._attention(layer.self_attn, block.self_attn, block.self_attn.rotary, block.self_attn.window)
        layer.has_cross = block.cross_attn is not None
        if block.cross_attn is not None:
            self._attention(layer.cross_attn, block.cross_attn, None, None)
            if block.cross_attn.gate is not None:
                layer.cross_attn.gate = self._float32_address(block.cross_attn, "gate")
        self._norms(layer.self_norms, block, "self_attn")
        self._norms(layer.mlp_norms, block, "mlp")
        if block.cross_attn is not None:
            self._norms(layer.cross_norms, block, "cross_attn")
        if kind.mlp.activation not in _ACTIVATIONS:
            raise _Unsupported
        layer.activation = _ACTIVATIONS.index(kind.mlp.activation)
        inner = kind.mlp.intermediate_size
        self._linear(layer.up, block.mlp.up, inner, self._hidden)
        self._linear(layer.down, block.mlp.down, self._hidden, inner)
        if isinstance(kind.mlp, spec.GatedMLP):
            self._linear(layer.gate, block.mlp.gate, inner, self._hidden)

    def _attention(self, fields: _Attention, brick: Any, rotary: spec.Rotary | None, window: int | None) -> None:
        kind: spec.Attention = brick.kind
        if kind.softcap is not None:
            raise _Unsupported
        inner, kv_inner = kind.num_heads * kind.head_size, kind.num_kv_heads * kind.head_size
        for name, outputs, inputs in (
            ("q", inner, self._hidden),
            ("k", kv_inner, None),
            ("v", kv_inner, None),
            ("o", self._hidden, inner),
        ):
            self._linear(getattr(fields, name), getattr(brick, name), outputs, inputs)
        if kind.qk_norm is not None:
            fields.norms_projection = kind.qk_norm.over == "projection"
            self._norm(fields.q_norm, brick.q_norm, kind.qk_norm.size(kind.num_heads, kind.head_size))
            self._norm(fields.k_norm, brick.k_norm, kind.qk_norm.size(kind.num_kv_heads, kind.head_size))
        fields.heads, fields.kv_heads, fields.size = kind.num_heads, kind.num_kv_heads, kind.head_size
        fields.scale, fields.window = kind.scale, window or 0
        if rotary is not None and rotary not in self._rotary:
            self._rotary.append(rotary)
        fields.rotary = -1 if rotary is None else self._rotary.index(rotary)
        if rotary is not None:
            self._smallest_head = min(self._smallest_head, kind.head_size)

    def _linear(self, fields: _Linear, brick: nn.Module, outputs: int, inputs: int | None) -> None:
        """Set the fields of a linear layer; `inputs` is None for keys and values, which read a source of any width."""
        weight, bias = getattr(brick, "weight", None), getattr(brick, "bias", None)
        supported = f"{type(brick).__module__}.{type(brick).__name__}" in _LINEARS
        if not supported or type(weight) is not nn.Parameter:
            raise _Unsupported
        kind = _KINDS.get(weight.dtype)
        if kind is None or not weight.is_contiguous() or weight.device.type != "cpu" or (kind and not _has(kind)):
            raise _Unsupported
        if weight.dim() != 2 or weight.shape[0] != outputs or weight.shape[1] != (inputs or weight.shape[1]):
            raise _Unsupported
        self._watch(brick, "weight")
        fields.w, fields.kind, (fields.m, fields.n) = weight.data_ptr(), kind, weight.shape
        fields.bias = None if bias is None else self._float32_address(brick, "bias", fields.m)
        if kind == _KINDS[torch.int8]:
            fields.scale = self._float32_address(brick, "scale", fields.m)
            sums = brick.row_sums()  # pyright: ignore
            if not is_vector(sums, fields.m, torch.int32):
                raise _Unsupported
            self._held.append(sums)
            self._copied += [] if weight.is_inference() else [weight]
            fields.sums = sums.data_ptr()

    def _norms(self, fields: _Branch, block: Any, branch: str) -> None:
        for norm, (name, kind) in zip((fields.pre, fields.out, fields.post), block.kind.norms_of(branch), strict=True):
            self._norm(norm, None if kind is None else getattr(block, name), self._hidden)

    def _norm(self, fields: _Norm, brick: nn.Module | None, size: int) -> None:
        if brick is None:
            return
        weight, bias = getattr(brick, "weight", None), getattr(brick, "bias", None)
        fields.weight = None if weight is None else self._float32_address(brick, "weight", size)
        fields.bias = None if bias is None else self._float32_address(brick, "bias", size)
        kind = getattr(brick, "kind", None)
        if isinstance(kind, spec.RMSNorm):
            fields.kind, fields.eps, fields.offset = 2, kind.eps, kind.offset
        elif isinstance(brick, nn.LayerNorm):
            fields.kind, fields.eps = 1, brick.eps
        else:
            raise _Unsupported

    def _float32_address(self, brick: nn.Module, name: str, size: int = 1) -> int:
        """Return the address of a small parameter in float32; a copy is kept alive."""
        parameter = self._watch(brick, name)
        wide = parameter.float().contiguous()
        if wide is not parameter and not parameter.is_inference():
            self._copied.append(parameter)
        if wide.numel() != size:
            raise _Unsupported
        self._held.append(wide)
        return wide.data_ptr()

    def _watch(self, brick: nn.Module, name: str) -> Tensor:
        """Return a parameter and keep its memory alive, which a module releases when it moves to another device."""
        parameter = brick._parameters.get(name)
        if parameter is None or not parameter.is_cpu:
            raise _Unsupported
        self._parameter_slots.append((brick._parameters, name))
        self._parameters.append(parameter)
        self._held.append(parameter.detach())
        return self._held[-1]


def _has(kind: int) -> bool:
    return has("bfloat16" if kind == _KINDS[torch.bfloat16] else "int8")


def _are_angles(cos: Tensor, sin: Tensor, x: Tensor, max_width: int) -> bool:
    rows, _, length, width = cos.shape
    return (
        cos.is_cpu
        and cos.dtype == sin.dtype == torch.float32
        and cos.shape == sin.shape
        and cos.stride() == sin.stride()
        and rows in (1, len(x))
        and length == x.shape[1]
        and cos.stride(3) == 1
        and cos.stride(2) == width
        and width <= max_width
    )


def _cache_tensors(tensors: list[Tensor]) -> Any:
    array = (_CacheTensor * max(1, len(tensors)))()
    for fields, tensor in zip(array, tensors, strict=False):
        fields.data, (fields.row, fields.head, fields.time, _) = tensor.data_ptr(), tensor.stride()
    return array


def _function(dtype: torch.dtype) -> Any:
    compiled = library()
    assert compiled is not None
    return compiled[f"conjoin_steps_{_CACHES[dtype]}"]
