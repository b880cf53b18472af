"""Attention, top to bottom: scores, and the two bricks that use them."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin import spec
from conjoin.torch.cpu import native
from conjoin.torch.cpu.attention_grad import Attending, attend_in_training, trains_fast
from conjoin.torch.cpu.linear import Linear, plain_cpu_tensor
from conjoin.torch.model.cache_rows import from_bytes
from conjoin.torch.model.masks import Mask, readable
from conjoin.torch.model.norm import build_norm
from conjoin.torch.model.positions import Angles, rotate
from conjoin.torch.model.sharing import Brick


def attend(
    q: Float[Tensor, "R H T E"],
    k: native.Kept,
    v: native.Kept,
    mask: Mask,
    kind: spec.Attention,
    *,
    bias: Float[Tensor, "#R H T S"] | None = None,
    dropout: float = 0.0,
    want_weights: bool = False,
) -> tuple[Float[Tensor, "R H T E"], Float[Tensor, "R H T S"] | None]:
    """softmax(q k^T * scale + bias) v, over what the mask allows (Vaswani et al. 2017, arXiv:1706.03762, 3.2.1).

    A query that may read nothing returns zeros. Heads are grouped: H / K queries share a key head. R may be N times
    k's rows: rows n*N .. n*N + N - 1 (beams) then read row n's keys, without copying them. Keys and values may be rows
    of a cache in 8 bits.

    Returns:
        The mixed values, and the weights if asked for.
    """
    open_wanted = want_weights or kind.softcap is not None
    alike = bias is None or len(bias) == 1
    if not open_wanted and not dropout and alike and _few_cached_queries(q, k, v, mask):
        return native.attention(q, k, v, kind.scale, mask.allowed, bias).transpose(1, 2), None
    if k.dtype == torch.int8:
        k, v = from_bytes(k, q.shape[-1], q.dtype), from_bytes(v, q.shape[-1], q.dtype)
    beams, length = q.shape[0] // k.shape[0], q.shape[2]
    if beams > 1:
        q = q.unflatten(0, (-1, beams)).transpose(1, 2).flatten(2, 3)
    attend_rows = _attend_openly if open_wanted else _attend_fused
    out, weights = attend_rows(q, k, v, mask, kind, bias, dropout)
    if beams > 1:
        out = out.unflatten(2, (beams, length)).transpose(1, 2).flatten(0, 1)
        if weights is not None:
            weights = weights.unflatten(2, (beams, length)).transpose(1, 2).flatten(0, 1)
    return out, weights


_FEW_QUERIES = 64


def _few_cached_queries(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> bool:
    """Whether this is a decoding step that our own kernel takes."""
    queries = q.shape[0] * q.shape[1] * q.shape[2] // (k.shape[0] * k.shape[1])
    return (
        queries <= _FEW_QUERIES
        and not mask.causal
        and plain_cpu_tensor(q)
        and q.dtype in (torch.float32, torch.bfloat16)
        and k.dtype == v.dtype
        and k.dtype in (q.dtype, torch.int8)
        and native.has("bfloat16" if k.dtype == torch.bfloat16 else "float32")
    )


def _attend_fused(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, kind: spec.Attention, bias: Tensor | None, dropout: float
) -> tuple[Tensor, None]:
    """By PyTorch's fused attention, or our own where gradients are wanted on a CPU."""
    if trains_fast(q, k, v, bias, dropout):
        visible = _causal(q, k) if mask.causal else mask.allowed
        reads = native.Reads.of_rows(q, k, visible)
        return attend_in_training(q, k, v, reads, bias, Attending(kind.scale, dropout)), None
    allowed = mask.allowed
    if bias is not None:
        shape = bias.shape if allowed is None else torch.broadcast_shapes(bias.shape, allowed.shape)
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


def _attend_openly(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, kind: spec.Attention, bias: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """The same in plain steps; query heads of a group stand side by side, so that keys are never repeated."""
    rows, heads, length = q.shape[:3]
    grouped = q.reshape(rows, k.shape[1], -1, q.shape[-1])
    scores = torch.matmul(grouped, k.transpose(-1, -2)).view(rows, heads, length, -1) * kind.scale
    if kind.softcap is not None:
        scores = torch.tanh(scores / kind.softcap) * kind.softcap
    if bias is not None:
        scores = scores + bias
    allowed = _causal(q, k) if mask.causal else mask.allowed
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.float32)
    if allowed is not None:
        weights = weights.masked_fill(~allowed.any(-1, keepdim=True), 0.0)
    weights = weights.to(q.dtype)
    mixed = torch.matmul(F.dropout(weights, dropout).view(rows, k.shape[1], -1, k.shape[2]), v)
    return mixed.view(q.shape[:3] + v.shape[-1:]), weights


class Attention(Brick):
    """The four projections of multi-head attention."""

    def __init__(self, kind: spec.Attention, hidden_size: int, source_size: int) -> None:
        super().__init__()
        self.kind = kind
        queries, keys = kind.num_heads * kind.head_size, kind.num_kv_heads * kind.head_size
        self.q = Linear(hidden_size, queries, bias=kind.q_bias)
        self.k = Linear(source_size, keys, bias=kind.k_bias)
        self.v = Linear(source_size, keys, bias=kind.v_bias)
        self.o = Linear(queries, hidden_size, bias=kind.o_bias)
        qk = kind.qk_norm
        self.q_norm = build_norm(qk.norm, qk.size(kind.num_heads, kind.head_size)) if qk else None
        self.k_norm = build_norm(qk.norm, qk.size(kind.num_kv_heads, kind.head_size)) if qk else None

    @property
    def dropout_now(self) -> float:
        """Dropout on attention weights: the spec's in training, else 0."""
        return self.kind.dropout if self.training else 0.0

    def queries(self, x: Float[Tensor, "R T D"]) -> Float[Tensor, "R H T E"]:
        """Query heads."""
        return self._heads(self.q(x), self.q_norm, self.kind.num_heads).transpose(1, 2)

    def keys_values(self, source: Float[Tensor, "R S M"]) -> tuple[Tensor, Tensor]:
        """Key and value heads, each [R, K, S, E]."""
        k = self._heads(self.k(source), self.k_norm, self.kind.num_kv_heads)
        v = self._heads(self.v(source), None, self.kind.num_kv_heads)
        return k.transpose(1, 2), v.transpose(1, 2)

    def _heads(self, x: Tensor, norm: nn.Module | None, count: int) -> Tensor:
        if norm is None or self.kind.qk_norm is None:
            return x.unflatten(-1, (count, -1))
        if self.kind.qk_norm.over == "projection":
            return norm(x).unflatten(-1, (count, -1))
        return norm(x.unflatten(-1, (count, -1)))

    def output(self, mixed: Float[Tensor, "R H T E"]) -> Float[Tensor, "R T D"]:
        """Concatenate heads and project."""
        return self.o(mixed.transpose(1, 2).flatten(2))


class SelfAttention(Attention):
    """Every position reads the stack's own positions."""

    def __init__(self, kind: spec.SelfAttention, hidden_size: int) -> None:
        super().__init__(kind.attention, hidden_size, hidden_size)
        self.rotary = kind.rotary
        self.window = kind.window


class CrossAttention(Attention):
    """Every target position reads the whole source; several rows (beams) may read one source without copying it."""

    def __init__(self, kind: spec.CrossAttention, hidden_size: int) -> None:
        super().__init__(kind.attention, hidden_size, kind.source_size)
        self.gate = nn.Parameter(torch.empty(1)) if kind.gated else None


def turn(q: Tensor, k: Tensor, angles: Angles | None) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys, where the block has rotary positions."""
    return (q, k) if angles is None else (rotate(q, angles), rotate(k, angles))
