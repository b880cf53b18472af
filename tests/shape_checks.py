"""What jaxtyping's import hook calls on each function of a backend while tests run; see conftest.py."""

from collections.abc import Callable
from typing import Any

from beartype import beartype
from beartype.roar import BeartypeDecorHintPep673Exception, BeartypeDecorHintPep3119Exception

UNREADABLE = (
    BeartypeDecorHintPep673Exception,  # `Self`, which beartype understands on whole classes only
    BeartypeDecorHintPep3119Exception,  # protocols, which are for type checkers
)


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check arguments and results against the annotations, shapes too; leave alone what beartype cannot read."""
    try:
        return beartype(function)
    except UNREADABLE:
        return function
