"""All exception classes. Every message says what happened, what was expected and what to do."""

import inspect
import os
import re
import reprlib
import warnings
from collections.abc import Iterable
from difflib import get_close_matches

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Terminal control codes, marks that change the text direction, invisible line ends and lone surrogates."""
_MAX_PROBLEM = 400
_MAX_QUOTED = 100
"""Characters of a value that a message quotes."""
_MAX_LINE, _MAX_MESSAGE = 4_000, 16_000
"""Characters of a line and of a whole message: a damaged file may hold a name of a million characters."""


def plain(text: str) -> str:
    """Return text that is safe to print whoever wrote it: control characters are escaped, as in \\x1b."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _readable(text: str) -> str:
    """Return a message that is safe to print and short enough to read, whatever it quotes."""
    text = plain(text)
    if len(text) <= _MAX_LINE:
        return text
    return _shortened("\n".join(_shortened(line, _MAX_LINE) for line in text.split("\n")), _MAX_MESSAGE)


def _shortened(text: str, limit: int) -> str:
    """Cut the middle out of a long text: its subject stands at the start, the hint at the end."""
    if len(text) <= limit:
        return text
    end = limit // 4
    return f"{text[: limit - end]} ... ({len(text) - limit:,} letters left out) ... {text[-end:]}"


class ConjoinError(Exception):
    """Base of every error that conjoin raises on purpose. Control characters in its message are escaped.

    Args:
        message: What happened, with the value, and what was expected.
        hint: The line to write or the thing to try; printed last.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(_readable(f"{message}\n\nhint: {hint}" if hint else message))
        self.hint = hint


class ConfigError(ConjoinError, ValueError):
    """A config.json, a config object or a keyword argument holds something that conjoin does not support."""


class WeightError(ConjoinError, ValueError):
    """Checkpoint tensors are missing, misshapen, truncated, non-finite or unreadable."""


class FileError(ConjoinError, OSError):
    """A folder, file or hub id cannot be found, read or written."""


class ShapeError(ConjoinError, ValueError):
    """Arrays passed to a model disagree with each other or with the model."""


class DeviceError(ShapeError, RuntimeError):
    """Arrays of one call are on different devices."""


class TokenizerError(ConjoinError, ValueError):
    """Tokenizer files or tokenizer arguments are unusable."""


class NoTokenizerError(TokenizerError, AttributeError):
    """A model has no tokenizers. An AttributeError too, so that `hasattr(model, "tokenizer")` is False."""


class JoinError(ConjoinError, ValueError):
    """This encoder and this decoder cannot be joined with these settings."""


class GenerationError(ConjoinError, ValueError):
    """A generation setting is unknown, contradictory or not supported."""


class DataError(ConjoinError, ValueError):
    """Training or evaluation data are missing, empty or damaged; the message names file and line."""


class TrainingError(ConjoinError, RuntimeError):
    """A training run cannot start or continue; checkpoints that it saved before are untouched."""


class MissingBackend(ConjoinError, ImportError):
    """A framework or an extra is not installed."""


class ConjoinWarning(UserWarning):
    """A setting has no effect, or is likely not what was meant. Control characters in the message are escaped."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(_readable(arg) if isinstance(arg, str) else arg for arg in args))


_PACKAGE = os.path.join(os.path.dirname(__file__), "")


def warn(text: str) -> None:
    """Issue a ConjoinWarning that points at the nearest caller outside conjoin, however deep inside the cause is."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, ConjoinWarning, stacklevel=level)


def listing(problems: list[str], *, limit: int = 20) -> str:
    """Return the problems, indented, one per line; long ones lose their middle, those beyond `limit` are counted."""
    lines = [f"  {_shortened(text, _MAX_PROBLEM)}" for text in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more")
    return "\n".join(lines)


class _Quoting(reprlib.Repr):
    """A repr that stays short: deeply nested and late items become dots."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, _MAX_QUOTED, _MAX_QUOTED, _MAX_QUOTED

    def repr_int(self, x: int, level: int) -> str:
        """Return the number's repr; Python refuses to make one of thousands of digits."""
        return super().repr_int(x, level) if x.bit_length() < 10_000 else f"a number of {x.bit_length()} bits"


def quoted(names: Iterable[object], *, limit: int = 20) -> str:
    """Return names from a file in one line; long ones are cut, and those beyond `limit` are only counted."""
    listed = list(names)
    text = ", ".join(map(shown, listed[:limit]))
    return text if len(listed) <= limit else f"{text} and {len(listed) - limit} more"


def shown(value: object) -> str:
    """Return a value as messages quote it: its repr, with control characters escaped, cut if it is long."""
    text = _Quoting().repr(value)
    return text if len(text) <= 2 * _MAX_QUOTED else f"{text[:_MAX_QUOTED]}..."


def near(name: str, known: Iterable[str], *, cutoff: float = 0.75) -> str | None:
    """Return the known name that a misspelt one probably means, or None.

    Args:
        cutoff: Least similarity, as in difflib: 0 accepts any name, 1 only an equal one.
    """
    close = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return close[0] if close else None


def lone_surrogate(text: str) -> str | None:
    """Describe a lone surrogate (JSON's "\\ud800" without its second half), which UTF-8 cannot encode; else None."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        context = text[max(0, error.start - 15) : error.start + 16]
        return f"holds a lone surrogate, half of a character: {context!r}."
    return None
