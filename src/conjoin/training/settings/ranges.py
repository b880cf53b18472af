"""What the numbers of a run may be; each field of the arguments names its range. Infinity and NaN are in none."""

import math
from dataclasses import fields
from typing import Any

from conjoin import limits
from conjoin.errors import shown
from conjoin.limits import Range

COUNT = Range(lambda value: 1 <= value < math.inf, "1 or more")
STEPS = Range(lambda value: value == -1 or 1 <= value < math.inf, "1 or more, or -1 for num_train_epochs")
KEPT = Range(COUNT.holds, "1 or more, or none for all")
NOT_NEGATIVE = Range(lambda value: 0 <= value < math.inf, "0 or more")
POSITIVE = Range(lambda value: 0 < value < math.inf, "a number above 0")
SHARE = Range(lambda value: 0 <= value < 1, "0 or more, below 1")
AVERAGED = Range(lambda value: 0 < value < 1, "a number between 0 and 1, such as 0.999")
SEED = Range(lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")
"""What numpy's generators take; PyTorch's and JAX's take more."""


def out_of_range(arguments: Any) -> list[str]:
    """Every number that its field's range does not hold; None, and what is no number, is looked at elsewhere."""
    wrong: list[str] = []
    for each in fields(arguments):
        value, expected = getattr(arguments, each.name), each.metadata.get("range")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if expected is None or not is_number:
            continue
        if isinstance(value, int) and abs(value) > limits.STEPS:
            wrong.append(f"{each.name} = {shown(value)}; expected {expected.words}, and at most {limits.STEPS}.")
        elif not expected.holds(value):
            wrong.append(f"{each.name} = {value}; expected {expected.words}.")
    return wrong
