"""A results file that is written in any order, survives `kill -9`, and ends up in the order of its input.

During a run, `OUT.partial` holds one line of JSON per finished result, after a line that describes the run. When all
are there, they are sorted into `OUT`, which appears whole or not at all.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from conjoin.checkpoint import lock_file, replacing_file
from conjoin.errors import DataError, FileError, listing
from conjoin.evaluation.journal_lines import Result, damaged, first_line, open_plain, require_journal, whole_lines


class Journal:
    """The results of a run that may be interrupted and resumed.

    Attributes:
        done: Fingerprint of the input of every result, by index.
        earlier: Number of results when it was opened.

    Args:
        path: The results file.
        run: What must be the same when the run is resumed: model, settings. Plain values by name.
        overwrite: Start anew, whatever is there.

    Raises:
        FileError: `path` exists, it cannot be written, another process writes it, its run was a different one; or
            `OUT.partial` is a link, somebody else's file, or damaged, with the line. It is left as it was.
    """

    def __init__(self, path: str | Path, run: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        if self.path.exists() and not overwrite:
            raise FileError(f"{self.path} exists already.", hint="--overwrite replaces it.")
        self.done: dict[int, str] = {}
        self._places: dict[int, int] = {}
        self._end = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.partial}: cannot be written: {error.strerror}.") from None
        self._file = open_plain(self.partial)
        try:
            lock_file(self._file, self.partial)
            self._resume(json.loads(json.dumps(run)), overwrite=overwrite)
        except BaseException:
            self.close()
            raise
        self.earlier = len(self.done)

    def _resume(self, run: dict[str, Any], *, overwrite: bool) -> None:
        """Read the results; drop a last line that a kill cut short."""
        self._file.seek(0)
        first = self._file.readline()
        if first:
            saved_run = require_journal(self.partial, first, run)
            if not overwrite:
                self._end = len(first)
                self._read_results()
            if self.done:
                self._require_same(saved_run, run)
                self._file.truncate(self._end)
                return
        self._file.truncate(0)
        self._end = 0
        self._write([first_line(run)])

    def _read_results(self) -> None:
        for number, line in whole_lines(self._file, 2):
            result = Result.of(self.partial, number, line)
            if result.index in self.done:
                self._require_equal(number, result)
            else:
                self.done[result.index], self._places[result.index] = result.input, self._end
            self._end += len(line)

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
            stored = Result.of(self.partial, index + 1, self._file.readline())
        except FileError:
            stored = None
        if stored is None or stored.index != index:
            raise FileError(
                f"{self.partial} was changed while it was written: source {index + 1} is not where it was.",
                hint="it is kept; the same command goes on from it.",
            )
        return stored

    def _require_same(self, saved: dict[str, Any], run: dict[str, Any]) -> None:
        changed = [
            f"{name}: {saved.get(name)!r} then, {run.get(name)!r} now"
            for name in sorted({*saved, *run})
            if saved.get(name) != run.get(name)
        ]
        if changed:
            raise FileError(
                f"{self.partial} holds a run that was cut off, and this one is different:\n{listing(changed)}",
                hint="give the same settings to go on, or --overwrite to start anew.",
            )

    def rest(self, texts: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        """Yield the inputs that have no result yet.

        Raises:
            DataError: an input that has a result has changed.
        """
        hint = "give the same input to go on, or --overwrite to start anew."
        seen = 0
        for index, text in texts:
            if index not in self.done:
                yield index, text
                continue
            seen += 1
            if self.done[index] != fingerprint(text):
                what = f"source {index + 1} is not what it was"
                raise DataError(f"{self.partial} holds results of another input: {what}.", hint=hint)
        if seen < self.earlier:
            what = f"there are {self.earlier - seen} results more than sources"
            raise DataError(f"{self.partial} holds results of another input: {what}.", hint=hint)

    def add(self, results: Iterable[tuple[int, str, Any]]) -> None:
        """Add (index, input text, result); they are on the disk when this returns."""
        lines = [Result(index, fingerprint(text), output) for index, text, output in results]
        places = self._write(result.line() for result in lines)
        for result, place in zip(lines, places, strict=True):
            self.done[result.index], self._places[result.index] = result.input, place

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

    def finish(self, spell: Any) -> None:
        """Write all results in order into the results file, and remove the journal.

        Args:
            spell: Returns the line of a result.

        Raises:
            FileError: a result is missing, or not what was written; the journal is kept.
        """
        order = sorted(self.done)
        if missing := next((at for at, index in enumerate(order) if at != index), None):
            raise FileError(
                f"{self.partial}: there is no result of source {missing + 1}. It is kept.",
                hint="the same command makes what is missing.",
            )
        with replacing_file(self.path) as file:
            file.writelines(f"{spell(self._result(index).output)}\n" for index in order)
            file.flush()
            os.fsync(file.fileno())
        self.close()
        self.partial.unlink()

    def close(self) -> None:
        """Close the file; results stay."""
        with suppress(OSError):  # a full disk was reported when it was met
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fingerprint(text: str) -> str:
    """Return a hash of an input."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
