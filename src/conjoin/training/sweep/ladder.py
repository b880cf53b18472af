"""How the steps of a sweep are shared: successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943)."""

from dataclasses import dataclass

from conjoin.errors import ConfigError

KEPT = 3
"""Of this many trials, one goes on to the next rung. 3 is Hyperband's (Li et al. 2018, arXiv:1603.06560)."""
FEWEST = 4
"""Steps of the first rung below which a comparison says nothing."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """Rungs of a sweep; every rung gets as many steps in all.

    Args:
        trials: Number of trials in each rung; the last has one.
        steps: Step at which each rung ends.
    """

    trials: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def total(self) -> int:
        """Steps of a trial that reaches the end, for which schedules are made."""
        return self.steps[-1]

    @property
    def starts(self) -> int:
        """How many times a trial is started or goes on."""
        return sum(self.trials)

    def from_rung(self, rung: int) -> tuple[int, int]:
        """Return how many steps, and how many starts, a rung and those after it take."""
        before = [0, *self.steps]
        steps = sum(self.trials[n] * (self.steps[n] - before[n]) for n in range(rung, len(self.steps)))
        return steps, sum(self.trials[rung:])

    def shortened(self, rung: int, share: float) -> "Ladder":
        """Return the ladder with this share of the steps of a rung and of those after it."""
        before = [0, *self.steps]
        ends = list(self.steps[:rung])
        for n in range(rung, len(self.steps)):
            ends.append((ends[-1] if ends else 0) + max(int(share * (self.steps[n] - before[n])), 1))
        return Ladder(self.trials, tuple(ends))


def rungs(trials: int, kept: int = KEPT) -> tuple[int, ...]:
    """Return how many trials each rung has."""
    counts = [trials]
    while counts[-1] > 1:
        counts.append(-(-counts[-1] // kept))
    return tuple(counts)


def ladder(trials: int, steps: float, kept: int = KEPT) -> Ladder:
    """Share a number of steps among the rungs.

    Raises:
        ConfigError: there are too few.
    """
    counts = rungs(trials, kept)
    ends: list[int] = []
    for count in counts:
        ends.append((ends[-1] if ends else 0) + int(steps / len(counts) / count))
    if ends[0] < FEWEST:
        raise ConfigError(
            f"The time is enough for {max(int(steps), 0)} steps, and {trials} trials need "
            f"{FEWEST * trials * len(counts)} at least.",
            hint="more --minutes, or fewer trials (--over, --trials).",
        )
    return Ladder(counts, tuple(ends))
