"""Attention, top to bottom: masks, scores, and the projections around them."""

from typing import Any

from jaxtyping import Bool, Float, Int

from conjoin import spec
from conjoin.functional.layers import linear, norm
from conjoin.functional.ops import Array, Ops
from conjoin.functional.positions import same_segment
from conjoin.functional.scope import Scope

_NEVER = -1e30
"""Score of a masked key. It is finite, so that a query that may read no key has gradients of 0, not NaN."""


def self_mask(
    ops: Ops,
    key_mask: Bool[Array, "R S"] | None,
    *,
    causal: bool,
    window: spec.Sides | None,
    past: Array | int,
    length: int,
    total: int,
    segments: Int[Array, "R T"] | None,
    places: tuple[Int[Array, "#R T"], Int[Array, "#R S"]],
) -> Bool[Array, "R 1 T S"] | None:
    """Return the mask with which `length` new positions after `past` read `total` positions; None if all may be read.

    Args:
        key_mask: True at real tokens. Positions of the cache that are still empty come after every query.
        window: How far queries read to both sides; None means all keys.
        places: Positions of queries and keys that windows count.
    """
    queries, keys = (ops.arange(length) + past)[:, None], ops.arange(total)[None]
    allowed = (keys <= queries)[None, None] if causal else None
    masks: list[Array] = []
    if window is not None:
        query_places, key_places = places
        masks.append(window.hold(query_places[:, :, None] - key_places[:, None, :])[:, None])
    if segments is not None:
        masks.append(same_segment(segments, segments))
    if key_mask is not None:
        masks.append(key_mask[:, None, None, :])
    for mask in masks:
        allowed = mask if allowed is None else allowed & mask
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
    """Return softmax(q k^T * scale + bias) v over the allowed keys (Vaswani et al. 2017, arXiv:1706.03762, 3.2.1).

    A query that may read no key returns zeros. H / K query heads share a key head. If R is N times B, rows
    n*N .. n*N + N - 1 read the keys of row n.

    Returns:
        The output, and the weights if `want_weights`.
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
    lead = ops.shape(grouped)[:-1]
    products = ops.matmul(ops.reshape(grouped, (sources, groups, -1, size)), k, transposed=True)
    if bias is not None:
        bias = ops.reshape(bias, (ops.shape(bias)[0], groups, 1, shared, length, keys))
    if allowed is not None:
        allowed = allowed[:, :, None, None]
    weights = _weights(ops, kind, ops.reshape(products, (*lead, keys)), allowed, bias, q.dtype)
    dropped = here.dropout(weights, kind.dropout, "weights")
    mixed = ops.reshape(ops.matmul(ops.reshape(dropped, (sources, groups, -1, keys)), v), (*lead, width))
    mixed = ops.reshape(ops.einsum("bkngte->bnkgte", mixed), (rows, heads, length, width))
    if not want_weights:
        return mixed, None
    return mixed, ops.reshape(ops.einsum("bkngts->bnkgts", weights), (rows, heads, length, keys))


def attend_joint(
    here: Scope,
    kind: spec.Attention,
    q: Float[Array, "R H T E"],
    source: tuple[Array, Array],
    own: tuple[Array, Array],
    allowed: Bool[Array, "X 1 T SN"] | None,
    bias: Float[Array, "#R H T SN"] | None,
) -> tuple[Float[Array, "R H T E"], Float[Array, "R H T SN"]]:
    """Return what `attend` does over a source's keys [B, K, S, E] and, behind them, a target's [R, K, N, E].

    Rows n*N .. n*N + N - 1 read the keys of source n, without copying them.
    """
    ops, size = here.ops, here.ops.shape(source[0])[2]
    products = ops.concat((_products(ops, q, source[0]), _products(ops, q, own[0])), -1)
    weights = _weights(ops, kind, products, allowed, bias, q.dtype)
    dropped = here.dropout(weights, kind.dropout, "weights")
    return _mixed(ops, dropped[..., :size], source[1]) + _mixed(ops, dropped[..., size:], own[1]), weights


def _weights(
    ops: Ops, kind: spec.Attention, products: Array, allowed: Array | None, bias: Array | None, dtype: Any
) -> Array:
    """Return the weights of products of queries and keys: 0 in rows that may read nothing.

    Args:
        allowed, bias: Of the products' shape, up to axes of 1.
    """
    scores = ops.cast(products * kind.scale, "float32")
    if kind.softcap is not None:
        scores = ops.tanh(scores / kind.softcap) * kind.softcap
    if bias is not None:
        scores = scores + ops.cast(bias, "float32")
    if allowed is not None:
        scores = ops.where(allowed, scores, _NEVER)
    weights = ops.softmax(scores)
    if allowed is not None:
        weights = ops.where(ops.any(allowed, -1, keepdims=True), weights, 0.0)
    return ops.cast(weights, dtype)


def _products(ops: Ops, q: Float[Array, "R H T E"], k: Float[Array, "B K S E"]) -> Float[Array, "R H T S"]:
    """Return the products of queries and keys; R / B rows share keys."""
    (rows, heads, length, size), (sources, groups, keys) = ops.shape(q), ops.shape(k)[:3]
    shared = heads // groups
    grouped = ops.einsum("bnkgte->bkngte", ops.reshape(q, (sources, -1, groups, shared, length, size)))
    products = ops.matmul(ops.reshape(grouped, (sources, groups, -1, size)), k, transposed=True)
    products = ops.reshape(products, (sources, groups, -1, shared, length, keys))
    return ops.reshape(ops.einsum("bkngts->bnkgts", products), (rows, heads, length, keys))


def _mixed(ops: Ops, weights: Float[Array, "R H T S"], v: Float[Array, "B K S E"]) -> Float[Array, "R H T E"]:
    """Return the values mixed by weights; R / B rows share values."""
    (rows, heads, length, keys), (sources, groups, _, size) = ops.shape(weights), ops.shape(v)
    shared = heads // groups
    grouped = ops.einsum("bnkgts->bkngts", ops.reshape(weights, (sources, -1, groups, shared, length, keys)))
    mixed = ops.matmul(ops.reshape(grouped, (sources, groups, -1, keys)), v)
    mixed = ops.reshape(mixed, (sources, groups, -1, shared, length, size))
    return ops.reshape(ops.einsum("bkngte->bnkgte", mixed), (rows, heads, length, size))


def distance_scores(
    here: Scope,
    kind: spec.SelfAttention,
    q: Float[Array, "R H T E"],
    k: Float[Array, "R H T E"],
    distances: tuple[Float[Array, "rows D"], Int[Array, "#R 1 T S"]],
) -> Float[Array, "R H T S"]:
    """Return what contents score against distances (He et al. 2020, arXiv:2006.03654, 3.1).

    Args:
        distances: The stack's table, and the row of every query and key.
    """
    ops, form, (table, rows) = here.ops, kind.disentangled, distances
    assert form is not None
    table = here.dropout(table, form.dropout, "distances")
    (count, heads, length, _), keys = ops.shape(q), ops.shape(k)[2]
    rows = ops.broadcast(rows, (count, heads, length, keys))
    terms: list[Array] = []
    if form.distance_keys:
        of_rows = _of_distances(here, "k" if form.shared else "distance_k", kind.attention, table)
        terms.append(ops.gather(ops.einsum("rhte,hne->rhtn", q, of_rows), rows, -1))
    if form.distance_queries:
        of_rows = _of_distances(here, "q" if form.shared else "distance_q", kind.attention, table)
        terms.append(ops.gather(ops.einsum("rhse,hne->rhns", k, of_rows), rows, -2))
    return sum(terms[1:], terms[0]) * kind.attention.scale


def _of_distances(here: Scope, name: str, kind: spec.Attention, table: Array) -> Float[Array, "H rows E"]:
    ops = here.ops
    heads = ops.reshape(linear(here / name, table), (ops.shape(table)[0], kind.num_heads, kind.head_size))
    return ops.einsum("nhe->hne", heads)


def queries(here: Scope, kind: spec.Attention, x: Float[Array, "R T D"]) -> Float[Array, "R H T E"]:
    """Return query heads."""
    return _heads(here, "q", kind, kind.num_heads, x)


def keys_values(here: Scope, kind: spec.Attention, source: Float[Array, "R S M"]) -> tuple[Array, Array]:
    """Return key and value heads, each [R, K, S, E]."""
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
        own = shape[-2:] if qk.over == "each_head" else None
        heads = ops.reshape(norm(here / f"{name}_norm", qk.norm, heads, own), shape)
    return ops.einsum("rthe->rhte", heads)
