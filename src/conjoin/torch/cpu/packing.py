"""Packing on a CPU: the real tokens of a padded batch are concatenated into one row without padding.

Only attention distinguishes sequences; everything else maps each token on its own. Sequences of similar length are
adjacent and attend in one call. In training the row ends in filler, a sequence that nothing reads (`row_counts.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from conjoin import spec
from conjoin.torch.cpu import native
from conjoin.torch.cpu.attention import Bias, attend
from conjoin.torch.cpu.attention_grad import AttentionOptions, attend_in_training, trains_fast
from conjoin.torch.cpu.masks import Mask, self_mask
from conjoin.torch.cpu.row_counts import rounded_up

CALL_SCORES = 1500
"""Scores of one head that take as long to train as one more attention call; a group may have this many at padding."""


@dataclass(frozen=True)
class Group:
    """Sequences that are adjacent in the packed row and attend in one call.

    Args:
        tokens: Number of tokens of all sequences.
        sequences: Number of sequences.
        length: Number of tokens of the longest sequence.
        real: True at tokens of the padded group; None if all sequences have the same length.
    """

    tokens: int
    sequences: int
    length: int
    real: Bool[Tensor, "sequences length"] | None

    @classmethod
    def of(cls, lengths: Int[Tensor, " sequences"]) -> Self:
        """Return a group of sequences of these lengths."""
        tokens, longest = int(lengths.sum()), int(lengths.max())
        real = torch.arange(longest) < lengths[:, None]
        return cls(tokens, len(lengths), longest, None if tokens == real.numel() else real)

    @cached_property
    def counts(self) -> Int[Tensor, " sequences"]:
        """Number of tokens of each sequence."""
        return torch.full((self.sequences,), self.length) if self.real is None else self.real.sum(1)

    @cached_property
    def places(self) -> Int[Tensor, " tokens"] | None:
        """Index of each token in the padded, flattened group; None if there is no padding."""
        return None if self.real is None else self.real.flatten().nonzero().squeeze(1)

    def heads(self, x: Float[Tensor, "tokens H E"]) -> Float[Tensor, "sequences H length E"]:
        """Return the heads of these sequences, padded; a view if there is no padding."""
        padded = x if self.places is None else spread(x, self.places, self.sequences * self.length)
        return torch.unflatten(padded, 0, (self.sequences, self.length)).transpose(1, 2)

    def tokens_of(self, x: Float[Tensor, "sequences H length E"]) -> Float[Tensor, "tokens H E"]:
        """Undo `heads`."""
        flat = x.transpose(1, 2).flatten(0, 1)
        return flat if self.places is None else collect(flat, self.places)


@dataclass(frozen=True)
class PackedMask:
    """The keys that each sequence of a packed row reads: all tokens of its source, or its own.

    Args:
        own, read: Number of queries of each sequence, and of keys that they read.
        causal, window: As in `self_mask`.
    """

    own: Int[Tensor, " B"]
    read: Int[Tensor, " B"]
    causal: bool = False
    window: spec.Sides | None = None

    @cached_property
    def reads(self) -> native.Reads:
        """The same in the form of the training kernel."""
        spans = (self.own.cumsum(0) - self.own, self.own, self.read.cumsum(0) - self.read, self.read)
        return native.Reads(torch.stack(spans, 1), None, self.causal, self.window)

    @cached_property
    def parts(self) -> tuple[tuple[Group, Group, Mask], ...]:
        """Groups of queries, the groups of keys that they read, and the masks between the two."""
        return tuple((own, read, self._mask(own, read)) for own, read in _groups(self.own, self.read))

    def _mask(self, own: Group, read: Group) -> Mask:
        if not self.causal and self.window is None:
            return Mask(None if read.real is None else read.real[:, None, None])
        if own.length != read.length or own.tokens != read.tokens:
            return self._mask_behind(own, read)
        return self_mask(
            own.real, causal=self.causal, window=self.window, past=0, length=own.length, device=self.own.device
        )

    def _mask_behind(self, own: Group, read: Group) -> Mask:
        """The mask of queries that belong to the last keys of their sequences."""
        device = self.own.device
        key = torch.arange(read.length, device=device)
        before = (read.counts - own.counts)[:, None]
        query = before + torch.arange(own.length, device=device)
        away = query[:, :, None] - key
        allowed = away >= 0 if self.causal else torch.ones_like(away, dtype=torch.bool)
        if self.window is not None:
            allowed = allowed & self.window.hold(away)
        return Mask((allowed if read.real is None else allowed & read.real[:, None])[:, None])


@dataclass(frozen=True)
class Packing:
    """Places of the R real tokens of a batch [B, T], which are packed into a row of P.

    Args:
        places: Index of each real token in the flattened batch.
        order: Rows of the batch in the order of the packed row.
        counts: Tokens of each sequence, in that order.
        filler: Number of tokens after the real ones: P = R + filler. They start as zeros and are dropped by `unpack`.
    """

    places: Int[Tensor, " R"]
    order: Int[Tensor, " B"]
    counts: Int[Tensor, " B"]
    shape: tuple[int, int]
    filler: int = 0

    @classmethod
    def of(cls, mask: Bool[Tensor, "B T"], order: Int[Tensor, " B"] | None = None) -> Self:
        """Return the packing of a batch whose real tokens are those where the mask is True.

        Args:
            order: Order of the sequences; the shortest come first by default.
        """
        counts = mask.sum(1)
        order = counts.argsort(stable=True) if order is None else order
        indices = mask[order].flatten().nonzero().squeeze(1)
        length = mask.shape[1]
        places = order[indices // length] * length + indices % length
        filler = rounded_up(len(places) + 1) - len(places) if torch.is_grad_enabled() else 0
        return cls(places, order, counts[order], (len(mask), length), filler)

    @cached_property
    def is_empty(self) -> bool:
        """True if no token is real."""
        return not len(self.places)

    @cached_property
    def longest(self) -> int:
        """Number of tokens of the longest sequence; filler counts as a sequence."""
        return int(self.sequences.max())

    @cached_property
    def sequences(self) -> Int[Tensor, " sequences"]:
        """Number of tokens of each sequence of the row; filler is the last one."""
        return torch.cat((self.counts, self.counts.new_tensor([self.filler]))) if self.filler else self.counts

    def pack(self, x: Tensor) -> Tensor:
        """Pack [B, T, ...] into [1, P, ...]; [1, T, ...] is broadcast over the batch first."""
        return collect(x.expand(*self.shape, *x.shape[2:]).flatten(0, 1), self.places, self.filler)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """Unpack [1, P, ...] into [B, T, ...], with zeros at padding."""
        rows, length = self.shape
        return torch.unflatten(spread(x[0], self.places, rows * length), 0, self.shape)

    def unpack_heads(self, x: Float[Tensor, "1 K P E"]) -> Float[Tensor, "B K S E"]:
        """Unpack the heads of the packed tokens into heads of the batch."""
        return self.unpack(x.transpose(1, 2)).transpose(1, 2)

    def mask(self, *, causal: bool, window: spec.Sides | None) -> PackedMask:
        """Return the mask of self-attention, in which every sequence reads its own tokens; see `self_mask`."""
        return PackedMask(self.sequences, self.sequences, causal, window)

    def mask_reading(self, source: "Packing") -> PackedMask:
        """Return the mask of cross-attention, in which every sequence reads its source; both are in one order."""
        return PackedMask(self.sequences, source.sequences)

    def mask_behind(self, source: "Packing", *, causal: bool, window: spec.Sides | None) -> PackedMask:
        """Return the mask with which every sequence reads its source and, behind it, its own tokens."""
        return PackedMask(self.sequences, source.sequences + self.sequences, causal, window)

    def order_behind(self, source: "Packing") -> Int[Tensor, " N"]:
        """Return indices that put every sequence behind its source, in a row of all sources and then all sequences."""
        own, read = self.sequences, source.sequences
        both = own + read
        sequence = torch.arange(len(both)).repeat_interleave(both)
        at = torch.arange(len(sequence)) - (both.cumsum(0) - both)[sequence]
        in_source = (read.cumsum(0) - read)[sequence] + at
        in_target = read.sum() + (own.cumsum(0) - own - read)[sequence] + at
        return torch.where(at < read[sequence], in_source, in_target)


def _groups(own: Int[Tensor, " B"], read: Int[Tensor, " B"]) -> list[tuple[Group, Group]]:
    """Group neighbours that attend together, and the keys that they read; empty sequences are left out.

    In inference the sequences of a group have equal lengths, so that no result depends on padding or on other rows.
    """
    slack = CALL_SCORES if torch.is_grad_enabled() else 0
    lengths = cast("list[Sequence[int]]", torch.stack([own, read]).T.tolist())
    groups: list[tuple[Group, Group]] = []
    first, tall, wide = 0, 0, 0
    for at, (queries, keys) in enumerate([*lengths, (0, 0)]):
        high, broad = max(tall, queries), max(wide, keys)
        more = (at - first + 1) * high * broad - (at - first) * tall * wide - queries * keys
        if at == len(lengths) or (at > first and (more > slack or not tall)):
            if tall:
                groups.append((Group.of(own[first:at]), Group.of(read[first:at])))
            first, high, broad = at, queries, keys
        tall, wide = high, broad
    return groups


def attend_packed(
    q: Float[Tensor, "1 H P E"],
    k: Float[Tensor, "1 K N E"],
    v: Float[Tensor, "1 K N E"],
    kind: spec.Attention,
    *,
    mask: PackedMask,
    bias: Bias | None = None,
    dropout: float = 0.0,
    want_weights: bool = False,
) -> tuple[Float[Tensor, "1 H P E"], None]:
    """Return what `attend` does for each sequence of a packed row; weights are never returned.

    Args:
        bias: Bias of the longest sequence, [1, H, L, L]. It depends on distances only, so shorter sequences use its
            corner. Or what makes the bias of a group.
    """
    if not callable(bias) and kind.softcap is None and native.has("float32") and trains_fast(q, k, v, bias, dropout):
        return attend_in_training(q, k, v, mask.reads, bias, AttentionOptions(kind.scale, dropout)), None
    own = [group.tokens for group, _, _ in mask.parts]
    read = [group.tokens for _, group, _ in mask.parts]
    queries, keys, values = (
        torch.split(x.transpose(1, 2).flatten(0, 1), sizes) for x, sizes in ((q, own), (k, read), (v, read))
    )
    assert not want_weights
    mixed: list[Tensor] = []
    for at, (group, source, allowed) in enumerate(mask.parts):
        corner = bias if bias is None or callable(bias) else bias[..., : group.length, : source.length]
        heads = (group.heads(queries[at]), source.heads(keys[at]), source.heads(values[at]))
        out, _ = attend(*heads, kind, mask=allowed, bias=corner, dropout=dropout)
        mixed.append(group.tokens_of(out))
    return torch.cat(mixed).transpose(0, 1)[None], None


def attend_packed_joint(
    q: Float[Tensor, "1 H P E"],
    k: Float[Tensor, "1 K P E"],
    v: Float[Tensor, "1 K P E"],
    kind: spec.Attention,
    *,
    source: tuple[Float[Tensor, "1 K Q E"], Float[Tensor, "1 K Q E"]],
    mask: PackedMask,
    order: Int[Tensor, " N"],
    bias: None = None,
    dropout: float = 0.0,
    want_weights: bool = False,
) -> tuple[Float[Tensor, "1 H P E"], None]:
    """Return what `attend_packed` does where every sequence reads its source and, behind it, its own tokens.

    Args:
        source: Keys and values of the packed source.
        order: See `Packing.order_behind`.
    """
    k, v = (_reordered(*pair, order) for pair in zip(source, (k, v), strict=True))
    return attend_packed(q, k, v, kind, mask=mask, bias=bias, dropout=dropout, want_weights=want_weights)


def _reordered(source: Tensor, own: Tensor, order: Int[Tensor, " N"]) -> Float[Tensor, "1 K N E"]:
    tokens = torch.cat((source.transpose(1, 2)[0], own.transpose(1, 2)[0]))
    return collect(tokens, order).transpose(0, 1)[None]


def collect(x: Shaped[Tensor, "N *any"], places: Int[Tensor, " R"], filler: int = 0) -> Shaped[Tensor, "P *any"]:
    """Return the rows at `places`, which are distinct, and `filler` rows of zeros after them."""
    return cast(Any, _Collect).apply(x, places, filler)


def spread(x: Float[Tensor, "P *any"], places: Int[Tensor, " R"], size: int) -> Float[Tensor, "size *any"]:
    """Return `size` rows, those of x at their places and zeros elsewhere; rows of x without a place are dropped."""
    return cast(Any, _Spread).apply(x, places, size)


class _Collect(torch.autograd.Function):
    """Select rows. No row is selected twice, so the gradient need not add any up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, filler: int) -> Tensor:
        ctx.places, ctx.size = places, len(x)
        if not filler:
            return x.index_select(0, places)
        out = x.new_empty(len(places) + filler, *x.shape[1:])
        torch.index_select(x, 0, places, out=out[: len(places)])
        out[len(places) :] = 0
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return spread(dy, ctx.places, ctx.size), None, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.places, ctx.filler = places, len(x) - len(places)
        return x.new_zeros(size, *x.shape[1:]).index_copy_(0, places, x[: len(places)])

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return collect(dy, ctx.places, ctx.filler), None, None
