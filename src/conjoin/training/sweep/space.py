"""What a sweep varies: values of settings, listed or between two ends, and the trials that are drawn from them."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

from conjoin.errors import ConfigError, shown
from conjoin.training.settings.recipe import normalised

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Choices:
    """Listed values of a setting."""

    values: tuple[Any, ...]

    def draw(self, dice: random.Random) -> Any:
        """Draw one value."""
        return dice.choice(self.values)


@dataclass(frozen=True, slots=True)
class Interval:
    """Values of a setting between two ends, drawn so that every factor is as likely as any other (log-uniform).

    Args:
        whole: True for whole numbers.
    """

    low: float
    high: float
    whole: bool = False

    def draw(self, dice: random.Random) -> float | int:
        """Draw one value."""
        value = math.exp(dice.uniform(math.log(self.low), math.log(self.high)))
        return max(int(self.low), min(int(self.high), round(value))) if self.whole else float(f"{value:.4g}")


Space = Mapping[str, Choices | Interval]


def parse_over(over: Iterable[str]) -> dict[str, Choices | Interval]:
    """Return a space from texts: "learning_rate=1e-4,3e-4,1e-3" lists values, "learning_rate=1e-5..1e-3" has two ends.

    Raises:
        ConfigError: a text is neither, or a setting is given twice.
    """
    space: dict[str, Choices | Interval] = {}
    for text in over:
        name, equals, values = text.partition("=")
        name = next(iter(normalised({name.strip(): None})))
        if not equals or not name or not values.strip():
            raise ConfigError(f"{shown(text)}: expected NAME=VALUE,VALUE,... or NAME=LOW..HIGH.")
        if name in space:
            raise ConfigError(f"{name} is varied twice; list all its values once.")
        space[name] = _interval(values) or Choices(tuple(dict.fromkeys(_value(each) for each in values.split(","))))
    return space


def _interval(text: str) -> Interval | None:
    low, dots, high = text.partition("..")
    if not dots:
        return None
    ends = [_value(low), _value(high)]
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        raise ConfigError(f"{shown(text)}: expected two numbers, such as 1e-5..1e-3.")
    numbers = cast("list[float]", ends)
    if not 0 < numbers[0] < numbers[1] < math.inf:
        raise ConfigError(f"{shown(text)}: expected two numbers above 0, the lower one first.")
    return Interval(numbers[0], numbers[1], whole=all(isinstance(end, int) for end in ends))


def _value(text: str) -> Any:
    """Return a value as a recipe has it."""
    text = text.strip()
    known = {"true": True, "false": False, "null": None}
    if text.lower() in known:
        return known[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def grid(space: Space) -> list[Values]:
    """Return every combination of listed values."""
    listed = [cast(Choices, each).values for each in space.values()]
    return [dict(zip(space, values, strict=True)) for values in product(*listed)]


def draw(space: Space, count: int, seed: int) -> list[Values]:
    """Draw different combinations; fewer if there are no more."""
    dice = random.Random(seed)
    drawn: dict[str, Values] = {}
    for _ in range(100 * count):
        values = {name: each.draw(dice) for name, each in space.items()}
        drawn.setdefault(repr(values), values)
        if len(drawn) == count:
            break
    return list(drawn.values())


def combinations(space: Space, trials: int | None, seed: int) -> list[Values]:
    """Return the trials of a sweep: the whole grid, or as many as are asked for.

    Raises:
        ConfigError: nothing is varied, or values between two ends without a number of trials.
    """
    if not space:
        raise ConfigError("Nothing is varied.", hint="--over learning_rate=1e-4,3e-4,1e-3")
    if trials is not None:
        whole = _is_listed(space) and len(grid(space)) <= trials
        return grid(space) if whole else draw(space, trials, seed)
    if not _is_listed(space):
        raise ConfigError("Values between two ends (LOW..HIGH) need a number of trials.", hint="--trials 9")
    return grid(space)


def _is_listed(space: Space) -> bool:
    return all(isinstance(each, Choices) for each in space.values())


def names_of(trials: Sequence[Values]) -> list[str]:
    """Return a name for every trial: its settings."""
    return [", ".join(f"{name}={value}" for name, value in values.items()) for values in trials]
