"""Parameters that come from checkpoints, read as a plan says."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from conjoin.checkpoint import nonfinite
from conjoin.errors import WeightError, listing
from conjoin.join import Copied, JoinReport

Array = TypeVar("Array")
FLOATING = ("float32", "bfloat16", "float16", "float64", "float8_e4m3fn", "float8_e5m2")
"""Dtypes of parameters in files."""


def copies(plan: JoinReport, convert: Callable[[np.ndarray, str], Array]) -> Iterator[tuple[str, Array, str]]:
    """Yield (name, array, stored dtype) of what comes from checkpoints, each file tensor read once.

    Args:
        convert: Makes the framework's array of a file's, which has that stored dtype.

    Raises:
        WeightError: tensors of whole numbers, or of 8-bit kinds that nothing reads; and, raised after the last one,
            tensors with NaN or infinite numbers. All of them are named.
    """
    origins = {name: origin for name, origin in plan.origins.items() if isinstance(origin, Copied)}
    _require_floats(origins.values())
    seen: set[str] = set()
    spoilt: list[str] = []
    for name, origin in origins.items():
        offer, match = origin.offer, origin.match
        if name in seen:
            continue
        array, stored = offer.checkpoint.array(match.name), offer.checkpoint[match.name].dtype
        if count := nonfinite(array, stored):
            spoilt.append(f"{match.name}: {count} of {array.size}")
        for part_name, part in offer.table.apply(match, convert(array, stored)):
            if part_name in origins and origins[part_name].match is match:
                seen.add(part_name)
                yield part_name, part, stored
    if spoilt:
        raise WeightError(
            f"These tensors hold NaN or infinite numbers:\n{listing(spoilt)}",
            hint="the training that wrote them diverged, or the file is damaged; use an earlier checkpoint.",
        )


def _require_floats(origins: Iterable[Copied]) -> None:
    """Raise if a parameter is stored as numbers that mean something else, such as shares of a scale beside them."""
    stored = {origin.match.name: origin.offer.checkpoint[origin.match.name].dtype for origin in origins}
    if others := [f"{name}: {dtype}" for name, dtype in stored.items() if dtype not in FLOATING]:
        raise WeightError(
            f"These parameters are not stored as floating-point numbers:\n{listing(others)}",
            hint="the file is a quantised one; take the model that it was made of.",
        )
