"""One error tree. Every message says what happened, what was expected and what to do."""

import inspect
import os
import re
import reprlib
import warnings
from collections.abc import Iterable
from difflib import get_close_matches

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What steers a terminal, turns the reading direction, ends a line unseen, or cannot be printed at all."""
_LINE = 400
_QUOTED = 100
"""Letters of a value that a message quotes."""
_LONGEST_LINE, _LONGEST = 4_000, 16_000
"""Letters of a line, and of a whole message: a file may hold a name of a million, and a screen does not."""


def plain(text: str) -> str:
    """Text that may be printed whoever wrote it: what steers a terminal is spelled out, as in \\x1b."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _readable(text: str) -> str:
    """A message as it is raised: plain, and of a length that somebody reads whatever it quotes."""
    text = plain(text)
    if len(text) <= _LONGEST_LINE:
        return text
    return _shortened("\n".join(_shortened(line, _LONGEST_LINE) for line in text.split("\n")), _LONGEST)


def _shortened(text: str, most: int) -> str:
    """Text without its middle, where it is long: what it is about stands first, what to do last."""
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end]} ... ({len(text) - most:,} letters left out) ... {text[-end:]}"


class ConjoinError(Exception):
    """Base of every error that conjoin raises on purpose. Names and values from files are spelled out as `plain` does.

    Args:
        what: What happened, with the value, and what was expected.
        hint: The line to write or the thing to try; printed last.
    """

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(_readable(f"{what}\n\nhint: {hint}" if hint else what))
        self.hint = hint


class ConfigError(ConjoinError, ValueError):
    """A config.json, a config object or a keyword holds something that conjoin cannot honour."""


class WeightError(ConjoinError, ValueError):
    """Checkpoint tensors are missing, misshapen, truncated, non-finite or unreadable."""


class FileError(ConjoinError, OSError):
    """A folder, file or hub id cannot be found, read or written."""


class ShapeError(ConjoinError, ValueError):
    """Arrays given to a model disagree with each other or with the model."""


class DeviceError(ShapeError, RuntimeError):
    """Arrays that belong together lie on different devices."""


class TokenizerError(ConjoinError, ValueError):
    """Tokenizer files or tokenizer arguments are unusable."""


class NoTokenizerError(TokenizerError, AttributeError):
    """A model has no tokenizers; `hasattr` and its like take it for what it is."""


class JoinError(ConjoinError, ValueError):
    """This encoder and this decoder cannot be joined as asked."""


class GenerationError(ConjoinError, ValueError):
    """A generation setting is unknown, contradictory or cannot be honoured."""


class DataError(ConjoinError, ValueError):
    """Training or evaluation data are missing, empty or damaged; the text names file and line."""


class TrainingError(ConjoinError, RuntimeError):
    """A training run cannot start or go on; what it saved before is untouched."""


class MissingBackend(ConjoinError, ImportError):
    """A framework or an extra is not installed."""


class ConjoinWarning(UserWarning):
    """Something has no effect, or is likely not what was meant. Spelled out as `plain` does."""

    def __init__(self, *what: object) -> None:
        super().__init__(*(_readable(each) if isinstance(each, str) else each for each in what))


_PACKAGE = os.path.join(os.path.dirname(__file__), "")


def warn(text: str) -> None:
    """Issue a ConjoinWarning that points at the nearest caller outside conjoin, however deep in it the cause lies."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, ConjoinWarning, stacklevel=level)


def listing(problems: list[str], *, limit: int = 20) -> str:
    """Indent problems one per line, the long ones cut; beyond `limit`, say how many more there are."""
    shown = [f"  {problem if len(problem) <= _LINE else problem[:_LINE] + ' ...'}" for problem in problems[:limit]]
    if len(problems) > limit:
        shown.append(f"  ... and {len(problems) - limit} more")
    return "\n".join(shown)


class _Quoting(reprlib.Repr):
    """repr that stays short: of what lies deeper, or comes later, dots are left."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, _QUOTED, _QUOTED, _QUOTED

    def repr_int(self, x: int, level: int) -> str:
        """Numbers of thousands of digits have no text in Python."""
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"a number of {x.bit_length()} bits"


def quoted(names: Iterable[object], *, limit: int = 20) -> str:
    """Names of a file in one line: the long ones cut; beyond `limit`, how many more there are."""
    found = list(names)
    told = ", ".join(map(shown, found[:limit]))
    return told if len(found) <= limit else f"{told} and {len(found) - limit} more"


def shown(value: object) -> str:
    """A value as a message quotes it: its repr, control characters escaped, cut where it is long."""
    text = _Quoting().repr(value)
    return text if len(text) <= 2 * _QUOTED else f"{text[:_QUOTED]}..."


def near(name: str, known: Iterable[str], *, cutoff: float = 0.75) -> str | None:
    """The known name that a misspelt one was likely meant to be.

    Args:
        cutoff: difflib's, from 0 for any name to 1 for the same.
    """
    close = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return close[0] if close else None


def lone_surrogate(text: str) -> str | None:
    """What an error says of a text that UTF-8 cannot hold, as JSON's "\\ud800" without its other half; else None."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 15) : error.start + 16]
        return f"holds a lone surrogate, half of a character: {around!r}."
    return None
