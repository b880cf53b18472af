"""One transformer block: self-attention, cross-attention and MLP, each with its norms and a residual connection."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor

from conjoin import spec
from conjoin.torch.cpu import native
from conjoin.torch.cpu.attention import Bias
from conjoin.torch.cpu.dropout import dropout
from conjoin.torch.cpu.mode import autocasts
from conjoin.torch.model.attention import Attention, CrossAttention, SelfAttention, apply_rotary
from conjoin.torch.model.cache import KVCache
from conjoin.torch.model.mlp import build_mlp
from conjoin.torch.model.norm import build_norm
from conjoin.torch.model.positions import Angles, Distances, RelativeBias, rotate
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
        bias: Bias | None,
        dropout: float,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the mixed values, and the weights if asked for."""
        ...


class AttendJoint(Protocol):
    """`attend_joint` over what a layer may read of a source and of its own positions: the mask is bound."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        kind: spec.Attention,
        *,
        source: tuple[Tensor, Tensor],
        bias: Tensor | None,
        dropout: float,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the mixed values, and the weights if asked for, those of the source first."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """The encoder's output, or one of the states in it, as attention reads it.

    Args:
        states: [B, S, M]; packed, the real tokens only, [1, P, M].
        restore: Brings heads of packed tokens back to the batch, where attention needs them padded.
    """

    states: Tensor
    restore: Callable[[Tensor], Tensor] | None = None

    def heads(self, attn: Attention, norm: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return key and value heads; `norm` is applied to the states first."""
        k, v = attn.keys_values(_in_autocast_dtype(self.states if norm is None else norm(self.states)))
        return (k, v) if self.restore is None else (self.restore(k), self.restore(v))

    def split(self, size: int) -> tuple["Source", ...]:
        """Return the hidden states that stand side by side, each of this width."""
        parts = cast("tuple[Tensor, ...]", self.states.split(size, -1))
        return tuple(Source(part, self.restore) for part in parts)


@dataclass(slots=True)
class LayerContext:
    """Inputs of a layer other than its hidden states.

    Args:
        layer: Index of the layer (not of its weights), for the cache.
        attend, attend_source: Self- and cross-attention over what this layer may read.
        attend_joint: In place of both, where self-attention reads the source, too.
        source: What this layer reads of the source. None if the cache holds its keys and values, or if there is none.
        source_angles: Of the source's keys, where self-attention reads them at their positions.
        attentions, cross_attentions: Lists that collect weights, or None.
    """

    layer: int
    attend: Attend | None
    attend_source: Attend
    attend_joint: AttendJoint | None = None
    angles: Angles | None = None
    source_angles: Angles | None = None
    bias: Tensor | None = None
    distances: Distances | None = None
    source: Source | None = None
    cache: KVCache | None = None
    attentions: list[Tensor] | None = None
    cross_attentions: list[Tensor] | None = None


class Block(Brick):
    """One block, as its spec says."""

    def __init__(self, kind: spec.Block, hidden_size: int, bias: spec.RelativeBias | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.relative_bias = RelativeBias(bias, kind.self_attn.attention.num_heads) if bias else None
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
        """Run every branch: y = out(f(pre(x))), then x = post(x + scale * dropout(gate * y)), as the spec says."""
        branches: list[tuple[str, Callable[[Tensor], Tensor]]] = [("self_attn", lambda h: self._read_self(h, context))]
        if self.cross_attn is not None:
            branches.append(("cross_attn", lambda h: self._read_source(h, context)))
        branches.append(("mlp", self.mlp))
        block_input = x
        for name, branch in branches:
            pre, out, post = self._norms[name]
            read = _in_autocast_dtype(self._norm(pre, block_input if self.kind.parallel else x))
            y = self._norm(out, branch(read))
            x = self._norm(post, x + self._drop(name, y))
        return x

    def _norm(self, name: str | None, x: Tensor) -> Tensor:
        return x if name is None else getattr(self, name)(x)

    def _drop(self, name: str, x: Tensor) -> Tensor:
        """Apply the gate of a branch, if it has one, dropout and the block's scale to its output."""
        if name == "cross_attn" and self.cross_attn is not None and self.cross_attn.gate is not None:
            x = x * self.cross_attn.gate
        if self.kind.wide_in_float16 and x.dtype == torch.float16:
            x = x.clamp(-_MOST, _MOST)
        x = dropout(x, self.kind.dropout, self.training)
        return x if self.kind.residual_scale == 1.0 else x * self.kind.residual_scale

    def _read_self(self, x: Tensor, context: LayerContext) -> Tensor:
        attn = self.self_attn
        q = attn.queries(x)
        k, v = attn.keys_values(x)
        q, k = apply_rotary(q, k, context.angles)
        if context.cache is not None:
            k, v = context.cache.append(context.layer, k, v)
        bias, dropout, want = context.bias, attn.dropout_now, context.attentions is not None
        if context.attend_joint is None:
            assert context.attend is not None
            own = bias if context.distances is None else attn.scores_of(context.distances)
            out, weights = context.attend(q, k, v, attn.kind, bias=own, dropout=dropout, want_weights=want)
        else:
            source = self._source_heads(attn, context)
            out, weights = context.attend_joint(
                q, k, v, attn.kind, source=source, bias=bias, dropout=dropout, want_weights=want
            )
            if weights is not None:
                size = source[0].shape[2]
                _collect(context.cross_attentions, weights[..., :size])
                weights = weights[..., size:]
        _collect(context.attentions, weights)
        return attn.output(out)

    def _source_heads(self, attn: Attention, context: LayerContext) -> tuple[Tensor, Tensor]:
        """Key and value heads of the source, computed once if there is a cache."""
        cache = context.cache
        if cache is not None and len(cache.cross) > context.layer:
            return cache.cross[context.layer]
        assert context.source is not None
        continues = isinstance(self.kind.self_attn.source, spec.PrefixSource)
        pre = self._norms["self_attn"][0]
        k, v = context.source.heads(attn, partial(self._norm, pre) if continues else None)
        if context.source_angles is not None:
            k = rotate(k, context.source_angles)
        return (k, v) if cache is None else cache.add_source(k, v)

    def _read_source(self, x: Tensor, context: LayerContext) -> Tensor:
        attn = self.cross_attn
        assert attn is not None
        k, v = self._source_heads(attn, context)
        q, want = attn.queries(x), context.cross_attentions is not None
        out, weights = context.attend_source(q, k, v, attn.kind, bias=None, dropout=attn.dropout_now, want_weights=want)
        _collect(context.cross_attentions, weights)
        return attn.output(out)


def _in_autocast_dtype(x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
    """Convert to bfloat16, if autocast is to, what several layers read, each of which would convert it by itself.

    In training only: layers in 8 bits read float32. In float16 the gradients that are added would overflow together.
    """
    device = x.device.type
    if x.dtype != torch.float32 or not torch.is_grad_enabled() or not autocasts(device):
        return x
    return x.bfloat16() if torch.get_autocast_dtype(device) == torch.bfloat16 else x


def _collect(collected: list[Tensor] | None, weights: Tensor | None) -> None:
    if collected is not None and weights is not None:
        collected.append(weights)
