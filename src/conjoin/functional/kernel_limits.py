"""The limits up to which our own kernels do the work of a decoding step, in place of the compiler's operations."""

from collections.abc import Sequence

MOST_ROWS = 16
"""From so many rows on products are work, not reading, and a compiler's own are as fast."""
MOST_QUERIES = 16
"""Of a key head."""


def few_rows(count: int) -> bool:
    """Whether a product has few rows, and any."""
    return 0 < count <= MOST_ROWS


def few_queries(q: Sequence[int], k: Sequence[int], v: Sequence[int]) -> bool:
    """Whether arrays of these shapes, as `attention.attend` takes them, fit and have few queries per key head."""
    (rows, heads, length, size), (sources, groups, keys, kept) = q, k
    if tuple(k) != tuple(v) or size != kept or not sources * groups * keys or rows % sources or heads % groups:
        return False
    return 0 < rows // sources * length * (heads // groups) <= MOST_QUERIES


def say_of_all(allowed: Sequence[int] | None, bias: Sequence[int] | None, q: Sequence[int], k: Sequence[int]) -> bool:
    """Whether a mask and a bias of these shapes, or none, say something of every score, as kernels read them."""
    heads, length, sources, keys = q[1], q[2], k[0], k[2]
    masks = [(rows, 1, times, keys) for rows in (1, sources) for times in (1, length)]
    biases = [(1, heads, times, keys) for times in (1, length)]
    return (allowed is None or tuple(allowed) in masks) and (bias is None or tuple(bias) in biases)
