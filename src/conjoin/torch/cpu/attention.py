"""Attention by the fastest implementation: our kernels in decoding steps and in training, otherwise PyTorch's."""

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from conjoin import spec
from conjoin.torch.cpu import native
from conjoin.torch.cpu.attention_grad import AttentionOptions, attend_in_training, trains_fast
from conjoin.torch.cpu.cache_rows import from_bytes
from conjoin.torch.cpu.masks import Mask, readable
from conjoin.torch.cpu.mode import mode_of

Bias = Tensor | Callable[[Tensor, Tensor], Tensor]
"""What is added to scores, [#R, H, T, S]; or what makes it of a batch's queries and keys, where they matter."""


def attend(
    q: Float[Tensor, "R H T E"],
    k: native.Kept,
    v: native.Kept,
    kind: spec.Attention,
    *,
    mask: Mask,
    bias: Bias | None = None,
    dropout: float = 0.0,
    want_weights: bool = False,
) -> tuple[Float[Tensor, "R H T E"], Float[Tensor, "R H T S"] | None]:
    """Return softmax(q k^T * scale + bias) v over the allowed keys (Vaswani et al. 2017, arXiv:1706.03762, 3.2.1).

    A query that may read no key returns zeros. Heads are grouped: H / K query heads share a key head. If q has N times
    as many rows as k, rows n*N .. n*N + N - 1 (beams) read the keys of row n, without copying them. Keys and values may
    be int8 rows of a cache (`cache_rows`).

    Returns:
        The output, and the weights if `want_weights`.
    """
    bias = bias(q, k) if callable(bias) else bias
    in_operations = want_weights or kind.softcap is not None
    if not in_operations and not dropout and _is_decoding_step(q, k, v, mask, bias):
        return native.attention(q, k, v, kind.scale, mask.allowed, bias).transpose(1, 2), None
    if k.dtype == torch.int8:
        k, v = from_bytes(k, q.shape[-1], q.dtype), from_bytes(v, q.shape[-1], q.dtype)
    beams, length = q.shape[0] // k.shape[0], q.shape[2]
    if beams > 1:
        q = torch.unflatten(q, 0, (-1, beams)).transpose(1, 2).flatten(2, 3)
    attend_rows = _attend_in_operations if in_operations else _attend_fused
    out, weights = attend_rows(q, k, v, mask, kind, bias, dropout)
    if beams > 1:
        out = torch.unflatten(out, 2, (beams, length)).transpose(1, 2).flatten(0, 1)
        if weights is not None:
            weights = torch.unflatten(weights, 2, (beams, length)).transpose(1, 2).flatten(0, 1)
    return out, weights


def attend_joint(
    q: Float[Tensor, "R H T E"],
    k: native.Kept,
    v: native.Kept,
    kind: spec.Attention,
    *,
    source: tuple[Tensor, Tensor],
    mask: Mask,
    bias: Float[Tensor, "#R H T SN"] | None = None,
    dropout: float = 0.0,
    want_weights: bool = False,
) -> tuple[Float[Tensor, "R H T E"], Float[Tensor, "R H T SN"] | None]:
    """Return what `attend` does over a source's keys [B, K, S, E] and, behind them, a target's [R, K, N, E].

    Rows n*N .. n*N + N - 1 (beams) read the keys of source n, without copying them.
    """
    source_k, source_v = source
    if len(source_k) == len(k):
        joint_k, joint_v = torch.cat((source_k, k), 2), torch.cat((source_v, v), 2)
        return attend(q, joint_k, joint_v, kind, mask=mask, bias=bias, dropout=dropout, want_weights=want_weights)
    if k.dtype == torch.int8:
        source_k, source_v, k, v = (from_bytes(x, q.shape[-1], q.dtype) for x in (source_k, source_v, k, v))
    beams, size = len(k) // len(source_k), source_k.shape[2]
    together = torch.unflatten(q, 0, (-1, beams)).transpose(1, 2).flatten(2, 3)
    source_scores = torch.unflatten(_products(together, source_k), 2, (beams, -1)).transpose(1, 2).flatten(0, 1)
    scores = torch.cat((source_scores, _products(q, k)), -1) * kind.scale
    weights = _weights(scores, kind, mask.allowed, bias, q.dtype)
    read = F.dropout(weights, dropout)
    from_source = torch.unflatten(read[..., :size], 0, (-1, beams)).transpose(1, 2).flatten(2, 3)
    mixed = torch.unflatten(_mixed(from_source, source_v), 2, (beams, -1)).transpose(1, 2).flatten(0, 1)
    return mixed + _mixed(read[..., size:], v), weights if want_weights else None


_MOST_QUERIES = 64
"""Queries per key, above which PyTorch's attention is used."""


def _is_decoding_step(q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Tensor | None) -> bool:
    """True if few queries read each key, and our inference kernel supports the tensors."""
    queries = q.shape[0] * q.shape[1] * q.shape[2] // (k.shape[0] * k.shape[1])
    return (
        queries <= _MOST_QUERIES
        and not mask.causal
        and (bias is None or len(bias) == 1)
        and mode_of(q, k, v, bias) == "inference"
        and q.dtype in (torch.float32, torch.bfloat16)
        and k.dtype == v.dtype
        and k.dtype in (q.dtype, torch.int8)
        and native.has("bfloat16" if k.dtype == torch.bfloat16 else "float32")
    )


def _attend_fused(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, kind: spec.Attention, bias: Tensor | None, dropout: float
) -> tuple[Tensor, None]:
    """Return the output of PyTorch's fused attention or, in training on a CPU, of our own."""
    if trains_fast(q, k, v, bias, dropout):
        visible = _causal(q, k) if mask.causal else mask.allowed
        reads = native.Reads.of_rows(q, k, visible)
        return attend_in_training(q, k, v, reads, bias, AttentionOptions(kind.scale, dropout)), None
    allowed = mask.allowed
    if bias is not None:
        shapes = [bias.shape] if allowed is None else [bias.shape, allowed.shape]
        shape = cast("torch.Size", torch.broadcast_shapes(*shapes))
        visible = _causal(q, k) if mask.causal else allowed
        allowed = bias.expand(shape) if visible is None else bias.masked_fill(~visible, float("-inf"))
        allowed = allowed.to(q.dtype)
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=allowed,
        dropout_p=dropout,
        is_causal=mask.causal and bias is None,
        scale=kind.scale,
        enable_gqa=kind.num_kv_heads != kind.num_heads,
    )
    return out, None


def _causal(q: Tensor, k: Tensor) -> Bool[Tensor, "1 1 T S"]:
    return readable(q.shape[-2], k.shape[-2], causal=True, window=None, device=q.device)[None, None]


def _attend_in_operations(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, kind: spec.Attention, bias: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """Attend in separate operations; the query heads of a group are adjacent, so keys need not be repeated."""
    scores = _products(q, k) * kind.scale
    weights = _weights(scores, kind, _causal(q, k) if mask.causal else mask.allowed, bias, q.dtype)
    return _mixed(F.dropout(weights, dropout), v), weights


def _products(q: Float[Tensor, "R H T E"], k: Float[Tensor, "R K S E"]) -> Float[Tensor, "R H T S"]:
    """Return the products of queries and keys."""
    grouped = q.reshape(len(q), k.shape[1], -1, q.shape[-1])
    return torch.matmul(grouped, k.transpose(-1, -2)).view(*q.shape[:3], -1)


def _mixed(weights: Float[Tensor, "R H T S"], v: Float[Tensor, "R K S E"]) -> Float[Tensor, "R H T E"]:
    """Return the values mixed by weights."""
    grouped = weights.reshape(len(weights), v.shape[1], -1, v.shape[2])
    return torch.matmul(grouped, v).view(*weights.shape[:3], v.shape[-1])


def _weights(
    scores: Float[Tensor, "R H T S"],
    kind: spec.Attention,
    allowed: Bool[Tensor, "..."] | None,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Float[Tensor, "R H T S"]:
    """Return the softmax over the allowed keys; zeros where a query may read none."""
    if kind.softcap is not None:
        scores = torch.tanh(scores / kind.softcap) * kind.softcap
    if bias is not None:
        scores = scores + bias
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.float32)
    if allowed is not None:
        weights = weights.masked_fill(~allowed.any(-1, keepdim=True), 0.0)
    return weights.to(dtype)
