"""A file of results that is written in any order, survives `kill -9`, and ends up in the order of its input.

While a run goes on, `OUT.partial` holds one line of JSON for every finished result, after a line that says what run it
is. When all are there, they are put in order into `OUT`, which appears whole or not at all.
"""

import heapq
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Self

from conjoin.checkpoint import replacing_file
from conjoin.errors import DataError, FileError, listing


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
        FileError: `path` exists, it cannot be written, another process writes it, or its run was a different one.
    """

    def __init__(self, path: str | Path, run: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        if self.path.exists() and not overwrite:
            raise FileError(f"{self.path} exists already.", hint="--overwrite replaces it.")
        self.done: dict[int, str] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.partial, "a+b")  # noqa: SIM115  (closed by `close`)
        except OSError as error:
            raise FileError(f"{self.partial}: cannot be written: {error.strerror}.") from None
        try:
            lock_file(self._file, self.partial)
            if overwrite:
                self._file.truncate(0)
            self._take_up(json.loads(json.dumps(run)))
        except BaseException:
            self.close()
            raise
        self.earlier = len(self.done)

    def _take_up(self, run: dict[str, Any]) -> None:
        """Read what is done; drop a last line that a kill cut short."""
        self._file.seek(0)
        whole = (line for line in self._file if line.endswith(b"\n"))
        first, end = next(whole, b""), 0
        for line in whole:
            found = json.loads(line)
            self.done[found["index"]] = found["input"]
            end += len(line)
        if self.done:
            self._require_same(json.loads(first), run)
            self._file.truncate(len(first) + end)
        else:
            self._file.truncate(0)
            self._write([json.dumps(run, ensure_ascii=False)])

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
        kept = list(results)
        self._write(
            json.dumps({"index": index, "input": fingerprint(text), "output": output}, ensure_ascii=False)
            for index, text, output in kept
        )
        self.done |= {index: fingerprint(text) for index, text, _ in kept}

    def _write(self, lines: Iterable[str]) -> None:
        try:
            self._file.write("".join(f"{line}\n" for line in lines).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise FileError(
                f"{self.partial}: cannot be written: {error.strerror}.", hint="what is done is kept."
            ) from None

    def finish(self, spell: Any) -> None:
        """Put all results in order into the file asked for, and remove the journal.

        Args:
            spell: Result -> its line.
        """
        with replacing_file(self.path) as file:
            file.writelines(f"{spell(output)}\n" for output in self._ordered())
            file.flush()
            os.fsync(file.fileno())
        self.close()
        self.partial.unlink()

    def _ordered(self) -> Iterator[Any]:
        """Results by index; those that wait for one before them are few, since inputs are read in windows."""
        self._file.seek(0)
        self._file.readline()
        waiting: list[tuple[int, bytes]] = []
        order = iter(sorted(self.done))
        wanted = next(order, None)
        for line in self._file:
            heapq.heappush(waiting, (json.loads(line)["index"], line))
            while waiting and waiting[0][0] == wanted:
                yield json.loads(heapq.heappop(waiting)[1])["output"]
                wanted = next(order, None)

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


def lock_file(file: IO[bytes], path: Path) -> None:
    """Keep a second process out of `path` until the file is closed; where there are no locks (Windows), the user does.

    Raises:
        FileError: another process has the lock; the file is closed.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise FileError(
            f"{path}: another process is writing it.", hint="wait for it, or name another output."
        ) from None
    except OSError:  # a file system without locks, as some network folders are
        return
