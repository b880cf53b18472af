"""The input of a bulk run: a list of texts, a file in any format, or a pipe."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from conjoin.texts.lines import Bad
from conjoin.texts.sources import Row, SourceFile

Entry = tuple[str, Row] | Bad
"""The text of a source and the row that holds it, or what is wrong with the row."""


@dataclass(frozen=True, slots=True)
class Input:
    """Sources to generate for.

    Args:
        entries: The line of every source, and what it holds; read once.
        total: Number of sources, if it is known.
        name: Of the input, in messages.
        schema: Arrow schema of a Parquet file.
    """

    entries: Iterable[tuple[int, Entry]]
    total: int | None
    name: str
    schema: Any = None

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> "Input":
        """Return the input of texts that are there."""
        return cls([(number, (text, {"source": text})) for number, text in enumerate(texts, 1)], len(texts), "TEXTS")

    @classmethod
    def of_file(cls, file: SourceFile, *, keep_errors: bool) -> "Input":
        """Return the input of a file, which is read once before, to find what is damaged; or of a pipe.

        Args:
            keep_errors: Damaged rows are no error.

        Raises:
            DataError: the file cannot be used.
        """
        total = file.check(keep_errors=keep_errors) if file.can_be_read_twice else None
        return cls(file.entries(), total, file.shown, file.schema)
