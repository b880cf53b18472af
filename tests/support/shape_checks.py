"""What jaxtyping's import hook calls on each function of a backend while tests run; see conftest.py."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception, BeartypeDecorHintPep3119Exception

UNREADABLE = (
    BeartypeDecorHintPep673Exception,  # `Self`, which beartype understands on whole classes only
    BeartypeDecorHintPep3119Exception,  # protocols, which are for type checkers
)
WHOLE_NUMBERS_ARE_FLOATS = BeartypeConf(is_pep484_tower=True)  # as PEP 484 and pyright have it


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check arguments and results against the annotations, shapes too; leave alone what beartype cannot read."""
    try:
        return beartype(conf=WHOLE_NUMBERS_ARE_FLOATS)(function)
    except UNREADABLE:
        return function
