"""What is few: where a backend's own kernels do the work of a decoding step, in place of the compiler's operations."""

from collections.abc import Sequence

MOST_ROWS = 16
"""From so many rows on products are work, not reading, and a compiler's own are as fast."""
MOST_QUERIES = 16
"""Of a key head."""


def few_rows(count: int) -> bool:
    """Whether a product has few rows, and any."""
    return 0 < count <= MOST_ROWS


def few_queries(q: Sequence[int], k: Sequence[int], v: Sequence[int]) -> bool:
    """Whether arrays of these shapes, as `attention.attend` takes them, have few queries per key head."""
    (rows, heads, length, _), (sources, groups, keys, _) = q, k
    return k == v and sources * groups * keys > 0 and 0 < rows // sources * length * (heads // groups) <= MOST_QUERIES
