"""What a pipeline is called with: one text, many in memory, or a stream of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, Literal, cast

from conjoin.errors import ConfigError, shown

Kind = Literal["one", "list", "stream", "data"]
Result = Any
"""What one text gives: a list of dicts, one for each result."""

READ_AHEAD = 8
"""Batches of a data set that are read and sorted by length before the first result."""


def kind_of(inputs: Any) -> Kind:
    """Return the kind of inputs: a stream is read text by text, a data set some batches ahead.

    Raises:
        ConfigError: they are no texts.
    """
    if isinstance(inputs, str):
        return "one"
    if isinstance(inputs, list | tuple):
        return "list"
    if isinstance(inputs, Iterator):
        return "stream"
    if isinstance(inputs, Mapping | bytes) or not (isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")):
        raise ConfigError(
            f"A pipeline got a {type(cast(Any, inputs)).__name__}; expected a text, a list of texts, "
            "or a generator or data set of texts."
        )
    return "data"


def checked_texts(inputs: Iterable[Any]) -> Iterator[str]:
    """Yield texts.

    Raises:
        ConfigError: an item is no text; it is raised when the item is read.
    """
    for index, text in enumerate(inputs):
        if not isinstance(text, str):
            raise ConfigError(
                f"Item {index} is a {type(text).__name__}, {shown(text)}; expected a text.",
                hint='of rows of a data set, one column: pipe(row["text"] for row in rows)',
            )
        yield text


def as_iterable(inputs: Any) -> Iterable[Any]:
    """Return inputs that can be iterated over; a torch Dataset has items by number only."""
    if isinstance(inputs, Iterable):
        return cast("Iterable[Any]", inputs)
    return (inputs[index] for index in range(len(inputs)))


class Results(Iterable[Result]):
    """Results of a stream or a data set, generated as they are read, in the order of the texts."""

    def __init__(self, inputs: Any, run: Callable[[Iterable[Any]], Iterator[Result]]) -> None:
        self._inputs = inputs
        self._run = run

    def __iter__(self) -> Iterator[Result]:
        """Generate from the first text on."""
        return self._run(as_iterable(self._inputs))


class SizedResults(Results):
    """Results of a data set whose length is known."""

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._inputs)


def results(inputs: Any, run: Callable[[Iterable[Any]], Iterator[Result]]) -> Results:
    """Return the results of inputs, with a length if the inputs have one."""
    return SizedResults(inputs, run) if isinstance(inputs, Sized) else Results(inputs, run)
