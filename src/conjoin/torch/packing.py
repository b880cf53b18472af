"""Inference without padding on a CPU: the real tokens of a padded batch stand one behind the other, in one row.

Only attention knows of sources; everything else maps each token on its own. Sources of equal length stand side by side
and attend in one call, each over exactly its own tokens: neither padding nor batch mates enter a source's result.
"""

from dataclasses import dataclass
from typing import Self

from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin import spec
from conjoin.torch.attention import Mask, attend, self_mask


@dataclass(frozen=True, slots=True)
class Run:
    """Sources of equal length, side by side in the packed row."""

    first: int
    sources: int
    length: int

    def heads(self, x: Float[Tensor, "1 H P E"]) -> Float[Tensor, "B H T E"]:
        """The heads of these sources; a view."""
        tokens = x[0, :, self.first : self.first + self.sources * self.length]
        return tokens.unflatten(1, (self.sources, self.length)).transpose(0, 1)


@dataclass(frozen=True, slots=True)
class PackedMask:
    """What the sources of each run read of their own tokens."""

    parts: tuple[tuple[Run, Mask], ...]


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the real tokens of a batch [B, T] stand: P of them.

    Args:
        places: Of each packed token in the batch, flattened. Short sources come first.
        unbroken: The real tokens of every source stand together, so that distances between them are as in the batch.
    """

    places: Int[Tensor, " P"]
    runs: tuple[Run, ...]
    unbroken: bool
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: Bool[Tensor, "B T"]) -> Self:
        """The packing of a batch that is real where the mask is True."""
        counts = mask.sum(1)
        order = counts.argsort(stable=True)
        found = mask[order].flatten().nonzero().squeeze(1)
        length = mask.shape[1]
        places = order[found // length] * length + found % length
        begins = int((mask[:, 1:] & ~mask[:, :-1]).sum()) + int(mask[:, 0].sum())
        return cls(places, _runs(counts[order]), begins == int((counts > 0).sum()), (len(mask), length))

    @property
    def longest(self) -> int:
        """Tokens of the longest source."""
        return self.runs[-1].length

    def pack(self, x: Tensor) -> Tensor:
        """[B, T, ...] to [1, P, ...]; a single row stands for B equal ones."""
        return x.expand(*self.shape, *x.shape[2:]).flatten(0, 1)[self.places][None]

    def unpack(self, x: Tensor) -> Tensor:
        """[1, P, ...] to [B, T, ...], zeros at padding."""
        rows, length = self.shape
        return x.new_zeros(rows * length, *x.shape[2:]).index_copy_(0, self.places, x[0]).unflatten(0, self.shape)

    def unpack_heads(self, x: Float[Tensor, "1 K P E"]) -> Float[Tensor, "B K S E"]:
        """Heads of the packed tokens to heads of the batch."""
        return self.unpack(x.transpose(1, 2)).transpose(1, 2)

    def mask(self, window: int | None) -> PackedMask:
        """Every source reads its own tokens, `window` of them to either side."""
        device = self.places.device
        return PackedMask(
            tuple(
                (run, self_mask(None, causal=False, window=window, past=0, length=run.length, device=device))
                for run in self.runs
            )
        )


def _runs(counts: Int[Tensor, " B"]) -> tuple[Run, ...]:
    """Sources of equal length together, where counts ascend; sources of no token are left out."""
    runs, first = [], 0
    lengths, sources = counts[counts > 0].unique_consecutive(return_counts=True)
    for length, number in zip(lengths.tolist(), sources.tolist(), strict=True):
        runs.append(Run(first, number, length))
        first += number * length
    return tuple(runs)


def attend_packed(
    q: Float[Tensor, "1 H P E"],
    k: Float[Tensor, "1 K P E"],
    v: Float[Tensor, "1 K P E"],
    mask: PackedMask,
    kind: spec.Attention,
    bias: Float[Tensor, "1 H L L"] | None = None,
) -> Float[Tensor, "1 H P E"]:
    """`attend`, every source over its own tokens.

    Args:
        bias: Of the longest source, and a matter of distances: shorter ones take its corner.
    """
    out = q.new_empty(1, q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)
    for run, own in mask.parts:
        corner = None if bias is None else bias[..., : run.length, : run.length]
        mixed, _ = attend(run.heads(q), run.heads(k), run.heads(v), own, kind, bias=corner)
        run.heads(out).copy_(mixed)
    return out
