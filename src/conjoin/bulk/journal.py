"""A results file that is written in any order, survives `kill -9`, and ends up in the order of its input.

During a run, `OUT.partial` holds one line of JSON per finished result, after a line that describes the run. When all
are there, they are sorted into `OUT`, which appears whole or not at all. Where sources failed, `OUT.partial` stays, so
that the same command tries these again.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b, file_digest
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from conjoin.bulk.journal_lines import (
    Replaceable,
    Result,
    damaged,
    first_line,
    open_plain,
    parse_line,
    require_journal,
    whole_lines,
)
from conjoin.bulk.shards import WHOLE, Shard
from conjoin.checkpoint import lock_file
from conjoin.errors import DataError, FileError, listing

Write = Callable[[Callable[[], Iterator[Result]]], None]
"""Writes the results file, given what yields all results in order, as often as it is called."""


class Journal:
    """The results of a run that may be interrupted and resumed.

    Attributes:
        done: Fingerprint of the input of every result, by index.
        failed: Indices of the sources that failed.
        earlier: Number of results when it was opened.

    Args:
        path: The results file.
        run: What must be the same when the run is resumed: model, settings. Plain values by name.
        overwrite: Start anew, whatever is there.
        shard: Which sources of the input are here.

    Raises:
        FileError: `path` exists, it cannot be written, another process writes it, its run was a different one; or
            `OUT.partial` is a link, somebody else's file, or damaged, with the line. It is left as it was.
    """

    def __init__(
        self, path: str | Path, run: Mapping[str, Any], *, overwrite: bool = False, shard: Shard = WHOLE
    ) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.shard = shard
        self.earlier = 0
        if self.path.exists() and not overwrite and not self.partial.exists():
            raise self._exists()
        self.done: dict[int, str] = {}
        self.failed: set[int] = set()
        self._places: dict[int, int] = {}
        self._end = 0
        self._replaceable = ""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.partial}: cannot be written: {error.strerror}.") from None
        self._file = open_plain(self.partial)
        try:
            lock_file(self._file, self.partial)
            self._resume(json.loads(json.dumps(run)), overwrite=overwrite)
            self.earlier = len(self.done)
            if self.path.exists() and not overwrite and self._replaceable != contents_digest(self.path):
                raise self._exists()
        except BaseException:
            self.close()
            raise

    def _exists(self) -> FileError:
        """Return the error of a results file that this run did not write."""
        if not self.earlier:
            return FileError(f"{self.path} exists already.", hint="--overwrite replaces it.")
        return FileError(
            f"{self.path} exists already, and {self.partial} holds {self.earlier} results that are not in it.",
            hint=f"move {self.path.name} away to go on; --overwrite replaces it and throws these results away too.",
        )

    def _resume(self, run: dict[str, Any], *, overwrite: bool) -> None:
        """Read the results; drop a last line that a kill cut short."""
        self._file.seek(0)
        first = self._file.readline()
        if first:
            saved_run = require_journal(self.partial, first, run)
            if not overwrite:
                self._end = len(first)
                self._read_results()
            if self.done or self.failed:
                self._require_same(saved_run, run)
                self._file.truncate(self._end)
                return
            if saved_run != run:
                self._replaceable = ""
        if overwrite and self.path.is_file():
            self._replaceable = contents_digest(self.path)
        self._file.truncate(0)
        self._end = 0
        self._write([first_line(run), *([Replaceable(self._replaceable).line()] if self._replaceable else [])])

    def _read_results(self) -> None:
        for number, line in whole_lines(self._file, 2):
            values = parse_line(self.partial, number, line)
            if (file := Replaceable.of(values)) is not None:
                self._replaceable = file.digest
            else:
                self._note(number, Result.of(self.partial, number, values))
            self._end += len(line)

    def _note(self, number: int, result: Result) -> None:
        """Take a result up; one of a source that failed replaces the failure."""
        index = result.index
        if index in self.done:
            self._require_equal(number, result)
            return
        self._places[index] = self._end
        if result.failed:
            self.failed.add(index)
        else:
            self.failed.discard(index)
            self.done[index] = result.input

    def _require_equal(self, number: int, again: Result) -> None:
        """Accept a result that is there twice, as two processes without locks write it, if both are equal."""
        here = self._file.tell()
        if self._result(again.index) != again:
            raise damaged(self.partial, number, f"holds another result of source {again.index + 1}")
        self._file.seek(here)

    def _result(self, index: int) -> Result:
        """Read the result of a source."""
        self._file.seek(self._places[index])
        try:
            stored = Result.of(self.partial, index + 1, parse_line(self.partial, index + 1, self._file.readline()))
        except FileError:
            stored = None
        if stored is None or stored.index != index:
            raise FileError(
                f"{self.partial} was changed while it was written: source {index + 1} is not where it was.",
                hint="it is kept; the same command goes on from it.",
            )
        return stored

    def _require_same(self, saved: dict[str, Any], run: dict[str, Any]) -> None:
        if changed := differences(saved, run):
            raise FileError(
                f"{self.partial} holds a run that was cut off, and this one is different:\n{listing(changed)}",
                hint="give the same settings to go on, or --overwrite to start anew.",
            )

    def rest(self, texts: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        """Yield the inputs that have no result yet, those that failed among them.

        Raises:
            DataError: an input that has a result has changed.
        """
        seen = 0
        for index, text in texts:
            if index not in self.done:
                yield index, text
                continue
            seen += 1
            if self.done[index] != fingerprint(text):
                raise self._another_input(f"source {index + 1} is not what it was")
        if seen < self.earlier:
            raise self._another_input(f"there are {self.earlier - seen} results more than sources")

    def _another_input(self, what: str) -> DataError:
        return DataError(
            f"{self.partial} holds results of another input: {what}.",
            hint="give the same input to go on, or --overwrite to start anew.",
        )

    def add(self, results: Iterable[tuple[int, str, Any]], failures: Iterable[tuple[int, str, Any]] = ()) -> None:
        """Add (index, input text, result) of sources, and of sources that failed; they are on the disk afterwards."""
        lines = [
            Result(index, fingerprint(text), output, failed)
            for group, failed in ((results, False), (failures, True))
            for index, text, output in group
        ]
        places = self._write(result.line() for result in lines)
        for result, place in zip(lines, places, strict=True):
            self._places[result.index] = place
            if result.failed:
                self.failed.add(result.index)
            else:
                self.failed.discard(result.index)
                self.done[result.index] = result.input

    def _write(self, lines: Iterable[str]) -> list[int]:
        """Append lines; return the position of each."""
        encoded = [f"{line}\n".encode() for line in lines]
        try:
            self._file.seek(self._end)
            self._file.write(b"".join(encoded))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise FileError(
                f"{self.partial}: cannot be written: {error.strerror}.", hint="what is done is kept."
            ) from None
        places = list(accumulate((len(line) for line in encoded), initial=self._end))
        self._end = places.pop()
        return places

    def finish(self, write: Write, count: int | None = None) -> None:
        """Write all results in order into the results file; remove the journal, unless sources failed.

        Args:
            count: How many there must be.

        Raises:
            FileError: a result is missing, or not what was written; the journal is kept.
            DataError: there are more results than that.
        """
        order = sorted([*self.done, *self.failed])
        if count is not None and len(order) > count:
            raise self._another_input(f"there are {len(order) - count} results more than sources")
        for at, index in enumerate(order):
            if index != self.shard.index(at):
                raise FileError(
                    f"{self.partial}: there is no result of source {self.shard.index(at) + 1}. It is kept.",
                    hint="the same command makes what is missing.",
                )
        write(lambda: (self._result(index) for index in order))
        if self.failed:
            self._write([Replaceable(contents_digest(self.path)).line()])
        self.close()
        if not self.failed:
            self.partial.unlink()

    def close(self) -> None:
        """Close the file; results stay."""
        with suppress(OSError):  # a full disk was reported when it was met
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def differences(saved: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Describe what two runs do not have in common."""
    return [
        f"{name}: {saved.get(name)!r} then, {run.get(name)!r} now"
        for name in sorted({*saved, *run})
        if saved.get(name) != run.get(name)
    ]


def fingerprint(text: str) -> str:
    """Return a hash of an input."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def contents_digest(path: Path) -> str:
    """Return a hash of a file's contents.

    Raises:
        FileError: it cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}.") from None
