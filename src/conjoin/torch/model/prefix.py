"""The source as a prefix of the target: the positions of both, where self-attention reads one after the other."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from conjoin import spec
from conjoin.torch.model.positions import places_of
from conjoin.torch.model.segments import segment_starts


@dataclass(frozen=True, slots=True)
class Prefix:
    """Positions of the source's tokens, and how far they move the target's.

    Args:
        places: [B, S], or one row if all are alike.
        offset: What is added to positions of the target, which count from 0: the number of the source's real tokens.
        size: S.
        beams: Rows of the target per source.
    """

    places: Int[Tensor, "B S"]
    offset: Int[Tensor, "#R #T"]
    size: int
    beams: int

    @classmethod
    def of(
        cls,
        mask: Bool[Tensor, "B S"] | None,
        shape: tuple[int, int] | torch.Size,
        rows: int,
        segments: Int[Tensor, "R T"] | None,
        source_segments: Int[Tensor, "B S"] | None,
        device: torch.device,
    ) -> Self:
        """Return the positions of sources of this shape, [B, S], before `rows` targets.

        Args:
            mask: True at real source tokens.
            segments, source_segments: Set if rows hold several pairs, each of which counts for itself.
        """
        sources, size = shape
        indices = torch.arange(size, device=device)[None]
        places = indices if mask is None else places_of(mask)
        beams = rows // sources
        if segments is not None and source_segments is not None:
            places = places.expand(sources, size)
            places = places - places.gather(1, segment_starts(source_segments))
            same = segments[:, :, None] == source_segments[:, None, :]
            real = same if mask is None else same & mask[:, None, :]
            return cls(places, real.sum(-1), size, beams)
        if mask is None:
            return cls(places, torch.full((1, 1), size, device=device), size, beams)
        return cls(places, mask.sum(1, keepdim=True).repeat_interleave(beams, 0), size, beams)

    @property
    def is_alike(self) -> bool:
        """True if all rows are known to have the same positions."""
        return len(self.places) == 1 and len(self.offset) == 1

    def longest(self, counts: Int[Tensor, "R 1"] | None, length: int) -> int:
        """Return the number of tokens of the longest source with its target.

        Args:
            counts: Real tokens of each target; None if all `length` are real.
        """
        return int((self.offset + (length if counts is None else counts)).max())

    def near(self, queries: Int[Tensor, "#R T"], window: spec.Sides) -> Bool[Tensor, "#R 1 T S"]:
        """Return a mask, True where a source token is in the window of a query at this position."""
        return window.hold(queries[:, :, None] - self._each_row()[:, None, :])[:, None]

    def before(self, target: Int[Tensor, "#R T"]) -> Int[Tensor, "R ST"]:
        """Return the positions of the source's tokens and, behind them, of the target's, which count from 0."""
        target, source = target + self.offset, self._each_row()
        rows = max(len(target), len(source))
        return torch.cat((source.expand(rows, -1), target.expand(rows, -1)), 1)

    def entering(self, route: Any) -> Self:
        """Return the positions as a route's bricks see them."""
        packing = getattr(route, "source_packing", None)
        if packing is None:
            return self
        return replace(self, places=packing.pack(self.places), offset=route.packing.pack(self.offset))

    def _each_row(self) -> Int[Tensor, "#R S"]:
        return self.places if len(self.places) == 1 else self.places.repeat_interleave(self.beams, 0)
