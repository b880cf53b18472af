"""Sees to it that every row has a token to go on with."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.generation import FORBIDDEN, DeadEnd

Tell = Callable[[list[DeadEnd]], Exception]


@dataclass(slots=True)
class Watch:
    """Raises where a row has no token left, or scores that are not numbers.

    Args:
        tell: Makes the error.
        patience: Steps between two looks at the device: more than 1 keeps a GPU from waiting.
        first: The source that is number 0 here.
    """

    tell: Tell
    patience: int = 1
    first: int = 0
    _noted: list[tuple[Tensor, Tensor, int]] = field(default_factory=list[tuple[Tensor, Tensor, int]])

    def see(
        self,
        best: Float[Tensor, " n"],
        length: int,
        over: Callable[[], Bool[Tensor, " n"] | None] = lambda: None,
        sources: Callable[[], Int[Tensor, " n"] | None] = lambda: None,
    ) -> None:
        """Look at the best score of every row.

        Args:
            best: NaN where one of the row's scores is NaN.
            length: Tokens of the rows.
            over: Rows that need no token any more.
            sources: The source of each row; row n is source n if missing.

        Raises:
            GenerationError: a row of this step, or of one since the last look, cannot go on.
        """
        if self.patience == 1 and bool(best.min() > FORBIDDEN):
            return
        stuck = ~(best > FORBIDDEN)
        ended = over()
        stuck = stuck if ended is None else stuck & ~ended
        places = sources()
        places = torch.arange(len(best), device=best.device) if places is None else places
        self._noted.append((torch.where(stuck, places, -1), best, length))
        if len(self._noted) >= self.patience:
            self.look()

    def look(self) -> None:
        """Raise what was noted since the last look.

        Raises:
            GenerationError: a row cannot go on.
        """
        noted, self._noted = self._noted, []
        if not noted or not bool(torch.cat([places for places, _, _ in noted]).amax() >= 0):
            return
        found: dict[int, DeadEnd] = {}
        for places, best, length in noted:
            for place, score in zip(places.tolist(), best.tolist(), strict=True):
                if place >= 0:
                    found.setdefault(place, DeadEnd(self.first + place, length, math.isnan(score)))
        raise self.tell([found[place] for place in sorted(found)])
