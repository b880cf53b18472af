"""Work without padding on a CPU: the real tokens of a padded batch stand one behind the other, in one row.

Only attention knows of sequences; everything else maps each token on its own. Sequences of like length stand side by
side and attend in one call. In training the row ends in filler, a sequence that nobody reads (`row_counts.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from conjoin import spec
from conjoin.torch.cpu import native
from conjoin.torch.cpu.attention import attend
from conjoin.torch.cpu.attention_grad import Attending, attend_in_training, trains_fast
from conjoin.torch.cpu.masks import Mask, self_mask
from conjoin.torch.cpu.row_counts import rounded_up

CALL_SCORES = 1500
"""Scores of a head that take as long to train as one more call of attention does: so many may be of padding."""


@dataclass(frozen=True)
class Group:
    """Sequences that attend in one call, side by side in the packed row.

    Args:
        tokens: Of all of them.
        sequences: How many they are, each at most `length` tokens long.
        real: True at tokens of the padded group; None where all are as long.
    """

    tokens: int
    sequences: int
    length: int
    real: Bool[Tensor, "sequences length"] | None

    @classmethod
    def of(cls, lengths: Int[Tensor, " sequences"]) -> Self:
        """A group of sequences of these lengths."""
        tokens, longest = int(lengths.sum()), int(lengths.max())
        real = torch.arange(longest) < lengths[:, None]
        return cls(tokens, len(lengths), longest, None if tokens == real.numel() else real)

    @cached_property
    def places(self) -> Int[Tensor, " tokens"] | None:
        """Of each token in the padded group, flattened."""
        return None if self.real is None else self.real.flatten().nonzero().squeeze(1)

    def heads(self, x: Float[Tensor, "tokens H E"]) -> Float[Tensor, "sequences H length E"]:
        """Heads of these sequences, padded; a view where there is no padding."""
        padded = x if self.places is None else spread(x, self.places, self.sequences * self.length)
        return padded.unflatten(0, (self.sequences, self.length)).transpose(1, 2)

    def tokens_of(self, x: Float[Tensor, "sequences H length E"]) -> Float[Tensor, "tokens H E"]:
        """Undo `heads`."""
        flat = x.transpose(1, 2).flatten(0, 1)
        return flat if self.places is None else collect(flat, self.places)


@dataclass(frozen=True)
class PackedMask:
    """What each sequence of a packed row reads: all of its source's tokens, or its own.

    Args:
        own, read: Tokens of each sequence: its queries, and the keys that they read.
        causal, window: As `self_mask` has them.
    """

    own: Int[Tensor, " B"]
    read: Int[Tensor, " B"]
    causal: bool = False
    window: int | None = None

    @cached_property
    def reads(self) -> native.Reads:
        """As the kernel of training takes it."""
        ends = (self.own.cumsum(0) - self.own, self.own, self.read.cumsum(0) - self.read, self.read)
        return native.Reads(torch.stack(ends, 1), None, self.causal, self.window)

    @cached_property
    def parts(self) -> tuple[tuple[Group, Group, Mask], ...]:
        """Groups that attend together, what they read, and what of it."""
        return tuple((own, read, self._mask(own, read)) for own, read in _groups(self.own, self.read))

    def _mask(self, own: Group, read: Group) -> Mask:
        if not self.causal and self.window is None:
            return Mask(None if read.real is None else read.real[:, None, None])
        return self_mask(
            own.real, causal=self.causal, window=self.window, past=0, length=own.length, device=self.own.device
        )


@dataclass(frozen=True)
class Packing:
    """Where the real tokens of a batch [B, T] stand: R of them, in a row of P.

    Args:
        places: Of each real token in the batch, flattened.
        order: In which the sequences stand.
        counts: Tokens of each sequence, in that order.
        filler: Tokens behind the real ones, a sequence of their own: P = R + filler. Zeros go in, nothing comes out.
    """

    places: Int[Tensor, " R"]
    order: Int[Tensor, " B"]
    counts: Int[Tensor, " B"]
    shape: tuple[int, int]
    filler: int = 0

    @classmethod
    def of(cls, mask: Bool[Tensor, "B T"], order: Int[Tensor, " B"] | None = None) -> Self:
        """The packing of a batch that is real where the mask is True.

        Args:
            order: Of the sequences; short ones come first unless it says otherwise.
        """
        counts = mask.sum(1)
        order = counts.argsort(stable=True) if order is None else order
        found = mask[order].flatten().nonzero().squeeze(1)
        length = mask.shape[1]
        places = order[found // length] * length + found % length
        filler = rounded_up(len(places) + 1) - len(places) if torch.is_grad_enabled() else 0
        return cls(places, order, counts[order], (len(mask), length), filler)

    @cached_property
    def is_empty(self) -> bool:
        """Whether no token is real."""
        return not len(self.places)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence, filler included."""
        return int(self.sequences.max())

    @cached_property
    def sequences(self) -> Int[Tensor, " sequences"]:
        """Tokens of each sequence of the row; filler is the last one."""
        return torch.cat((self.counts, self.counts.new_tensor([self.filler]))) if self.filler else self.counts

    def pack(self, x: Tensor) -> Tensor:
        """[B, T, ...] to [1, P, ...]; a single row stands for B equal ones."""
        return collect(x.expand(*self.shape, *x.shape[2:]).flatten(0, 1), self.places, self.filler)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """[1, P, ...] to [B, T, ...], zeros at padding."""
        rows, length = self.shape
        return spread(x[0], self.places, rows * length).unflatten(0, self.shape)

    def unpack_heads(self, x: Float[Tensor, "1 K P E"]) -> Float[Tensor, "B K S E"]:
        """Heads of the packed tokens to heads of the batch."""
        return self.unpack(x.transpose(1, 2)).transpose(1, 2)

    def mask(self, *, causal: bool, window: int | None) -> PackedMask:
        """Every sequence reads its own tokens: `window` of them to either side, and those before if causal."""
        return PackedMask(self.sequences, self.sequences, causal, window)

    def mask_reading(self, source: "Packing") -> PackedMask:
        """Every sequence reads all tokens of its source, which stand in the same order."""
        return PackedMask(self.sequences, source.sequences)


def _groups(own: Int[Tensor, " B"], read: Int[Tensor, " B"]) -> list[tuple[Group, Group]]:
    """Neighbours that attend together, and what they read; sequences of no token are left out.

    In inference they are of equal length, so that neither padding nor batch mates enter a result.
    """
    slack = CALL_SCORES if torch.is_grad_enabled() else 0
    lengths: list[Sequence[int]] = torch.stack([own, read]).T.tolist()
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
    bias: Float[Tensor, "1 H L L"] | None = None,
    dropout: float = 0.0,
    want_weights: bool = False,
) -> tuple[Float[Tensor, "1 H P E"], None]:
    """`attend`, every sequence over its own tokens or its own source's; weights are never returned.

    Args:
        bias: Of the longest sequence, and a matter of distances: shorter ones take its corner.
    """
    if kind.softcap is None and native.has("float32") and trains_fast(q, k, v, bias, dropout):
        return attend_in_training(q, k, v, mask.reads, bias, Attending(kind.scale, dropout)), None
    own = [group.tokens for group, _, _ in mask.parts]
    read = [group.tokens for _, group, _ in mask.parts]
    queries, keys, values = (
        x.transpose(1, 2).flatten(0, 1).split(sizes) for x, sizes in ((q, own), (k, read), (v, read))
    )
    assert not want_weights
    mixed: list[Tensor] = []
    for at, (group, source, allowed) in enumerate(mask.parts):
        corner = None if bias is None else bias[..., : group.length, : source.length]
        heads = (group.heads(queries[at]), source.heads(keys[at]), source.heads(values[at]))
        out, _ = attend(*heads, kind, mask=allowed, bias=corner, dropout=dropout)
        mixed.append(group.tokens_of(out))
    return torch.cat(mixed).transpose(0, 1)[None], None


def collect(x: Shaped[Tensor, "N *any"], places: Int[Tensor, " R"], filler: int = 0) -> Shaped[Tensor, "P *any"]:
    """Some rows, each at most once, and so many rows of zeros behind them."""
    return _Collect.apply(x, places, filler)  # pyright: ignore[reportReturnType]


def spread(x: Float[Tensor, "P *any"], places: Int[Tensor, " R"], size: int) -> Float[Tensor, "size *any"]:
    """Rows at their places among zeros; rows behind those that have a place are left out."""
    return _Spread.apply(x, places, size)  # pyright: ignore[reportReturnType]


class _Collect(torch.autograd.Function):
    """Its gradient knows that no row is taken twice, so nothing has to be added up."""

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
