"""One transformer block: self-attention, cross-attention and MLP, each with its norms and a residual connection."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float

from conjoin import spec
from conjoin.functional.attention import attend, attend_joint, distance_scores, keys_values, output, queries
from conjoin.functional.cache import Pair, extended
from conjoin.functional.layers import is_float16, mlp, norm
from conjoin.functional.ops import Array
from conjoin.functional.positions import Angles, rotate
from conjoin.functional.scope import Scope

_MOST = 65504.0
"""The largest number of float16."""


@dataclass(slots=True)
class Record:
    """What to collect on the way; a list that is None is not collected."""

    hidden_states: list[Array] | None = None
    attentions: list[Array] | None = None
    cross_attentions: list[Array] | None = None

    @classmethod
    def of(cls, *, hidden_states: bool, attentions: bool) -> "Record":
        """Return a record that collects what is requested."""
        return cls([] if hidden_states else None, [] if attentions else None, [] if attentions else None)


@dataclass(slots=True)
class LayerContext:
    """Inputs of a layer other than its hidden states.

    Args:
        allowed, source_allowed: [R, 1, T, S], True where a key may be read; None if all may be read. Where
            self-attention reads the source, `allowed` begins with the source's keys.
        distances: The stack's table of distances, and the row of every query and key.
        source_angles: Of the source's keys, where self-attention reads them at their positions.
        past: Number of positions that the cached keys and values hold already.
        cached: This layer's keys and values, to be written at `past`; None without a cache.
        cross: The source's keys and values; if None, they are computed from `source`.
    """

    allowed: Array | None
    angles: Angles | None = None
    bias: Array | None = None
    distances: tuple[Array, Array] | None = None
    past: Array | int = 0
    cached: Pair | None = None
    source: Array | None = None
    source_angles: Angles | None = None
    source_allowed: Array | None = None
    cross: Pair | None = None
    record: Record = field(default_factory=Record)


def run_block(
    here: Scope, kind: spec.Block, x: Float[Array, "R T D"], context: LayerContext
) -> tuple[Float[Array, "R T D"], Pair | None]:
    """Run every branch: y = out(f(pre(x))), then x = post(x + scale * dropout(gate * y)), as the spec says.

    Returns:
        The output, and the cached keys and values with the new positions.
    """
    written: list[Pair] = []
    branches: list[tuple[str, Callable[[Array], Array]]] = [
        ("self_attn", lambda h: _read_self(here, kind, h, context, written))
    ]
    if kind.cross_attn is not None:
        cross = kind.cross_attn
        branches.append(("cross_attn", lambda h: _read_source(here / "cross_attn", cross, h, context)))
    branches.append(("mlp", lambda h: mlp(here / "mlp", kind.mlp, h, wide=kind.wide_in_float16)))
    block_input = x
    for name, branch in branches:
        pre, out, post = kind.norms_of(name)
        y = _norm(here, out, branch(_norm(here, pre, block_input if kind.parallel else x)))
        x = _norm(here, post, x + _drop(here, kind, name, y))
    return x, written[0] if written else None


def _norm(here: Scope, named: spec.NamedNorm, x: Array) -> Array:
    name, kind = named
    return x if kind is None else norm(here / name, kind, x)


def _drop(here: Scope, kind: spec.Block, name: str, x: Array) -> Array:
    """Apply the gate of a branch, if it has one, dropout and the block's scale to its output."""
    if name == "cross_attn" and kind.cross_attn is not None and kind.cross_attn.gated:
        x = x * here["cross_attn.gate"]
    if kind.wide_in_float16 and is_float16(x):
        x = here.ops.cast(here.ops.maximum(here.ops.minimum(x, _MOST), -_MOST), "float32")
    x = here.dropout(x, kind.dropout, name)
    return x if kind.residual_scale == 1.0 else x * kind.residual_scale


def source_heads(here: Scope, block: spec.Block, source: Array, angles: Angles | None) -> Pair:
    """Return the keys and values of a source that a block's self-attention reads.

    Args:
        source: The encoder's output: the last state, or several side by side.
        angles: Of the source's positions, for blocks that read them.
    """
    kind, attn = block.self_attn, here / "self_attn"
    if not isinstance(kind.source, spec.PrefixSource):
        return keys_values(attn, kind.attention, source)
    pre, _, _ = block.norms_of("self_attn")
    width = here.ops.shape(attn["q.weight"])[1]
    state = source[..., kind.source.state * width : (kind.source.state + 1) * width]
    k, v = keys_values(attn, kind.attention, _norm(here, pre, state))
    return (k, v) if angles is None else (rotate(here.ops, k, angles), v)


def _read_self(here: Scope, block: spec.Block, x: Array, context: LayerContext, written: list[Pair]) -> Array:
    attn, ops, kind = here / "self_attn", here.ops, block.self_attn
    q = queries(attn, kind.attention, x)
    k, v = keys_values(attn, kind.attention, x)
    if context.angles is not None and kind.rotary is not None:
        q, k = rotate(ops, q, context.angles), rotate(ops, k, context.angles)
    if context.cached is not None:
        (old_k, old_v), split = context.cached, ops.shape(k)[:2]
        held = extended(ops, old_k, k, context.past), extended(ops, old_v, v, context.past)
        written.append(held)
        k, v = (ops.reshape(x, (*split, *ops.shape(x)[1:])) for x in held)
    collected = context.record.attentions
    if kind.source is not None:
        pair = context.cross
        if pair is None:
            pair = source_heads(here, block, context.source, context.source_angles)
        out, weights = attend_joint(attn, kind.attention, q, pair, (k, v), context.allowed, context.bias)
        if context.record.cross_attentions is not None:
            size = ops.shape(pair[0])[2]
            context.record.cross_attentions.append(weights[..., :size])
            weights = weights[..., size:]
    else:
        bias = context.bias
        if context.distances is not None:
            bias = distance_scores(attn, kind, q, k, context.distances)
        out, weights = attend(attn, kind.attention, q, k, v, context.allowed, bias, want_weights=collected is not None)
    if collected is not None:
        collected.append(weights)
    return output(attn, out)


def _read_source(here: Scope, kind: spec.CrossAttention, x: Array, context: LayerContext) -> Array:
    k, v = context.cross if context.cross is not None else keys_values(here, kind.attention, context.source)
    q, collected = queries(here, kind.attention, x), context.record.cross_attentions
    out, weights = attend(here, kind.attention, q, k, v, context.source_allowed, want_weights=collected is not None)
    if collected is not None:
        collected.append(weights)
    return output(here, out)
