"""The attention bricks: projections to queries, keys and values, and of what is mixed."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conjoin import spec
from conjoin.torch.cpu.dropout import dropout
from conjoin.torch.cpu.linear import Linear
from conjoin.torch.model.norm import build_qk_norm
from conjoin.torch.model.positions import Angles, Distances, rotate
from conjoin.torch.model.sharing import Brick


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
        self.q_norm = build_qk_norm(qk, kind.num_heads, kind.head_size) if qk else None
        self.k_norm = build_qk_norm(qk, kind.num_kv_heads, kind.head_size) if qk else None

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
            return torch.unflatten(x, -1, (count, -1))
        if self.kind.qk_norm.over == "projection":
            return torch.unflatten(norm(x), -1, (count, -1))
        return norm(torch.unflatten(x, -1, (count, -1)))

    def output(self, mixed: Float[Tensor, "R H T E"]) -> Float[Tensor, "R T D"]:
        """Concatenate heads and project."""
        return self.o(mixed.transpose(1, 2).flatten(2))


class SelfAttention(Attention):
    """Every position reads the stack's own positions."""

    def __init__(self, kind: spec.SelfAttention, hidden_size: int) -> None:
        super().__init__(kind.attention, hidden_size, hidden_size)
        self.rotary = kind.rotary
        self.disentangled = kind.disentangled
        inner, own = kind.attention.num_heads * kind.attention.head_size, kind.disentangled
        own = None if own is None or own.shared else own
        self.distance_k = Linear(hidden_size, inner, bias=own.key_bias) if own and own.distance_keys else None
        self.distance_q = Linear(hidden_size, inner) if own and own.distance_queries else None

    def scores_of(self, distances: Distances) -> Callable[[Tensor, Tensor], Tensor]:
        """Return a function of queries [R, H, T, E] and keys of as many: what they score against distances."""
        kind, scale = self.disentangled, self.kind.scale
        assert kind is not None
        table, rows = dropout(distances.table, kind.dropout, self.training), distances.rows
        keys = self._of_distances(self.distance_k or self.k, table) if kind.distance_keys else None
        queries = self._of_distances(self.distance_q or self.q, table) if kind.distance_queries else None

        def scores(q: Float[Tensor, "R H T E"], k: Float[Tensor, "R H T E"]) -> Float[Tensor, "R H T T"]:
            length = q.shape[2]
            places = rows[..., :length, :length].expand(*q.shape[:3], -1)
            terms = [] if keys is None else [(q @ keys.mT).gather(-1, places)]
            terms += [] if queries is None else [(queries @ k.mT).gather(-2, places)]
            return sum(terms[1:], terms[0]) * scale

        return scores

    def _of_distances(self, layer: nn.Module, table: Float[Tensor, "rows D"]) -> Float[Tensor, "H rows E"]:
        return torch.unflatten(layer(table), -1, (self.kind.num_heads, -1)).transpose(0, 1)


class CrossAttention(Attention):
    """Every target position reads the whole source; several rows (beams) may read one source without copying it."""

    def __init__(self, kind: spec.CrossAttention, hidden_size: int) -> None:
        super().__init__(kind.attention, hidden_size, kind.source_size)
        self.gate = nn.Parameter(torch.empty(1)) if kind.gated else None


def apply_rotary(q: Tensor, k: Tensor, angles: Angles | None) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys, if the block has rotary positions."""
    return (q, k) if angles is None else (rotate(q, angles), rotate(k, angles))
