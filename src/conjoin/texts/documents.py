"""Raw texts: long ones from files or from memory, cut at paragraphs and words into segments of about one size."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from conjoin.errors import DataError, listing, lone_surrogate
from conjoin.limits import DATA_PROBLEMS
from conjoin.texts.lines import Bad, problems_of
from conjoin.texts.pairs import is_dataset, rows_of_dataset
from conjoin.texts.sources import SourceFile

WORD = re.compile(
    r"\s*(?:[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    r"|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]{1,24})"
)
"""A word with the space before it. Scripts without spaces have one character a word; longer words are divided."""


def words(text: str) -> list[str]:
    """Divide a text into words; joined they are the text, without the space at its end."""
    return WORD.findall(text)


class Paragraph(NamedTuple):
    """A line of a text.

    Args:
        begins: True if it is the first of a document, which the lines of a plain file are together.
    """

    text: str
    begins: bool


@dataclass(frozen=True, slots=True)
class Documents:
    """Raw texts.

    Args:
        data: Paths of files (plain text, .jsonl, .csv, .tsv, .parquet, each also .gz but the last), or texts in memory,
            or rows with a column of texts, such as a `datasets.Dataset`.
        column: The column that holds the text.
        name: Name of texts in memory in messages.
    """

    data: Any
    column: str = "text"
    name: str = "the texts"

    @property
    def paths(self) -> list[Path] | None:
        """The files; None if the texts are in memory."""
        paths = [self.data] if isinstance(self.data, str | Path) else self.data
        if not isinstance(paths, list | tuple) or not all(isinstance(path, Path) for path in cast("list[Any]", paths)):
            return None if not isinstance(self.data, str) else [Path(self.data)]
        return [*cast("Sequence[Path]", paths)]

    def __iter__(self) -> Iterator[Paragraph]:
        """Yield the paragraphs that are not blank.

        Raises:
            DataError: files that cannot be read, rows without text; up to `DATA_PROBLEMS` problems go into one error.
        """
        if (paths := self.paths) is None:
            yield from _paragraphs(self._entries(), self.name, "row")
            return
        for path in paths:
            file = SourceFile.of(str(path), None, self.column, option="--text-column")
            entries = ((number, found if isinstance(found, Bad) else found[0]) for number, found in file.entries())
            yield from _paragraphs(entries, str(path), "line", one_document=file.kind == "text")

    def _entries(self) -> Iterator[tuple[int, str | Bad]]:
        rows = rows_of_dataset(self.data) if is_dataset(self.data) else cast("Iterable[Any]", self.data)
        for number, row in enumerate(rows, 1):
            text = row[self.column] if hasattr(row, "keys") and self.column in row.keys() else row  # noqa: SIM118
            if isinstance(text, str):
                yield number, text
            else:
                what = f"has no column {self.column!r}" if hasattr(row, "keys") else f"is a {type(row).__name__}"
                yield number, Bad(f"{what}, expected text.")


def _paragraphs(
    entries: Iterable[tuple[int, str | Bad]], name: str, unit: str, *, one_document: bool = False
) -> Iterator[Paragraph]:
    problems: list[tuple[int, str]] = []
    begins = True
    for number, text in entries:
        problem = text if isinstance(text, Bad) else lone_surrogate(text)
        if problem:
            problems.append((number, f"{problem if isinstance(problem, Bad) else f'the text {problem}'}"))
            if len(problems) >= DATA_PROBLEMS:
                break
        if problems:
            continue
        begins = begins or not one_document
        for line in text.splitlines():
            if line.strip():
                yield Paragraph(line.rstrip(), begins)
                begins = False
    if problems:
        raise DataError(f"{name} cannot be used:\n{listing(problems_of(problems, unit))}")


def segments(paragraphs: Iterable[Paragraph], size: int) -> Iterator[str]:
    """Join paragraphs of a document into segments of at most `size` characters; longer ones are cut between words."""
    lines: list[str] = []
    length = 0
    for paragraph in paragraphs:
        if lines and (paragraph.begins or length + len(paragraph.text) >= size):
            yield "\n".join(lines)
            lines, length = [], 0
        *whole, rest = _cut(paragraph.text, size)
        yield from whole
        lines.append(rest)
        length += len(rest) + 1
    if lines:
        yield "\n".join(lines)


def _cut(text: str, size: int) -> Iterator[str]:
    """Cut a long text after a sentence, or else between words, or else anywhere."""
    while len(text) > size:
        head = text[: size + 1]
        end = max(head.rfind(mark) + 1 for mark in (". ", "! ", "? ", "; ", "。"))
        if end < size // 2:
            end = head.rfind(" ")
        end = size if end < size // 2 else end
        yield text[:end].rstrip()
        text = text[end:].lstrip()
    yield text
