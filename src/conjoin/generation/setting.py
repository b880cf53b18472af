"""What a setting is: its default, its range, what it needs, and the logits processor that it asks for."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from conjoin.generation.facts import ProcessorFacts
from conjoin.generation.needs import Need
from conjoin.limits import Range

Arguments = Callable[[Any, ProcessorFacts], tuple[Any, ...] | None]
"""From a setting's value to the arguments of its processor; None where nothing is to be done."""


class Phase(IntEnum):
    """When a processor runs. Within a phase the order is that in which `settings.Settings` declares them.

    Phases and order are transformers' (generation/utils.py, `_get_logits_processor`), because they decide results.
    """

    REPETITION = 0
    PREFIX = 1
    """The caller's prefix_allowed_tokens_fn."""
    EDIT = 2
    CALLER = 3
    """The caller's own processors."""
    WARP = 4
    """Only where tokens are drawn."""
    LAST = 5


@dataclass(frozen=True, slots=True)
class ProcessorSpec:
    """One logits processor of a request, as data that every backend builds its own from.

    Args:
        name: The setting that asks for it, "prefix_allowed_tokens_fn", or "logits_processor" for the caller's own.
        arguments: What the setting's row makes of its value.
    """

    name: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessorRule:
    """How a setting becomes a processor.

    Args:
        off: The value that asks for no processor, besides None and empty lists.
    """

    phase: Phase
    arguments: Arguments
    off: Any

    def is_off(self, value: Any) -> bool:
        """True if the value asks for no processor."""
        return value is None or value == self.off or (isinstance(value, list | tuple) and not value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table of settings: see `settings.Settings`.

    Args:
        default: What holds where nobody set a value.
        range: The values that it may have; None where they are checked elsewhere.
        most: The largest number that it may be.
        ids: The ids in its value, in nested lists, which must be in the decoder's vocabulary.
        needs: Without this it has no effect.
        processor: The logits processor that it asks for.
        unused: Why it has no effect, whatever its value.
        unsupported: Why it cannot be honoured.
        neutral: Values of an unused or unsupported setting that ask for nothing.
        is_special_id: True if a model's config holds it too, since its loss needs it.
    """

    default: Any = None
    range: Range | None = None
    most: int | None = None
    ids: Callable[[Any], Any] | None = None
    needs: Need | None = None
    processor: ProcessorRule | None = None
    unused: str = ""
    unsupported: str = ""
    neutral: tuple[Any, ...] = ()
    is_special_id: bool = False

    def holds(self, value: Any) -> bool:
        """True if the value is unset or in range."""
        return value is None or self.range is None or self.range.holds(value)


def setting(
    default: Any = None,
    range: Range | None = None,
    *,
    phase: Phase | None = None,
    arguments: Arguments = lambda value, _: (value,),
    off: Any = None,
    **more: Any,
) -> Any:
    """Declare one row of the table.

    Args:
        phase: When its processor runs, where it asks for one.
        arguments: The processor's arguments, from the setting's value; the value itself if missing.
        off: The value that asks for no processor; the default if missing.
        more: Other fields of `Setting`.
    """
    rule = None if phase is None else ProcessorRule(phase, arguments, default if off is None else off)
    return Setting(default=default, range=range, processor=rule, **more)
