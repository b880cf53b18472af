"""Rows of the input and of the output: each result is joined with the row that its source came from."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

from conjoin.bulk.journal import fingerprint
from conjoin.bulk.shards import WHOLE, Shard
from conjoin.errors import DataError
from conjoin.evaluation.texts import Failed, Generated, Outcome
from conjoin.texts.lines import Bad

Row = dict[str, Any]
ERROR = "error"
CUT = "source_was_cut"
RESULT_COLUMNS = ("prediction", "predictions", "score", "scores", CUT, ERROR)
"""Columns that a run adds, in order. A column of the input that has the name of one is replaced."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A source that is done with.

    Args:
        row: What is written.
        failed: True if nothing could be generated.
    """

    index: int
    text: str
    row: Row
    failed: bool

    def entry(self) -> tuple[int, str, Row]:
        """Return what a journal stores."""
        return self.index, self.text, self.row


class Spelling(Protocol):
    """How the outcome of a source becomes a row of the output."""

    def made(self, index: int, row: Mapping[str, Any], made: Generated) -> Row:
        """Return the row of a source with its results."""
        ...

    def failed(self, index: int, row: Mapping[str, Any], failed: Failed) -> Row:
        """Return the row of a source that failed."""
        ...


class Columns:
    """Results in columns behind those of the input.

    Args:
        several: True if a row has a list of results.
    """

    def __init__(self, *, several: bool = False) -> None:
        self._several = several

    def made(self, index: int, row: Mapping[str, Any], made: Generated) -> Row:
        """Return the row of a source with its results."""
        scores = None if made.scores is None else [round(score, 6) for score in made.scores]
        if self._several or len(made.texts) != 1:
            result: Row = {"predictions": made.texts} | ({} if scores is None else {"scores": scores})
        else:
            result = {"prediction": made.texts[0]} | ({} if scores is None else {"score": scores[0]})
        return self._row(row, result | ({CUT: True} if made.cut else {}))

    def failed(self, index: int, row: Mapping[str, Any], failed: Failed) -> Row:
        """Return the row of a source that failed."""
        return self._row(row, {ERROR: failed.error})

    @staticmethod
    def _row(row: Mapping[str, Any], results: Row) -> Row:
        return {name: value for name, value in row.items() if name not in RESULT_COLUMNS} | results


class Intake:
    """Numbers the sources of an input, and keeps each row until its result is there.

    Attributes:
        total: Number of sources read so far, of all shards.
        cut: Number of results whose source was truncated.

    Args:
        entries: The line of every source, and its text and row, or what is wrong with them.
        name: Of the input, in errors.
        shard: Which sources to hand out.
        keep_errors: A row that cannot be used is a source that failed, not an error.
        spelling: How outcomes become rows.
    """

    def __init__(
        self,
        entries: Iterable[tuple[int, tuple[str, Row] | Bad]],
        *,
        name: str = "the input",
        shard: Shard = WHOLE,
        keep_errors: bool = False,
        spelling: Spelling | None = None,
    ) -> None:
        self.total = 0
        self.cut = 0
        self.keep_errors = keep_errors
        self._entries, self._name, self._shard = entries, name, shard
        self._spelling = spelling or Columns()
        self._pending: dict[int, tuple[str, Row]] = {}
        self._unusable: list[Finished] = []
        self._digest = blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """A hash of all sources read so far, those of other shards included."""
        return self._digest.hexdigest()

    def texts(self) -> Iterator[tuple[int, str]]:
        """Yield the sources of the shard by index.

        Raises:
            DataError: a row cannot be used, unless errors are kept.
        """
        for index, (line, entry) in enumerate(self._entries):
            if isinstance(entry, Bad) and not self.keep_errors:
                raise DataError(f"{self._name}, line {line}: {entry}")
            text, row = (str(entry), entry.row) if isinstance(entry, Bad) else entry
            self.total += 1
            self._digest.update(fingerprint(text).encode())
            if not self._shard.holds(index):
                continue
            if isinstance(entry, Bad):
                failure = self._spelling.failed(index, row, Failed(index, f"line {line}: {entry}"))
                self._unusable.append(Finished(index, "", failure, True))
            else:
                self._pending[index] = (text, dict(row))
                yield index, text

    def unusable(self) -> list[Finished]:
        """Return the rows read since the last call that cannot be used."""
        found, self._unusable = self._unusable, []
        return found

    def forget(self, index: int) -> None:
        """Drop the row of a source that has a result already."""
        self._pending.pop(index, None)

    def finished(self, outcome: Outcome) -> Finished:
        """Return the row of a source with its result."""
        text, row = self._pending.pop(outcome.index)
        if isinstance(outcome, Failed):
            return Finished(outcome.index, text, self._spelling.failed(outcome.index, row, outcome), True)
        self.cut += outcome.cut
        return Finished(outcome.index, text, self._spelling.made(outcome.index, row, outcome), False)
