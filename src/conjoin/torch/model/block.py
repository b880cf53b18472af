"""One transformer block: self-attention, cross-attention and MLP, each with its norms and a residual connection."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from conjoin import spec
from conjoin.torch.cpu import native
from conjoin.torch.cpu.dropout import dropout
from conjoin.torch.model.attention import CrossAttention, SelfAttention, apply_rotary
from conjoin.torch.model.cache import KVCache
from conjoin.torch.model.mlp import build_mlp
from conjoin.torch.model.norm import build_norm
from conjoin.torch.model.positions import Angles
from conjoin.torch.model.sharing import Brick

_MOST = torch.finfo(torch.float16).max


class Attend(Protocol):
    """`attend` over what a layer may read: the mask is bound."""

    def __call__(
        self,
        q: Tensor,
        k: native.Kept,
        v: native.Kept,
        kind: spec.Attention,
        *,
        bias: Tensor | None,
        dropout: float,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the mixed values, and the weights if asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """The encoder's output as cross-attention reads it.

    Args:
        states: [B, S, M]; packed, the real tokens only, [1, P, M].
        restore: Brings heads of packed tokens back to the batch, where attention needs them padded.
    """

    states: Tensor
    restore: Callable[[Tensor], Tensor] | None = None

    def heads(self, attn: CrossAttention) -> tuple[Tensor, Tensor]:
        """Return key and value heads."""
        k, v = attn.keys_values(self.states)
        return (k, v) if self.restore is None else (self.restore(k), self.restore(v))


@dataclass(slots=True)
class LayerContext:
    """Inputs of a layer other than its hidden states.

    Args:
        layer: Index of the layer (not of its weights), for the cache.
        attend, attend_source: Self- and cross-attention over what this layer may read.
        source: None if the cache holds its keys and values, or if there is none.
        attentions, cross_attentions: Lists that collect weights, or None.
    """

    layer: int
    attend: Attend
    attend_source: Attend
    angles: Angles | None = None
    bias: Tensor | None = None
    source: Source | None = None
    cache: KVCache | None = None
    attentions: list[Tensor] | None = None
    cross_attentions: list[Tensor] | None = None


class Block(Brick):
    """One block, as its spec says."""

    def __init__(self, kind: spec.Block, hidden_size: int) -> None:
        super().__init__()
        self.kind = kind
        self.self_attn = SelfAttention(kind.self_attn, hidden_size)
        self.cross_attn = CrossAttention(kind.cross_attn, hidden_size) if kind.cross_attn else None
        self.mlp = build_mlp(kind.mlp, hidden_size, wide=kind.wide_in_float16)
        self._norms: dict[str, list[str | None]] = {}
        for branch in ("self_attn", "cross_attn", "mlp") if kind.cross_attn else ("self_attn", "mlp"):
            norms = kind.norms_of(branch)
            self._norms[branch] = [None if norm is None else name for name, norm in norms]
            for name, norm in norms:
                if norm is not None:
                    self.add_module(name, build_norm(norm, hidden_size))

    def forward(self, x: Float[Tensor, "R T D"], context: LayerContext) -> Float[Tensor, "R T D"]:
        """Run every branch: y = out(f(pre(x))), then x = post(x + dropout(gate * y)), with the norms of the spec."""
        branches: list[tuple[str, Callable[[Tensor], Tensor]]] = [("self_attn", lambda h: self._read_self(h, context))]
        if self.cross_attn is not None:
            branches.append(("cross_attn", lambda h: self._read_source(h, context)))
        branches.append(("mlp", self.mlp))
        block_input = x
        for name, branch in branches:
            pre, out, post = self._norms[name]
            y = self._norm(out, branch(self._norm(pre, block_input if self.kind.parallel else x)))
            x = self._norm(post, x + self._drop(name, y))
        return x

    def _norm(self, name: str | None, x: Tensor) -> Tensor:
        return x if name is None else getattr(self, name)(x)

    def _drop(self, name: str, x: Tensor) -> Tensor:
        """Apply the gate of a branch, if it has one, and dropout to its output."""
        if name == "cross_attn" and self.cross_attn is not None and self.cross_attn.gate is not None:
            x = x * self.cross_attn.gate
        if self.kind.wide_in_float16 and x.dtype == torch.float16:
            x = x.clamp(-_MOST, _MOST)
        return dropout(x, self.kind.dropout, self.training)

    def _read_self(self, x: Tensor, context: LayerContext) -> Tensor:
        attn = self.self_attn
        q = attn.queries(x)
        k, v = attn.keys_values(x)
        q, k = apply_rotary(q, k, context.angles)
        if context.cache is not None:
            k, v = context.cache.append(context.layer, k, v)
        want = context.attentions is not None
        out, weights = context.attend(
            q, k, v, attn.kind, bias=context.bias, dropout=attn.dropout_now, want_weights=want
        )
        _collect(context.attentions, weights)
        return attn.output(out)

    def _read_source(self, x: Tensor, context: LayerContext) -> Tensor:
        attn, cache = self.cross_attn, context.cache
        assert attn is not None
        if cache is not None and len(cache.cross) > context.layer:
            k, v = cache.cross[context.layer]
        else:
            assert context.source is not None
            k, v = context.source.heads(attn)
            if cache is not None:
                k, v = cache.add_source(k, v)
        q, want = attn.queries(x), context.cross_attentions is not None
        out, weights = context.attend_source(q, k, v, attn.kind, bias=None, dropout=attn.dropout_now, want_weights=want)
        _collect(context.cross_attentions, weights)
        return attn.output(out)


def _collect(collected: list[Tensor] | None, weights: Tensor | None) -> None:
    if collected is not None and weights is not None:
        collected.append(weights)
