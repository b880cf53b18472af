"""Every parameter of a stack by its canonical name: the one table that backends, files and reports agree on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from conjoin.spec.bricks import (
    Attention,
    BareLayerNorm,
    Block,
    CrossAttention,
    Disentangled,
    GatedMLP,
    LayerNorm,
    Norm,
    RelativeBias,
    RelativeTable,
    RMSNorm,
)
from conjoin.spec.stack import Embedding, FanInInit, Head, PairSpec, Sinusoidal, StackSpec

Axis = Literal["vocab", "hidden", "heads", "kv_heads", "mlp", "position", "source", "other"]


Part = Literal["embedding", "layers", "cross_attention", "head"]
"""Part of a stack that a parameter belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter.

    Args:
        kind: Decides its initialisation (a sinusoid is computed) and whether weight decay applies.
        waves: What a sinusoid is computed from.
        axes: A logical name per dimension, for sharding.
        std: Standard deviation of its initialisation; 0 for norms, biases and gates.
        start: Mean of its initialisation: 1 for norms, else 0.
        trained: False for tables that are stored but fixed.
        part: Part of the stack that it belongs to.
    """

    shape: tuple[int, ...]
    kind: Literal["linear", "embedding", "sinusoid", "norm", "bias", "gate"]
    axes: tuple[Axis, ...]
    std: float = 0.0
    start: float = 0.0
    trained: bool = True
    part: Part = "layers"
    waves: Sinusoidal | None = None


Named = Iterator[tuple[str, Parameter]]


def stack_parameters(spec: StackSpec) -> dict[str, Parameter]:
    """Return canonical name -> parameter of one stack, in a fixed order. Layers that share weights appear once.

    The vocabulary matrix of a tied head is the token embedding and does not appear.
    """
    table: dict[str, Parameter] = dict(_in_part("embedding", _embedding(spec.embedding, spec.hidden_size)))
    bias = spec.relative_bias if isinstance(spec.relative_bias, RelativeBias) else None
    if bias and not bias.per_block:
        table |= dict(_relative_bias(bias, spec.blocks[0]))
    if spec.relative_table:
        table |= dict(_relative_table(spec.relative_table, spec.hidden_size))
    for index in sorted(set(spec.weights_of)):
        block = dict(_block(spec.blocks[index], spec.hidden_size))
        if bias and bias.per_block:
            block |= dict(_relative_bias(bias, spec.blocks[index]))
        table |= {f"blocks.{index}.{name}": p for name, p in block.items()}
    if spec.final_norm:
        table |= dict(_norm("final_norm", spec.final_norm, spec.hidden_size))
    if spec.head:
        table |= dict(_in_part("head", _head(spec.head, spec.hidden_size)))
    return {name: replace(p, std=_std(name, p, spec)) for name, p in table.items()}


def pair_parameters(spec: PairSpec) -> dict[str, Parameter]:
    """Return canonical name -> parameter of a joined pair; shared parameters appear under both names."""
    table = {f"encoder.{name}": p for name, p in stack_parameters(spec.encoder).items()}
    table |= {f"decoder.{name}": p for name, p in stack_parameters(spec.decoder).items()}
    if spec.projection:
        sizes = (spec.encoder.hidden_size, spec.decoder.source_size)
        fresh = dict(_linear("enc_to_dec_proj", *sizes, True, "source", "hidden"))
        table |= {name: replace(p, std=_std(name, p, spec.decoder)) for name, p in fresh.items()}
    return table


def _std(name: str, parameter: Parameter, spec: StackSpec) -> float:
    if parameter.kind not in ("linear", "embedding"):
        return 0.0
    if not isinstance(spec.init, FanInInit):
        return spec.init.std
    if name == "embed.words.weight":
        return spec.init.factor
    fan_in = spec.hidden_size if parameter.kind == "embedding" else parameter.shape[1]
    std = spec.init.factor * fan_in**-0.5
    unscaled_query = name.endswith("_attn.q.weight") and spec.blocks[0].self_attn.attention.scale == 1.0
    return std * spec.blocks[0].self_attn.attention.head_size ** -0.5 if unscaled_query else std


def _in_part(part: Part, named: Named) -> Named:
    return ((name, replace(parameter, part=part)) for name, parameter in named)


def _linear(name: str, size_in: int, size_out: int, bias: bool, axis_in: Axis, axis_out: Axis) -> Named:
    yield f"{name}.weight", Parameter(shape=(size_out, size_in), kind="linear", axes=(axis_out, axis_in))
    if bias:
        yield f"{name}.bias", Parameter(shape=(size_out,), kind="bias", axes=(axis_out,))


def _norm(name: str, norm: Norm, size: int) -> Named:
    if isinstance(norm, BareLayerNorm):
        return
    start = 1.0 - norm.offset if isinstance(norm, RMSNorm) else 1.0
    yield f"{name}.weight", Parameter(shape=(size,), kind="norm", axes=("hidden",), start=start)
    if isinstance(norm, LayerNorm) and norm.bias:
        yield f"{name}.bias", Parameter(shape=(size,), kind="bias", axes=("hidden",))


def _embedding(embedding: Embedding, hidden_size: int) -> Named:
    size = embedding.size
    positions_size = hidden_size if embedding.projection and embedding.projection.when == "words" else size
    yield (
        "embed.words.weight",
        Parameter(shape=(embedding.vocab_size, size), kind="embedding", axes=("vocab", "hidden")),
    )
    if embedding.replaced is not None:
        yield "embed.replacement", Parameter(shape=(size,), kind="bias", axes=("hidden",))
    if rows := embedding.position_rows:
        waves = embedding.position if isinstance(embedding.position, Sinusoidal) else None
        kind = "sinusoid" if waves else "embedding"
        shape = (rows, positions_size)
        table = Parameter(shape=shape, kind=kind, axes=("position", "hidden"), trained=not waves, waves=waves)
        yield "embed.positions.weight", table
    if embedding.type_rows:
        shape = (embedding.type_rows, size)
        yield "embed.token_types.weight", Parameter(shape=shape, kind="embedding", axes=("other", "hidden"))
    if embedding.tasks:
        shape = (embedding.tasks, size)
        yield "embed.tasks.weight", Parameter(shape=shape, kind="embedding", axes=("other", "hidden"))
    if embedding.norm:
        yield from _norm("embed.norm", embedding.norm, positions_size)
    if embedding.projection:
        yield from _linear("embed.projection", size, hidden_size, embedding.projection.bias, "other", "hidden")


def _attention(name: str, attention: Attention, hidden_size: int, source_size: int, source_axis: Axis) -> Named:
    queries = attention.num_heads * attention.head_size
    keys = attention.num_kv_heads * attention.head_size
    yield from _linear(f"{name}.q", hidden_size, queries, attention.q_bias, "hidden", "heads")
    yield from _linear(f"{name}.k", source_size, keys, attention.k_bias, source_axis, "kv_heads")
    yield from _linear(f"{name}.v", source_size, keys, attention.v_bias, source_axis, "kv_heads")
    yield from _linear(f"{name}.o", queries, hidden_size, attention.o_bias, "heads", "hidden")
    if attention.qk_norm:
        for letter, heads in (("q", attention.num_heads), ("k", attention.num_kv_heads)):
            size = attention.qk_norm.size(heads, attention.head_size)
            yield from _norm(f"{name}.{letter}_norm", attention.qk_norm.norm, size)


def _relative_table(table: RelativeTable, hidden_size: int) -> Named:
    shape = (2 * table.span, hidden_size)
    yield "relative_table.weight", Parameter(shape=shape, kind="embedding", axes=("other", "hidden"))
    if table.norm:
        yield from _norm("relative_table.norm", table.norm, hidden_size)


def _disentangled(kind: Disentangled, attention: Attention, hidden_size: int) -> Named:
    size = attention.num_heads * attention.head_size
    keys, queries = ("distance_k", kind.distance_keys, kind.key_bias), ("distance_q", kind.distance_queries, True)
    for name, present, bias in (keys, queries):
        if present and not kind.shared:
            yield from _linear(f"self_attn.{name}", hidden_size, size, bias, "hidden", "heads")


def _cross_attention(cross: CrossAttention, hidden_size: int) -> Named:
    yield from _attention("cross_attn", cross.attention, hidden_size, cross.source_size, "source")
    if cross.gated:
        yield "cross_attn.gate", Parameter(shape=(1,), kind="gate", axes=("other",))


def _branch_norms(name: str, block: Block, hidden_size: int) -> Named:
    for parameter, norm in block.norms_of(name):
        if norm is not None:
            yield from _norm(parameter, norm, hidden_size)


def _relative_bias(bias: RelativeBias, block: Block) -> Named:
    shape = (bias.num_buckets, block.self_attn.attention.num_heads)
    yield "relative_bias.weight", Parameter(shape=shape, kind="embedding", axes=("other", "heads"))


def _block(block: Block, hidden_size: int) -> Named:
    yield from _attention("self_attn", block.self_attn.attention, hidden_size, hidden_size, "hidden")
    if block.self_attn.disentangled:
        yield from _disentangled(block.self_attn.disentangled, block.self_attn.attention, hidden_size)
    yield from _branch_norms("self_attn", block, hidden_size)
    if block.cross_attn:
        yield from _in_part("cross_attention", _cross_attention(block.cross_attn, hidden_size))
        yield from _in_part("cross_attention", _branch_norms("cross_attn", block, hidden_size))
    mlp = block.mlp
    yield from _linear("mlp.up", hidden_size, mlp.intermediate_size, mlp.up_bias, "hidden", "mlp")
    if isinstance(mlp, GatedMLP):
        yield from _linear("mlp.gate", hidden_size, mlp.intermediate_size, mlp.up_bias, "hidden", "mlp")
    yield from _linear("mlp.down", mlp.intermediate_size, hidden_size, mlp.down_bias, "mlp", "hidden")
    yield from _branch_norms("mlp", block, hidden_size)


def _head(head: Head, hidden_size: int) -> Named:
    if head.projection:
        yield from _linear("head.projection", hidden_size, head.size, False, "hidden", "hidden")
    if head.transform:
        yield from _linear("head.dense", hidden_size, head.size, head.transform.bias, "hidden", "hidden")
        yield from _norm("head.norm", head.transform.norm, head.size)
    if not head.tied:
        yield from _linear("head.vocab", head.size, head.vocab_size, False, "hidden", "vocab")
    if head.bias:
        trained = head.bias == "trained"
        yield "head.bias", Parameter(shape=(head.vocab_size,), kind="bias", axes=("vocab",), trained=trained)
