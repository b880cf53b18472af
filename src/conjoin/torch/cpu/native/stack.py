"""A stack as our kernels see it, and passes over it: embedding, blocks, final norm and head in one native call.

The kernels compute what `Stack.run` and `Head.forward` compute. A stack with bricks that they lack has no
`NativeStack`; `reason_against` says why.
"""

import ctypes
from ctypes import POINTER, Structure, addressof, byref, c_double, c_float, c_int64, c_void_p
from dataclasses import dataclass
from operator import is_
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from conjoin import spec
from conjoin.spec.native import ACTIVATIONS, reason_against_blocks, reason_against_embedding, reason_against_head
from conjoin.torch.cpu.clock import NativeSeconds, running
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
        *_fields("gate", "heads kv_heads size window ahead rotary norms_over"),
        ("scale", c_double),
        ("softcap", c_double),
    )


class _Bias(Structure):
    _fields_ = _fields("values", "reach width")


class _Layer(Structure):
    _fields_ = (
        ("self_attn", _Attention),
        ("cross_attn", _Attention),
        *((name, _Branch) for name in ("self_norms", "cross_norms", "mlp_norms")),
        *((name, _Linear) for name in ("up", "gate", "down")),
        *_fields(whole="parallel activation has_cross source state"),
        ("residual_scale", c_double),
        ("bias", _Bias),
    )


class _Table(Structure):
    _fields_ = _fields("rows", "count size kind")


class _Embedding(Structure):
    _fields_ = (
        ("words", _Table),
        ("positions", _Table),
        ("types", _Table),
        ("norm", _Norm),
        ("projection", _Linear),
        *_fields("replacement", "replaced projects first_position padding_id padding_row"),
        ("scale", c_double),
    )


class _Head(Structure):
    _fields_ = (
        ("projection", _Linear),
        ("dense", _Linear),
        ("vocab", _Linear),
        ("norm", _Norm),
        ("activation", c_int64),
        ("scale", c_double),
        ("softcap", c_double),
    )


class _Angles(Structure):
    _fields_ = _fields("cos sin", "count width")


class _Stack(Structure):
    _fields_ = (
        ("layers", POINTER(_Layer)),
        ("angles", POINTER(_Angles)),
        ("embedding", _Embedding),
        ("final_norm", _Norm),
        ("head", _Head),
        *_fields("states", "state_count count hidden causal continues"),
    )


class CacheTensor(Structure):
    """Keys or values of one layer."""

    _fields_ = _fields("data", "row head time")


class _Call(Structure):
    _fields_ = (
        ("stack", POINTER(_Stack)),
        *_fields("sources x hidden logits seconds", "count every_token threads"),
    )


SOURCE = (
    "self_k", "self_v", "cross_k", "cross_v", "mask", "slots", "ids", "types", "places", "first_slot", "cross_row",
    "ids_row", "keys", "mask_key", "rows", "past", "length",
)  # fmt: skip
"""Fields of `Source` in pass.h, all of 8 bytes."""
Sources = np.ndarray
SOURCE_DTYPE = np.dtype([(name, np.int64) for name in SOURCE])

_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
CACHES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.int8: "int8"}
_LINEARS = (
    "torch.nn.modules.linear.Linear",
    "conjoin.torch.cpu.linear.Linear",
    "conjoin.torch.cpu.quantization.QuantizedLinear",
)
"""Names include the module: peft's adapters are called Linear as well and have the weight of the layer they wrap."""
MOST_PLACES = 1 << 20
"""Positions up to which angles and relative biases are tabulated."""


class Unsupported(Exception):
    """The kernels lack a brick."""


@dataclass(frozen=True, slots=True)
class _Tables:
    """Angles and biases for positions below `count`."""

    count: int
    angles: list[tuple[Tensor, Tensor]]
    biases: list[Tensor]


class NativeStack:
    """The weights of one stack as the kernels read them.

    Holds pointers to the weights, and float32 copies of small parameters: after a change of weights a new object is
    needed. The object keeps the memory of all its pointers alive.

    Attributes:
        embeds: True if the kernels know the embedding; else callers embed the ids.
        scores: True if they know the head, too.
        rotary: The kinds of rotary positions of its blocks.
    """

    def __init__(self, stack: Any) -> None:
        self._held: list[Tensor] = []
        self._parameter_slots: list[tuple[dict[str, Any], str]] = []
        self._parameters: list[Tensor] = []
        self._copied: list[Tensor] = []
        self.rotary: list[spec.Rotary] = []
        self.spec: spec.StackSpec = stack.spec
        self._biases = [stack.blocks[index].relative_bias or stack.relative_bias for index in self.spec.weights_of]
        self._rotary_angles = stack.rotary_angles
        kind, fields = self.spec, _Stack()
        self._fields = fields
        fields.count, fields.hidden, fields.causal = len(kind.weights_of), kind.hidden_size, kind.blocks[0].causal
        _require(reason_against_blocks(kind))
        self._layers = (_Layer * fields.count)()
        fields.layers = self._layers
        for layer, index, block in zip(self._layers, kind.weights_of, kind.blocks, strict=True):
            self._fill(layer, stack.blocks[index])
            _read_source(layer, block.self_attn.source)
        fields.continues = kind.continues_source
        self._states = torch.tensor(kind.states, dtype=torch.long)
        fields.states, fields.state_count = self._states.data_ptr(), len(kind.states)
        self._norm(fields.final_norm, stack.final_norm, kind.hidden_size)
        for bias in self._biases:
            if isinstance(getattr(bias, "kind", None), spec.RelativeBias):
                self._watch(bias, "weight")
                self._copied.append(bias.weight)
        self.embeds = self._try(self._embedding, fields.embedding, stack.embed)
        head = getattr(stack, "head", None)
        self.scores = head is not None and self._try(self._head, fields.head, head, stack.embed)
        self._pointers = [each.data_ptr() for each in self._parameters]
        self._copied_versions = self._versions()
        self._module_slots = [(each._modules, name) for each in stack.modules() for name in each._modules]
        self._modules = [modules[name] for modules, name in self._module_slots]
        self._hooks = [hooks for each in stack.modules() for hooks in (each._forward_hooks, each._forward_pre_hooks)]
        self._tables = _Tables(0, [], [])

    @classmethod
    def of(cls, stack: Any) -> "NativeStack | None":
        """Return the kernels' view of a stack; None if it has bricks or dtypes that they do not know."""
        if library() is None or not has("float32"):
            return None
        try:
            return cls(stack)
        except Unsupported:
            return None

    def _try(self, fill: Any, *arguments: Any) -> bool:
        try:
            fill(*arguments)
        except Unsupported:
            return False
        return True

    def _versions(self) -> list[int]:
        return [0 if each.is_inference() else each._version for each in self._copied]

    def are_current(self) -> bool:
        """True if the stack is as it was: its modules, its parameters and their memory, the values of copied ones.

        It is not if a module has a hook, which would not be called.
        """
        now = [parameters.get(name) for parameters, name in self._parameter_slots]
        modules = [held.get(name) for held, name in self._module_slots]
        return (
            all(map(is_, now, self._parameters))
            and all(map(is_, modules, self._modules))
            and list(map(Tensor.data_ptr, self._parameters)) == self._pointers
            and self._versions() == self._copied_versions
            and not any(self._hooks)
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of keys and values."""
        return torch.bfloat16 if self._layers[0].self_attn.k.kind == _KINDS[torch.bfloat16] else torch.float32

    @property
    def hidden_size(self) -> int:
        """Width of the states."""
        return self._fields.hidden

    @property
    def source_size(self) -> int:
        """Width of what the stack reads of a source."""
        if self.spec.continues_source:
            return self.hidden_size * (1 + max(layer.state for layer in self._layers))
        first = self._layers[0]
        return (first.self_attn if first.source else first.cross_attn).k.n

    @property
    def address(self) -> int:
        """Address of the stack's description, for native loops."""
        return addressof(self._fields)

    def reach(self, places: int) -> None:
        """Tabulate rotary angles and relative biases for positions below `places`."""
        if places <= self._tables.count or not (self.rotary or any(self._biases)):
            return
        count = max(64, 1 << (places - 1).bit_length())
        positions = torch.arange(count)[None]
        pairs = [self._rotary_angles(kind, positions, torch.float32) for kind in self.rotary]
        angles = [tuple(x[0, 0].contiguous() for x in pair) for pair in pairs]
        array = (_Angles * max(1, len(angles)))()
        for fields, (cos, sin) in zip(array, angles, strict=False):
            fields.cos, fields.sin, (fields.count, fields.width) = cos.data_ptr(), sin.data_ptr(), cos.shape
        biases = {bias: _bias_table(bias, count) for bias in self._biases if bias is not None}
        for layer, bias in zip(self._layers, self._biases, strict=True):
            if bias is not None:
                values = biases[bias]
                layer.bias.values, layer.bias.width = values.data_ptr(), values.shape[1]
                layer.bias.reach = 0 if _is_by_key(bias) else count
        self._fields.angles = array
        self._tables = _Tables(count, angles, list(biases.values()))  # pyright: ignore[reportArgumentType]

    def run(
        self,
        sources: Sources,
        dtype: torch.dtype,
        *,
        x: Float[Tensor, "tokens D"] | None = None,
        hidden: Float[Tensor, "tokens D"] | None = None,
        logits: Float[Tensor, "rows V"] | None = None,
        every_token: bool = False,
    ) -> None:
        """Read the new tokens of sources: write their keys and values to the cache, and what is asked for to tensors.

        Args:
            sources: Entries of SOURCE_DTYPE, whose pointers and sizes the caller vouches for.
            dtype: Of the cache's tensors.
            x: Embedded tokens in float32, where the sources have no ids.
            hidden: Takes the output: the last hidden states, or several side by side.
            logits: Takes the logits of every hypothesis' last token, or of every token.
        """
        tokens = int((sources["rows"] * sources["length"]).sum())
        rows = tokens if every_token else int(sources["rows"].sum())
        if not (
            _takes(x, tokens, self.hidden_size)
            and _takes(hidden, tokens, self.spec.output_size)
            and _takes(logits, rows, self._fields.head.vocab.m)
        ):
            refuse("pass", x=x, hidden=hidden, logits=logits)
        self._call(f"conjoin_pass_{CACHES[dtype]}", sources, x, hidden, logits, every_token)

    def read_sources(self, sources: Sources, dtype: torch.dtype, states: Float[Tensor, "tokens M"]) -> None:
        """Write every layer's keys and values of encoded sources to the cache.

        Args:
            sources: As for `run`, `length` tokens each in one row, to be written at positions `past` and behind.
            states: The encoder's output, as this stack reads it, in float32.
        """
        tokens, width = int((sources["rows"] * sources["length"]).sum()), self.source_size
        if not _takes(states, tokens, width):
            refuse("read_sources", states=states)
        self._call(f"conjoin_read_sources_{CACHES[dtype]}", sources, states, None, None, False, width)

    def _call(
        self,
        name: str,
        sources: Sources,
        x: Tensor | None,
        hidden: Tensor | None,
        logits: Tensor | None,
        every_token: bool,
        *more: int,
    ) -> None:
        call = _Call(
            stack=ctypes.pointer(self._fields),
            sources=sources.ctypes.data,
            x=_address(x),
            hidden=_address(hidden),
            logits=_address(logits),
            count=len(sources),
            every_token=every_token,
            threads=torch.get_num_threads(),
        )
        compiled, clock = library(), running()
        assert compiled is not None
        seconds = None if clock is None else NativeSeconds()
        call.seconds = None if seconds is None else addressof(seconds)
        compiled[name](byref(call), *map(c_int64, more))
        if clock is not None and seconds is not None:
            clock.divide([*seconds])

    def _fill(self, layer: _Layer, block: Any) -> None:
        kind: spec.Block = block.kind
        layer.parallel, layer.residual_scale = kind.parallel, kind.residual_scale
        self._attention(layer.self_attn, block.self_attn, block.self_attn.rotary, kind.self_attn.sides)
        layer.has_cross = block.cross_attn is not None
        if block.cross_attn is not None:
            self._attention(layer.cross_attn, block.cross_attn, None, None)
            if block.cross_attn.gate is not None:
                layer.cross_attn.gate = self._float32_address(block.cross_attn, "gate")
        self._norms(layer.self_norms, block, "self_attn")
        self._norms(layer.mlp_norms, block, "mlp")
        if block.cross_attn is not None:
            self._norms(layer.cross_norms, block, "cross_attn")
        layer.activation = ACTIVATIONS.index(kind.mlp.activation)
        inner, hidden = kind.mlp.intermediate_size, self.hidden_size
        self._linear(layer.up, block.mlp.up, inner, hidden)
        self._linear(layer.down, block.mlp.down, hidden, inner)
        if isinstance(kind.mlp, spec.GatedMLP):
            self._linear(layer.gate, block.mlp.gate, inner, hidden)

    def _attention(self, fields: _Attention, brick: Any, rotary: spec.Rotary | None, sides: spec.Sides | None) -> None:
        kind: spec.Attention = brick.kind
        inner, kv_inner = kind.num_heads * kind.head_size, kind.num_kv_heads * kind.head_size
        for name, outputs, inputs in (
            ("q", inner, self.hidden_size),
            ("k", kv_inner, None),
            ("v", kv_inner, None),
            ("o", self.hidden_size, inner),
        ):
            self._linear(getattr(fields, name), getattr(brick, name), outputs, inputs)
        if kind.qk_norm is not None:
            fields.norms_over = ("head", "projection", "each_head").index(kind.qk_norm.over)
            self._norm(fields.q_norm, brick.q_norm, kind.qk_norm.size(kind.num_heads, kind.head_size))
            self._norm(fields.k_norm, brick.k_norm, kind.qk_norm.size(kind.num_kv_heads, kind.head_size))
        fields.heads, fields.kv_heads, fields.size = kind.num_heads, kind.num_kv_heads, kind.head_size
        fields.scale, fields.softcap = kind.scale, kind.softcap or 0.0
        fields.window, fields.ahead = sides or (0, 0)
        if rotary is not None and rotary not in self.rotary:
            self.rotary.append(rotary)
        fields.rotary = -1 if rotary is None else self.rotary.index(rotary)

    def _embedding(self, fields: _Embedding, brick: Any) -> None:
        kind: spec.Embedding = brick.kind
        _require(reason_against_embedding(kind))
        self._table(fields.words, brick.words)
        if brick.positions is not None:
            self._table(fields.positions, brick.positions)
        if brick.token_types is not None:
            self._table(fields.types, brick.token_types)
        if kind.norm is not None:
            inner = self.hidden_size if kind.projection is None or kind.projection.when == "words" else kind.size
            self._norm(fields.norm, brick.norm, inner)
        if kind.projection is not None:
            self._linear(fields.projection, brick.projection, self.hidden_size, kind.size)
            fields.projects = 1 if kind.projection.when == "words" else 2
        fields.first_position, fields.padding_id = kind.first_row, -1
        skipped = spec.skipped_pads(kind.position)
        if skipped is not None and skipped.pads == "ids":
            fields.padding_id, fields.padding_row = skipped.padding_id, skipped.padding_position
        if kind.replaced is not None:
            fields.replacement, fields.replaced = self._float32_address(brick, "replacement", kind.size), kind.replaced
        weight = brick.words.weight
        rounded = torch.tensor(kind.scale, dtype=weight.dtype) if kind.round_scale else kind.scale
        fields.scale = float(rounded)

    def _head(self, fields: _Head, brick: Any, embed: Any) -> None:
        kind: spec.Head = brick.kind
        _require(reason_against_head(kind))
        if brick.projection is not None:
            self._linear(fields.projection, brick.projection, kind.size, self.hidden_size)
        if brick.dense is not None and kind.transform is not None:
            self._linear(fields.dense, brick.dense, kind.size, self.hidden_size)
            self._norm(fields.norm, brick.norm, kind.size)
            fields.activation = ACTIVATIONS.index(kind.transform.activation)
        if brick.vocab is not None:
            self._linear(fields.vocab, brick.vocab, kind.vocab_size, kind.size)
        elif type(embed.words) is nn.Embedding:
            self._linear(fields.vocab, embed.words, kind.vocab_size, kind.size)
        else:
            raise Unsupported(f"an embedding of type {type(embed.words).__name__}")
        if brick.bias is not None:
            fields.vocab.bias = self._float32_address(brick, "bias", kind.vocab_size)
        fields.scale, fields.softcap = kind.scale, kind.softcap or 0.0

    def _table(self, fields: _Table, brick: nn.Module) -> None:
        if type(brick) is not nn.Embedding:
            raise Unsupported(f"an embedding of type {type(brick).__name__}")
        weight = self._watch(brick, "weight")
        if weight.dtype not in (torch.float32, torch.bfloat16) or not weight.is_contiguous():
            raise Unsupported(f"an embedding in {weight.dtype}")
        fields.rows, fields.kind, (fields.count, fields.size) = weight.data_ptr(), _KINDS[weight.dtype], weight.shape

    def _linear(self, fields: _Linear, brick: nn.Module, outputs: int, inputs: int | None) -> None:
        """Set the fields of a linear layer; `inputs` is None for keys and values, which read a source of any width."""
        weight, bias = getattr(brick, "weight", None), getattr(brick, "bias", None)
        name = f"{type(brick).__module__}.{type(brick).__name__}"
        if not (name in _LINEARS or type(brick) is nn.Embedding) or type(weight) is not nn.Parameter:
            raise Unsupported(f"a layer of type {type(brick).__name__}")
        kind = _KINDS.get(weight.dtype)
        if kind is None or not weight.is_contiguous() or weight.device.type != "cpu" or (kind and not _has(kind)):
            raise Unsupported(f"weights in {weight.dtype} on {weight.device}")
        if weight.dim() != 2 or weight.shape[0] != outputs or weight.shape[1] != (inputs or weight.shape[1]):
            raise Unsupported(f"a weight of shape {tuple(weight.shape)}")
        self._watch(brick, "weight")
        fields.w, fields.kind, (fields.m, fields.n) = weight.data_ptr(), kind, weight.shape
        fields.bias = None if bias is None else self._float32_address(brick, "bias", fields.m)
        if kind == _KINDS[torch.int8]:
            fields.scale = self._float32_address(brick, "scale", fields.m)
            sums = brick.row_sums()  # pyright: ignore
            if not is_vector(sums, fields.m, torch.int32):
                raise Unsupported("sums of a quantised weight")
            self._held.append(sums)
            self._copied.append(weight)
            fields.sums = sums.data_ptr()

    def _norms(self, fields: _Branch, block: Any, branch: str) -> None:
        for norm, (name, kind) in zip((fields.pre, fields.out, fields.post), block.kind.norms_of(branch), strict=True):
            self._norm(norm, None if kind is None else getattr(block, name), self.hidden_size)

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
            raise Unsupported(f"a norm of type {type(brick).__name__}")

    def _float32_address(self, brick: nn.Module, name: str, size: int = 1) -> int:
        """Return the address of a small parameter in float32; a copy is kept alive."""
        parameter = self._watch(brick, name)
        wide = parameter.float().contiguous()
        if wide is not parameter:
            self._copied.append(parameter)
        if wide.numel() != size:
            raise Unsupported(f"a parameter of shape {tuple(parameter.shape)}")
        self._held.append(wide)
        return wide.data_ptr()

    def _watch(self, brick: nn.Module, name: str) -> Tensor:
        """Return a parameter and keep its memory alive, which a module releases when it moves to another device."""
        parameter = brick._parameters.get(name)
        if parameter is None or not parameter.is_cpu:
            raise Unsupported("parameters outside the CPU's memory")
        self._parameter_slots.append((brick._parameters, name))
        self._parameters.append(parameter)
        self._held.append(parameter.detach())
        return self._held[-1]


def _is_by_key(bias: Any) -> bool:
    """True if a bias depends on positions of keys, not on distances alone."""
    return isinstance(bias.kind, spec.Alibi) and bias.kind.rounded


def _bias_table(bias: Any, count: int) -> Tensor:
    """Return a bias per head by the position of a key below `count`, or by distances up to it."""
    if _is_by_key(bias):
        return bias.heights(torch.arange(count)[None])[0].contiguous()
    return bias.by_distance(count).float().contiguous()


def _read_source(layer: _Layer, source: spec.MergedSource | spec.PrefixSource | None) -> None:
    """Tell a layer what its self-attention reads of the source."""
    match source:
        case None:
            layer.source = 0
        case spec.MergedSource():
            layer.source = 1
        case spec.PrefixSource(state=state):
            layer.source, layer.state = 2, state


def reason_against(stack: Any) -> str | None:
    """Return why the kernels do not compute a stack; None if they do."""
    if library() is None or not has("float32"):
        return "there are no compiled kernels"
    try:
        NativeStack(stack)
    except Unsupported as reason:
        return str(reason)
    return None


def cache_tensors(tensors: list[Tensor]) -> Any:
    """Return tensors of a cache, one per layer, as the kernels read them."""
    array = (CacheTensor * max(1, len(tensors)))()
    for fields, tensor in zip(array, tensors, strict=False):
        fields.data, (fields.row, fields.head, fields.time, _) = tensor.data_ptr(), tensor.stride()
    return array


def _require(reason: str | None) -> None:
    if reason is not None:
        raise Unsupported(reason)


def _takes(x: Tensor | None, rows: int, width: int) -> bool:
    """True if a tensor is None, or a float32 matrix of this shape in CPU memory."""
    return x is None or (x.dtype == torch.float32 and x.shape == (rows, width) and x.is_contiguous() and x.is_cpu)


def _address(x: Int[Tensor, "..."] | Float[Tensor, "..."] | None) -> int | None:
    return None if x is None else x.data_ptr()


def _has(kind: int) -> bool:
    return has("bfloat16" if kind == _KINDS[torch.bfloat16] else "int8")
