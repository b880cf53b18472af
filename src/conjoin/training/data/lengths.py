"""Lengths of all examples, and what is counted in them without an array of their size: there may be many millions."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.signedinteger[Any]]
"""[n, 2]: number of source ids and labels of every example; 32 bits each."""
BLOCK = 1 << 20
"""Numbers looked at together."""


def blocks(values: NDArray[Any], size: int = BLOCK) -> Iterator[NDArray[Any]]:
    """Yield an array in parts, of which each fits into the processor's caches."""
    yield from (values[at : at + size] for at in range(0, len(values), size))


def mean_tokens(lengths: Lengths) -> float:
    """Return the mean number of source and target tokens of an example."""
    return sum(int(part.sum(dtype=np.int64)) for part in blocks(lengths)) / max(1, len(lengths))


def longest_pair(lengths: Lengths) -> int:
    """Return the largest number of source and target tokens of an example."""
    return max(int(part.sum(1).max()) for part in blocks(lengths))
