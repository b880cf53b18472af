"""How sure a score is, and whether one model is better than another."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from conjoin.errors import ConfigError
from conjoin.evaluation.metrics import Measure

Method = Literal["bootstrap", "randomisation"]

DRAWS = 1000
"""Koehn 2004 uses 1000; p-values below 0.01 need no more."""
CHUNK = 50
"""Draws made at once: 50 x 100,000 pairs are 40 MB."""
SEED = 12345  # sacrebleu's


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A score with its 95 % confidence interval.

    Args:
        low, high: Between them lie 95 % of the scores of corpora drawn from the pairs with replacement.
    """

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The difference of two models on the same pairs.

    Args:
        difference: second - first.
        low, high: Its 95 % confidence interval, by paired bootstrap.
        p_value: How likely a difference at least this large would be if the models were equally good.
        better: Which model is better, where p_value < 0.05.
    """

    name: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float
    better: str | None


def estimate(measure: Measure, *, draws: int = DRAWS, seed: int = SEED) -> Estimate:
    """Bootstrap a score's confidence interval (percentiles; Koehn 2004, Statistical Significance Tests for MT)."""
    scores = np.array([measure.finish(total) for total in _resampled(measure.rows, draws, seed)])
    low, high = np.percentile(scores, (2.5, 97.5))
    return Estimate(name=measure.name, value=measure.value, low=float(low), high=float(high))


def compare(
    first: Measure, second: Measure, *, method: Method = "bootstrap", draws: int = DRAWS, seed: int = SEED
) -> Comparison:
    """Test whether two models differ on the same pairs.

    Args:
        method: "bootstrap" draws pairs with replacement (Koehn 2004), "randomisation" swaps the two models' outputs
            of random pairs (Riezler & Maxwell 2005, On Some Pitfalls in Automatic Evaluation). The bootstrap centres
            the drawn differences with their sign; sacrebleu centres their absolute values, as Moses did, and so finds
            too many differences between equal models. A p-value is never below that of k coins which all fall on one
            side, for k pairs on which the two differ: draws of a few pairs all alike prove nothing.

    Raises:
        ConfigError: the two have different metrics or numbers of pairs.
    """
    if first.name != second.name or len(first.rows) != len(second.rows):
        raise ConfigError(
            f"{first.name} of {len(first.rows)} pairs cannot be compared with {second.name} of {len(second.rows)}."
        )
    difference = second.value - first.value
    pairs = zip(_resampled(first.rows, draws, seed), _resampled(second.rows, draws, seed), strict=True)
    drawn = np.array([second.finish(theirs) - first.finish(ours) for ours, theirs in pairs])
    if method == "bootstrap":
        extreme = np.abs(drawn - drawn.mean()) >= abs(difference) - 1e-12
    else:
        pairs = _swapped(first.rows, second.rows, draws, seed)
        swapped = np.array([second.finish(theirs) - first.finish(ours) for ours, theirs in pairs])
        extreme = np.abs(swapped) >= abs(difference) - 1e-12
    p_value = float((extreme.sum() + 1) / (draws + 1))  # the corpus itself is one of the draws, so p is never 0
    apart = int((first.rows != second.rows).any(axis=1).sum())
    p_value = max(p_value, min(1.0, 2.0 ** (1 - apart)))
    low, high = np.percentile(drawn, (2.5, 97.5))
    second_wins = (difference > 0) == first.high_is_good
    return Comparison(
        name=first.name,
        first=first.value,
        second=second.value,
        difference=difference,
        low=float(low),
        high=float(high),
        p_value=p_value,
        better=("second" if second_wins else "first") if p_value < 0.05 else None,
    )


def _resampled(rows: Float[np.ndarray, "n k"], draws: int, seed: int) -> Iterator[Float[np.ndarray, "k"]]:
    """Sums of rows of corpora drawn with replacement; the same pairs for the same seed."""
    dice = np.random.default_rng(seed)
    for start in range(0, draws, CHUNK):
        counts = dice.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=min(CHUNK, draws - start))
        yield from counts @ rows


def _swapped(
    first: Float[np.ndarray, "n k"], second: Float[np.ndarray, "n k"], draws: int, seed: int
) -> Iterator[tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]]:
    """Sums of rows of two systems whose outputs are swapped in a random half of the pairs."""
    dice = np.random.default_rng(seed)
    change, ours, theirs = second - first, first.sum(0), second.sum(0)
    for start in range(0, draws, CHUNK):
        swap = dice.integers(0, 2, size=(min(CHUNK, draws - start), len(first)))
        for moved in swap @ change:
            yield ours + moved, theirs - moved
