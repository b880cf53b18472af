"""Parameters that come from checkpoints, read as a plan says."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from conjoin.checkpoint import nonfinite
from conjoin.errors import WeightError, listing
from conjoin.join import Copied, JoinReport

Array = TypeVar("Array")


def copies(plan: JoinReport, convert: Callable[[np.ndarray, str], Array]) -> Iterator[tuple[str, Array, str]]:
    """Yield (name, array, stored dtype) of what comes from checkpoints, each file tensor read once.

    Args:
        convert: Makes the framework's array of a file's, which has that stored dtype.

    Raises:
        WeightError: tensors with NaN or infinite numbers, all of them named; raised after the last one.
    """
    origins = {name: origin for name, origin in plan.origins.items() if isinstance(origin, Copied)}
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
