"""Reading JSON that others wrote: whatever is wrong with it becomes one kind of error that names the place."""

import json
import re
from typing import Any

from conjoin.limits import JSON_DEPTH, JSON_DIGITS

_DIGITS = re.compile(rf"\d{{{JSON_DIGITS + 1},}}")
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class JsonError(ValueError):
    """A text is no JSON that can be used; says why and where, for a caller who adds the file's name."""


def parse_json(text: str) -> Any:
    """What a JSON text says.

    Raises:
        JsonError: it is not JSON, nested too deeply, or holds a whole number of too many digits.
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
    """What a line of a file of JSON lines says; the place of an error is its column.

    Raises:
        JsonError: as `parse_json`.
    """
    try:
        return parse_json(text.rstrip("\r\n"))
    except JsonError as error:
        raise JsonError(str(error).replace("line 1, column", "column", 1)) from None


def _is_shallow(value: Any) -> bool:
    """Whether lists and objects stand at most `JSON_DEPTH` deep; level by level, since Python's own stack is short."""
    level: list[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(JSON_DEPTH):
        insides = (one.values() if type(one) is dict else one for one in level)
        level = [each for inside in insides for each in inside if type(each) is dict or type(each) is list]
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
    for found in _BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found.group(), 0)
        if depth > JSON_DEPTH:
            at = found.start()
            break
    return (
        f"not JSON: maximum recursion: more than {JSON_DEPTH} lists and objects inside one another at {_at(text, at)}."
    )


def _at(text: str, index: int) -> str:
    line = text.count("\n", 0, index) + 1
    return f"line {line}, column {index - text.rfind(chr(10), 0, index)}"
