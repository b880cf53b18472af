"""One transformer block: self-attention, cross-attention and MLP, each with its norms and a residual connection."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from conjoin import spec
from conjoin.torch.cpu import native
from conjoin.torch.cpu.dropout import dropout
from conjoin.torch.cpu.packing import PackedMask, Packing, attend_packed
from conjoin.torch.model.attention import Attention, CrossAttention, SelfAttention, attend, turn
from conjoin.torch.model.cache import KVCache
from conjoin.torch.model.masks import Mask
from conjoin.torch.model.mlp import build_mlp
from conjoin.torch.model.norm import build_norm
from conjoin.torch.model.positions import Angles
from conjoin.torch.model.sharing import Brick

_MOST = torch.finfo(torch.float16).max


@dataclass(slots=True)
class Reading:
    """What one layer reads besides its input.

    Args:
        layer: Index of the layer (not of its weights), for the cache.
        mask, source_mask: Of self- and cross-attention; PackedMasks where x is a row of packed sequences.
        source: Encoder output [B, S, M]; not needed once the cache holds its keys and values.
        source_packing: Where `source` holds the real tokens only, [1, P, M]: how they stand in the batch.
        attentions, cross_attentions: Lists that collect weights, or None.
    """

    layer: int
    mask: Mask | PackedMask
    angles: Angles | None = None
    bias: Tensor | None = None
    source: Tensor | None = None
    source_packing: Packing | None = None
    source_mask: Mask | PackedMask = field(default_factory=Mask)
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

    def forward(self, x: Float[Tensor, "R T D"], reading: Reading) -> Float[Tensor, "R T D"]:
        """Run every branch: y = out(f(pre(x))), then x = post(x + dropout(gate * y)), with the norms of the spec."""
        branches: list[tuple[str, Callable[[Tensor], Tensor]]] = [("self_attn", lambda h: self._read_self(h, reading))]
        if self.cross_attn is not None:
            branches.append(("cross_attn", lambda h: self._read_source(h, reading)))
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

    def _read_self(self, x: Tensor, reading: Reading) -> Tensor:
        attn = self.self_attn
        q = attn.queries(x)
        k, v = attn.keys_values(x)
        q, k = turn(q, k, reading.angles)
        if reading.cache is not None:
            k, v = reading.cache.append(reading.layer, k, v)
        return attn.output(self._attend(attn, (q, k, v), reading.mask, reading.attentions, reading.bias))

    def _read_source(self, x: Tensor, reading: Reading) -> Tensor:
        assert self.cross_attn is not None
        if reading.cache is not None and len(reading.cache.cross) > reading.layer:
            k, v = reading.cache.cross[reading.layer]
        else:
            assert reading.source is not None
            k, v = self.cross_attn.keys_values(reading.source)
            packing = reading.source_packing
            if packing is not None and isinstance(reading.source_mask, Mask):
                k, v = packing.unpack_heads(k), packing.unpack_heads(v)
            if reading.cache is not None:
                k, v = reading.cache.add_source(k, v)
        heads = (self.cross_attn.queries(x), k, v)
        return self.cross_attn.output(
            self._attend(self.cross_attn, heads, reading.source_mask, reading.cross_attentions)
        )

    def _attend(
        self,
        attn: Attention,
        heads: tuple[Tensor, native.Kept, native.Kept],
        mask: Mask | PackedMask,
        collected: list[Tensor] | None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Mix the values; `collected` takes the weights, where it is a list."""
        if isinstance(mask, PackedMask):
            return attend_packed(*heads, mask, attn.kind, bias=bias, dropout=attn.dropout_now)
        out, weights = attend(
            *heads, mask, attn.kind, bias=bias, dropout=attn.dropout_now, want_weights=collected is not None
        )
        if collected is not None and weights is not None:
            collected.append(weights)
        return out
