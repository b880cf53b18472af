"""Attention, top to bottom: masks, scores, and the projections around them."""

from jaxtyping import Bool, Float, Int

from conjoin import spec
from conjoin.functional.layers import linear, norm
from conjoin.functional.ops import Array, Ops
from conjoin.functional.positions import same_segment
from conjoin.functional.scope import Scope

_NEVER = -1e30
"""A score that softmax turns into 0; finite, so that a query which may read nothing has gradients of 0, not NaN."""


def self_mask(
    ops: Ops,
    key_mask: Bool[Array, "R S"] | None,
    *,
    causal: bool,
    window: int | None,
    past: Array | int,
    length: int,
    total: int,
    segments: Int[Array, "R T"] | None,
    places: tuple[Int[Array, "#R T"], Int[Array, "#R S"]],
) -> Bool[Array, "R 1 T S"] | None:
    """What `length` new positions behind `past` others may read of `total` positions; None where that is everything.

    Args:
        key_mask: True at real tokens. Positions that are not filled yet stand behind every query.
        window: Keys k with |q - k| < window are read; None reads all.
        places: Where queries and keys stand for a window.
    """
    queries, keys = (ops.arange(length) + past)[:, None], ops.arange(total)[None]
    allowed = (keys <= queries)[None, None] if causal else None
    more: list[Array] = []
    if window is not None:
        own, other = places
        more.append((abs(own[:, :, None] - other[:, None, :]) < window)[:, None])
    if segments is not None:
        more.append(same_segment(segments, segments))
    if key_mask is not None:
        more.append(key_mask[:, None, None, :])
    for each in more:
        allowed = each if allowed is None else allowed & each
    return allowed


def attend(
    here: Scope,
    kind: spec.Attention,
    q: Float[Array, "R H T E"],
    k: Float[Array, "B K S E"],
    v: Float[Array, "B K S E"],
    allowed: Bool[Array, "X 1 Y S"] | None,
    bias: Float[Array, "#R H T S"] | None = None,
    *,
    want_weights: bool = False,
) -> tuple[Float[Array, "R H T E"], Float[Array, "R H T S"] | None]:
    """softmax(q k^T * scale + bias) v, over what the mask allows (Vaswani et al. 2017, arXiv:1706.03762, 3.2.1).

    A query that may read nothing returns zeros. H / K query heads share a key head; R may be N times B: rows
    n*N .. n*N + N - 1 then read row n's keys.

    Returns:
        The mixed values, and the weights if asked for.
    """
    ops = here.ops
    if not want_weights and kind.softcap is None and here.rng is None:
        mixed = ops.attend(q, k, v, allowed, bias, kind.scale)
        if mixed is not None:
            return mixed, None
    rows, heads, length, size = ops.shape(q)
    sources, groups, keys = ops.shape(k)[:3]
    shared, width = heads // groups, ops.shape(v)[-1]
    grouped = ops.einsum("bnkgte->bkngte", ops.reshape(q, (sources, -1, groups, shared, length, size)))
    alike = ops.shape(grouped)[:-1]
    products = ops.matmul(ops.reshape(grouped, (sources, groups, -1, size)), k, transposed=True)
    scores = ops.cast(ops.reshape(products * kind.scale, (*alike, keys)), "float32")
    if kind.softcap is not None:
        scores = ops.tanh(scores / kind.softcap) * kind.softcap
    if bias is not None:
        scores = scores + ops.reshape(ops.cast(bias, "float32"), (ops.shape(bias)[0], groups, 1, shared, length, keys))
    if allowed is not None:
        allowed = allowed[:, :, None, None]
        scores = ops.where(allowed, scores, _NEVER)
    weights = ops.softmax(scores)
    if allowed is not None:
        weights = ops.where(ops.any(allowed, -1, keepdims=True), weights, 0.0)
    weights = ops.cast(weights, q.dtype)
    kept = here.dropout(weights, kind.dropout, "weights")
    mixed = ops.reshape(ops.matmul(ops.reshape(kept, (sources, groups, -1, keys)), v), (*alike, width))
    mixed = ops.reshape(ops.einsum("bkngte->bnkgte", mixed), (rows, heads, length, width))
    if not want_weights:
        return mixed, None
    return mixed, ops.reshape(ops.einsum("bkngts->bnkgts", weights), (rows, heads, length, keys))


def queries(here: Scope, kind: spec.Attention, x: Float[Array, "R T D"]) -> Float[Array, "R H T E"]:
    """Query heads."""
    return _heads(here, "q", kind, kind.num_heads, x)


def keys_values(here: Scope, kind: spec.Attention, source: Float[Array, "R S M"]) -> tuple[Array, Array]:
    """Key and value heads, each [R, K, S, E]."""
    count = kind.num_kv_heads
    return _heads(here, "k", kind, count, source), _heads(here, "v", kind, count, source)


def output(here: Scope, mixed: Float[Array, "R H T E"]) -> Float[Array, "R T D"]:
    """Concatenate heads and project."""
    ops = here.ops
    rows, heads, length, size = ops.shape(mixed)
    return linear(here / "o", ops.reshape(ops.einsum("rhte->rthe", mixed), (rows, length, heads * size)))


def _heads(here: Scope, name: str, kind: spec.Attention, count: int, x: Array) -> Array:
    ops = here.ops
    shape = (*ops.shape(x)[:2], count, kind.head_size)
    heads, qk = linear(here / name, x), None if name == "v" else kind.qk_norm
    heads = heads if qk is not None and qk.over == "projection" else ops.reshape(heads, shape)
    if qk is not None:
        heads = ops.reshape(norm(here / f"{name}_norm", qk.norm, heads), shape)
    return ops.einsum("rthe->rhte", heads)
