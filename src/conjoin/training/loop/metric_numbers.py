"""A user's own metrics as plain numbers by name, whichever library they come from."""

import math
from collections.abc import Iterator, Mapping, Sized
from numbers import Number
from typing import Any, cast

from conjoin.errors import shown, warn

_LEVELS = 8
"""Nested mappings; deeper ones are taken for one that contains itself."""


def plain_numbers(metrics: object, origin: str) -> dict[str, float]:
    """Return metrics as Python's numbers.

    Numbers of any library are accepted: numpy's, arrays and tensors of one element, Decimal, Fraction; booleans are 1
    and 0. A mapping in a mapping gives names with a slash, `rouge/1`. Anything else is left out with a warning: no run
    ends because of a metric.

    Args:
        metrics: The result of a user's code.
        origin: What the warning calls that code.
    """
    if not isinstance(metrics, Mapping):
        warn(f"{origin} gave {_kind(metrics)}; expected numbers by name, as in {{'f1': 0.5}}. Nothing of it is kept.")
        return {}
    numbers: dict[str, float] = {}
    odd: list[str] = []
    for name, value in _flat(cast("Mapping[Any, Any]", metrics), 1):
        number = as_number(value)
        if number is None:
            odd.append(f"{shown(name)} is {_kind(value)}")
        elif name in numbers:
            odd.append(f"{shown(name)} is there twice")
        else:
            numbers[name] = number
    if odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        warn(f"{origin} gave what is no number, and it is left out: {'; '.join(odd[:3])}{more}.")
    return numbers


def _flat(values: Mapping[Any, Any], level: int) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and level < _LEVELS:
            inner = _flat(cast("Mapping[Any, Any]", value), level + 1)
            yield from ((f"{_as_name(name)}/{rest}", number) for rest, number in inner)
        else:
            yield _as_name(name), value


def _as_name(name: Any) -> str:
    """Return a metric's name as text that files can hold."""
    return str(name).encode(errors="backslashreplace").decode()


def as_number(value: Any) -> float | None:
    """Return a number of any type as Python's own; None if it is not a number."""
    value = _element(value)
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, Number) or isinstance(value, complex):
        return None
    try:
        number = float(cast("Any", value))
    except (ArithmeticError, TypeError, ValueError):  # too large, a signalling NaN, complex
        return None
    return value if isinstance(value, int) else number


def _element(value: Any) -> Any:
    """Return the number in a numpy scalar, or in an array or tensor of one element."""
    if isinstance(value, int | float | str | bytes) and type(value).__module__ == "builtins":
        return value
    if math.prod(getattr(value, "shape", None) or ()) != 1:
        return value
    for way in ("item", "numpy"):  # TensorFlow's tensors have the second only
        if callable(read := getattr(value, way, None)):
            try:
                inner = read()
            except (RuntimeError, TypeError, ValueError):
                return value
            return inner if way == "item" else _element(inner)
    return value


def _kind(value: object) -> str:
    kind = type(value).__name__
    size = len(cast("Sized", value)) if isinstance(value, list | tuple | dict | str) else None
    return f"of type {kind}" + ("" if size is None else f" and length {size}")
