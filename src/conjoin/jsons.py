"""Parse JSON from untrusted files: whatever is wrong becomes one kind of error, with line and column."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, cast

from conjoin.limits import JSON_DEPTH, JSON_DIGITS

_DIGITS = re.compile(rf"\d{{{JSON_DIGITS + 1},}}")
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class JsonError(ValueError):
    """A text is not usable JSON. The message says why and where; the caller adds the name of the file."""


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        JsonError: the text is not JSON, is nested too deeply, or holds a whole number with too many digits.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except (ValueError, RecursionError) as error:
        raise JsonError(_why(text, error)) from None
    if not _is_shallow(value):
        raise JsonError(_too_deep(text))
    return value


def parse_json_line(text: str) -> Any:
    """Parse one line of a JSON Lines file; errors name the column only.

    Raises:
        JsonError: as `parse_json`.
    """
    try:
        return parse_json(text.rstrip("\r\n"))
    except JsonError as error:
        raise JsonError(str(error).replace("line 1, column", "column", 1)) from None


def _is_shallow(value: Any) -> bool:
    """True if lists and objects nest at most `JSON_DEPTH` deep. Not recursive: Python's own stack is short."""
    level: list[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(JSON_DEPTH):
        contents: Iterator[Iterable[Any]] = (
            cast("dict[str, Any]", item).values() if type(item) is dict else item for item in level
        )
        level = [item for items in contents for item in items if type(item) is dict or type(item) is list]
        if not level:
            return True
    return False


def _why(text: str, error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return _too_deep(text)
    if long := _DIGITS.search(text):
        digits = long.end() - long.start()
        return (
            f"not JSON: Exceeds the limit of {JSON_DIGITS} digits: a number of {digits} at {_at(text, long.start())}."
        )
    return f"not JSON: {error}."


def _too_deep(text: str) -> str:
    depth, at = 0, 0
    for match in _BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match.group(), 0)
        if depth > JSON_DEPTH:
            at = match.start()
            break
    return (
        f"not JSON: maximum recursion: more than {JSON_DEPTH} lists and objects inside one another at {_at(text, at)}."
    )


def _at(text: str, index: int) -> str:
    line = text.count("\n", 0, index) + 1
    return f"line {line}, column {index - text.rfind(chr(10), 0, index)}"
