"""What the numbers of a run may be; each field of the arguments names its range."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers that an argument takes; infinity and NaN are in none.

    Args:
        text: How an error names them.
        holds: Whether a number is one of them.
    """

    text: str
    holds: Callable[[float], bool]


COUNT = Range("1 or more", lambda value: 1 <= value < math.inf)
STEPS = Range("1 or more, or -1 for num_train_epochs", lambda value: value == -1 or 1 <= value < math.inf)
KEPT = Range("1 or more, or none for all", COUNT.holds)
NOT_NEGATIVE = Range("0 or more", lambda value: 0 <= value < math.inf)
POSITIVE = Range("a number above 0", lambda value: 0 < value < math.inf)
SHARE = Range("0 or more, below 1", lambda value: 0 <= value < 1)
AVERAGED = Range("a number between 0 and 1, such as 0.999", lambda value: 0 < value < 1)
SEED = Range("a whole number from 0 to 4294967295", lambda value: 0 <= value < 2**32)
"""What numpy's generators take; PyTorch's and JAX's take more."""


def out_of_range(arguments: Any) -> list[str]:
    """Every number that its field's range does not hold; None, and what is no number, is looked at elsewhere."""
    wrong: list[str] = []
    for each in fields(arguments):
        value, expected = getattr(arguments, each.name), each.metadata.get("range")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if expected is not None and is_number and not expected.holds(value):
            wrong.append(f"{each.name} = {value}; expected {expected.text}.")
    return wrong
