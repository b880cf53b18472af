"""What a worker elsewhere is sent and answers, as JSON: outcomes and warnings, or an error."""

import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from conjoin import errors
from conjoin.errors import ConjoinError
from conjoin.evaluation.texts import Failed, Generated, Outcome


class RemoteTraceback(Exception):
    """The traceback of an error in a worker, which `--debug` shows."""


class Model(Protocol):
    """What generates for lists of sources."""

    def generate(self, texts: Sequence[tuple[int, str]]) -> tuple[list[Outcome], list[str]]:
        """Return the outcomes of sources, and warnings."""
        ...


def answer_of(model: Model, texts: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Generate for the sources of a message, [index, text] each, and return the answer."""
    try:
        outcomes, warnings = model.generate([(index, text) for index, text in texts])
    except Exception as error:
        return error_of(error)
    return {"outcomes": [_plain(outcome) for outcome in outcomes], "warnings": warnings}


def error_of(error: Exception) -> dict[str, Any]:
    """Return the answer that tells an error."""
    text = "".join(traceback.format_exception(error))
    return {"error": {"type": type(error).__name__, "message": str(error), "traceback": text}}


def raise_error(answer: Mapping[str, Any]) -> None:
    """Raise the error that an answer tells, if it does.

    Raises:
        ConjoinError, RuntimeError: it does.
    """
    if values := answer.get("error"):
        kind = getattr(errors, values["type"], None)
        error: Exception = RuntimeError(f"{values['type']}: {values['message']}")
        if isinstance(kind, type) and issubclass(kind, ConjoinError):
            error = kind(values["message"])
        raise error from RemoteTraceback(values["traceback"])


def outcomes_of(answer: Mapping[str, Any]) -> tuple[list[Outcome], list[str]]:
    """Return the outcomes and warnings of an answer.

    Raises:
        ConjoinError, RuntimeError: it tells an error.
    """
    raise_error(answer)
    return [Failed(*values) if len(values) == 2 else Generated(*values) for values in answer["outcomes"]], answer[
        "warnings"
    ]


def _plain(outcome: Outcome) -> list[Any]:
    if isinstance(outcome, Failed):
        return [outcome.index, outcome.error]
    return [outcome.index, outcome.texts, outcome.cut, outcome.scores]
