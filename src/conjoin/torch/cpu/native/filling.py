"""Fills the structs of one stack: addresses and sizes of its parameters, brick by brick."""

from typing import Any

import torch
from torch import Tensor, nn

from conjoin import spec
from conjoin.spec.native import ACTIVATIONS, reason_against_embedding, reason_against_head
from conjoin.torch.cpu.native import layouts
from conjoin.torch.cpu.native.checks import is_vector
from conjoin.torch.cpu.native.kernels import has
from conjoin.torch.cpu.native.layouts import KINDS

_LINEARS = (
    "torch.nn.modules.linear.Linear",
    "conjoin.torch.cpu.linear.Linear",
    "conjoin.torch.cpu.quantization.QuantizedLinear",
)
"""Names include the module: peft's adapters are called Linear as well and have the weight of the layer they wrap."""


class Unsupported(Exception):
    """The kernels lack a brick."""


class Filling:
    """Fills structs, and notes what they point to.

    Attributes:
        held: Tensors whose memory the structs point to.
        slots: Where modules hold the parameters that have been read.
        parameters: Those parameters.
        copied: Parameters of which the structs have a float32 copy, or sums.
        rotary: The kinds of rotary positions of the blocks.
    """

    def __init__(self, hidden_size: int) -> None:
        self.hidden_size = hidden_size
        self.held: list[Tensor] = []
        self.slots: list[tuple[dict[str, Any], str]] = []
        self.parameters: list[Tensor] = []
        self.copied: list[Tensor] = []
        self.rotary: list[spec.Rotary] = []

    def layer(self, fields: layouts.Layer, block: Any, source: spec.MergedSource | spec.PrefixSource | None) -> None:
        """Fill a block; `source`, what its self-attention reads of the source, differs in blocks that share weights."""
        kind: spec.Block = block.kind
        _read_source(fields, source)
        fields.parallel, fields.residual_scale = kind.parallel, kind.residual_scale
        self._attention(fields.self_attn, block.self_attn, block.self_attn.rotary, kind.self_attn.sides)
        fields.has_cross = block.cross_attn is not None
        if block.cross_attn is not None:
            self._attention(fields.cross_attn, block.cross_attn, None, None)
            if block.cross_attn.gate is not None:
                fields.cross_attn.gate = self._float32_address(block.cross_attn, "gate")
        self._norms(fields.self_norms, block, "self_attn")
        self._norms(fields.mlp_norms, block, "mlp")
        if block.cross_attn is not None:
            self._norms(fields.cross_norms, block, "cross_attn")
        fields.activation = ACTIVATIONS.index(kind.mlp.activation)
        inner, hidden = kind.mlp.intermediate_size, self.hidden_size
        self._linear(fields.up, block.mlp.up, inner, hidden)
        self._linear(fields.down, block.mlp.down, hidden, inner)
        if isinstance(kind.mlp, spec.GatedMLP):
            self._linear(fields.gate, block.mlp.gate, inner, hidden)

    def _attention(
        self, fields: layouts.Attention, brick: Any, rotary: spec.Rotary | None, sides: spec.Sides | None
    ) -> None:
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
            self.norm(fields.q_norm, brick.q_norm, kind.qk_norm.size(kind.num_heads, kind.head_size))
            self.norm(fields.k_norm, brick.k_norm, kind.qk_norm.size(kind.num_kv_heads, kind.head_size))
        fields.heads, fields.kv_heads, fields.size = kind.num_heads, kind.num_kv_heads, kind.head_size
        fields.scale, fields.softcap = kind.scale, kind.softcap or 0.0
        fields.window, fields.ahead = sides or (0, 0)
        if rotary is not None and rotary not in self.rotary:
            self.rotary.append(rotary)
        fields.rotary = -1 if rotary is None else self.rotary.index(rotary)

    def embedding(self, fields: layouts.Embedding, brick: Any) -> None:
        """Fill an embedding.

        Raises:
            Unsupported: the kernels lack it.
        """
        kind: spec.Embedding = brick.kind
        require(reason_against_embedding(kind))
        self._table(fields.words, brick.words)
        if brick.positions is not None:
            self._table(fields.positions, brick.positions)
        if brick.token_types is not None:
            self._table(fields.types, brick.token_types)
        if kind.norm is not None:
            inner = self.hidden_size if kind.projection is None or kind.projection.when == "words" else kind.size
            self.norm(fields.norm, brick.norm, inner)
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

    def head(self, fields: layouts.Head, brick: Any, embed: Any) -> None:
        """Fill a head, which may use the words of `embed`.

        Raises:
            Unsupported: the kernels lack it.
        """
        kind: spec.Head = brick.kind
        require(reason_against_head(kind))
        if brick.projection is not None:
            self._linear(fields.projection, brick.projection, kind.size, self.hidden_size)
        if brick.dense is not None and kind.transform is not None:
            self._linear(fields.dense, brick.dense, kind.size, self.hidden_size)
            self.norm(fields.norm, brick.norm, kind.size)
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

    def _table(self, fields: layouts.Table, brick: nn.Module) -> None:
        if type(brick) is not nn.Embedding:
            raise Unsupported(f"an embedding of type {type(brick).__name__}")
        weight = self.watch(brick, "weight")
        if weight.dtype not in (torch.float32, torch.bfloat16) or not weight.is_contiguous():
            raise Unsupported(f"an embedding in {weight.dtype}")
        fields.rows, fields.kind, (fields.count, fields.size) = weight.data_ptr(), KINDS[weight.dtype], weight.shape

    def _linear(self, fields: layouts.Linear, brick: nn.Module, outputs: int, inputs: int | None) -> None:
        """Set the fields of a linear layer; `inputs` is None for keys and values, which read a source of any width."""
        weight, bias = getattr(brick, "weight", None), getattr(brick, "bias", None)
        name = f"{type(brick).__module__}.{type(brick).__name__}"
        if not (name in _LINEARS or type(brick) is nn.Embedding) or type(weight) is not nn.Parameter:
            raise Unsupported(f"a layer of type {type(brick).__name__}")
        kind = KINDS.get(weight.dtype)
        if kind is None or not weight.is_contiguous() or weight.device.type != "cpu" or (kind and not _has(kind)):
            raise Unsupported(f"weights in {weight.dtype} on {weight.device}")
        if weight.dim() != 2 or weight.shape[0] != outputs or weight.shape[1] != (inputs or weight.shape[1]):
            raise Unsupported(f"a weight of shape {tuple(weight.shape)}")
        self.watch(brick, "weight")
        fields.w, fields.kind, (fields.m, fields.n) = weight.data_ptr(), kind, weight.shape
        fields.bias = None if bias is None else self._float32_address(brick, "bias", fields.m)
        if kind == KINDS[torch.int8]:
            fields.scale = self._float32_address(brick, "scale", fields.m)
            sums = brick.row_sums()  # pyright: ignore
            if not is_vector(sums, fields.m, torch.int32):
                raise Unsupported("sums of a quantised weight")
            self.held.append(sums)
            self.copied.append(weight)
            fields.sums = sums.data_ptr()

    def _norms(self, fields: layouts.Branch, block: Any, branch: str) -> None:
        for norm, (name, kind) in zip((fields.pre, fields.out, fields.post), block.kind.norms_of(branch), strict=True):
            self.norm(norm, None if kind is None else getattr(block, name), self.hidden_size)

    def norm(self, fields: layouts.Norm, brick: nn.Module | None, size: int) -> None:
        """Fill a norm; without one the struct stays as it is, which is none."""
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
        parameter = self.watch(brick, name)
        wide = parameter.float().contiguous()
        if wide is not parameter:
            self.copied.append(parameter)
        if wide.numel() != size:
            raise Unsupported(f"a parameter of shape {tuple(parameter.shape)}")
        self.held.append(wide)
        return wide.data_ptr()

    def watch(self, brick: nn.Module, name: str) -> Tensor:
        """Return a parameter and keep its memory alive, which a module releases when it moves to another device."""
        parameter = brick._parameters.get(name)
        if parameter is None or not parameter.is_cpu:
            raise Unsupported("parameters outside the CPU's memory")
        self.slots.append((brick._parameters, name))
        self.parameters.append(parameter)
        self.held.append(parameter.detach())
        return self.held[-1]


def _read_source(fields: layouts.Layer, source: spec.MergedSource | spec.PrefixSource | None) -> None:
    """Tell a layer what its self-attention reads of the source."""
    match source:
        case None:
            fields.source = 0
        case spec.MergedSource():
            fields.source = 1
        case spec.PrefixSource(state=state):
            fields.source, fields.state = 2, state


def require(reason: str | None) -> None:
    """Raise Unsupported if there is a reason."""
    if reason is not None:
        raise Unsupported(reason)


def _has(kind: int) -> bool:
    return has("bfloat16" if kind == KINDS[torch.bfloat16] else "int8")
