"""A file of results that is written in any order, survives `kill -9`, and ends up in the order of its input.

While a run goes on, `OUT.partial` holds one line of JSON for every finished result, after a line that says what run it
is. When all are there, they are put in order into `OUT`, which appears whole or not at all.
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
    """Results of a run that may be cut off and taken up again.

    Attributes:
        done: Index -> fingerprint of its input.
        earlier: How many were done when it was opened.

    Args:
        path: Where the results go in the end.
        run: What must be the same when the run is taken up: model, settings. Plain values by name.
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
            self._take_up(json.loads(json.dumps(run)), overwrite=overwrite)
        except BaseException:
            self.close()
            raise
        self.earlier = len(self.done)

    def _take_up(self, run: dict[str, Any], *, overwrite: bool) -> None:
        """Read what is done; drop a last line that a kill cut short."""
        self._file.seek(0)
        first = self._file.readline()
        if first:
            found = require_journal(self.partial, first, run)
            if not overwrite:
                self._end = len(first)
                self._read_results()
            if self.done:
                self._require_same(found, run)
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
        """A result may stand twice, as two processes without locks write it, if it is the same one."""
        here = self._file.tell()
        if self._result(again.index) != again:
            raise damaged(self.partial, number, f"holds another result of source {again.index + 1}")
        self._file.seek(here)

    def _result(self, index: int) -> Result:
        """What the journal holds of a source."""
        self._file.seek(self._places[index])
        try:
            found = Result.of(self.partial, index + 1, self._file.readline())
        except FileError:
            found = None
        if found is None or found.index != index:
            raise FileError(
                f"{self.partial} was changed while it was written: source {index + 1} is not where it was.",
                hint="it is kept; the same command goes on from it.",
            )
        return found

    def _require_same(self, found: dict[str, Any], run: dict[str, Any]) -> None:
        changed = [
            f"{name}: {found.get(name)!r} then, {run.get(name)!r} now"
            for name in sorted({*found, *run})
            if found.get(name) != run.get(name)
        ]
        if changed:
            raise FileError(
                f"{self.partial} holds a run that was cut off, and this one is different:\n{listing(changed)}",
                hint="give the same settings to go on, or --overwrite to start anew.",
            )

    def rest(self, texts: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        """The inputs that have no result yet.

        Raises:
            DataError: an input that has a result is not what it was then.
        """
        hint = "give the same input to go on, or --overwrite to start anew."
        found = 0
        for index, text in texts:
            if index not in self.done:
                yield index, text
                continue
            found += 1
            if self.done[index] != fingerprint(text):
                what = f"source {index + 1} is not what it was"
                raise DataError(f"{self.partial} holds results of another input: {what}.", hint=hint)
        if found < self.earlier:
            what = f"there are {self.earlier - found} results more than sources"
            raise DataError(f"{self.partial} holds results of another input: {what}.", hint=hint)

    def add(self, results: Iterable[tuple[int, str, Any]]) -> None:
        """Keep (index, input text, result to be written); they are on the disk when this returns."""
        made = [Result(index, fingerprint(text), output) for index, text, output in results]
        places = self._write(result.line() for result in made)
        for result, place in zip(made, places, strict=True):
            self.done[result.index], self._places[result.index] = result.input, place

    def _write(self, lines: Iterable[str]) -> list[int]:
        """Append lines; where each begins."""
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
        """Put all results in order into the file asked for, and remove the journal.

        Args:
            spell: Result -> its line.

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
        """Let go of the file; what is done stays."""
        with suppress(OSError):  # a full disk was told when it was met
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fingerprint(text: str) -> str:
    """Tells one input from another."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
