"""One process writes into the folder of a run: a second one is refused, and one that was killed leaves no lock."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from conjoin.checkpoint import lock_file
from conjoin.errors import FileError
from conjoin.training.loop.engine import World


@contextmanager
def locked(world: World, run: Path) -> Generator[None]:
    """Hold a run's folder for all processes of this run; the first one has the lock.

    Raises:
        FileError: another run writes there, or nothing can be written there.
    """
    lock = _Lock(run)
    world.on_first(lock.take)
    try:
        yield
    finally:
        lock.release()


class _Lock:
    """The lock's file lies beside the folder, which a save of the final model replaces as one act."""

    def __init__(self, run: Path) -> None:
        self._run = run
        folder = Path(os.path.realpath(run))
        self._path = folder.parent / f".{folder.name}.lock"
        self._file: IO[bytes] | None = None

    def take(self) -> None:
        """Lock, or raise FileError."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while self._file is None:
                self._file = self._locked_file()
        except FileError:
            raise
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise FileError(
                f"{self._run}: cannot be written: {error.strerror or error}{where}.", hint="choose another --out."
            ) from None

    def _locked_file(self) -> IO[bytes] | None:
        """None where another run ended, and took its file away, between opening and locking."""
        file = open(self._path, "ab")  # noqa: SIM115  (closed by `release`)
        lock_file(file, self._run)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):
                return file
        file.close()
        return None

    def release(self) -> None:
        """Take the file away while nobody else can have locked it."""
        if self._file is not None:
            with suppress(OSError):  # Windows removes no open files
                self._path.unlink()
            self._file.close()
            self._file = None
