"""The folder of a run: its checkpoints, which of them are damaged or may be deleted, and the lock on it."""

import os
import re
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from conjoin.checkpoint import lock_file, open_checkpoint, read_json, replacing_file
from conjoin.errors import ConfigError, ConjoinError, FileError, TrainingError, WeightError
from conjoin.training.folder.moments import check_readable
from conjoin.training.folder.state import DamagedCheckpoint, TrainerState
from conjoin.training.settings.recipe import RECIPE_FILE, Recipe
from conjoin.training.world import World

STATE_FILE = "trainer_state.json"
_DISCARDED = ".discarded-"
DAMAGE = (DamagedCheckpoint, WeightError, FileError, ConfigError)
"""What reading a damaged file raises; other errors are of whole checkpoints that do not fit the run."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint of a run."""

    step: int
    folder: Path

    def state(self) -> TrainerState:
        """Read the progress of the run.

        Raises:
            DamagedCheckpoint: the file holds something else; with its name.
        """
        path = self.folder / STATE_FILE
        try:
            state = TrainerState.from_dict(read_json(path))
        except DamagedCheckpoint as error:
            raise DamagedCheckpoint(f"{path}: {error}") from None
        if state.global_step != self.step:
            raise DamagedCheckpoint(f"{path}: global_step = {state.global_step}, in the folder of step {self.step}.")
        return state

    @contextmanager
    def damage_explained(self) -> Generator[None]:
        """Say in the error of damaged files which older checkpoint the run can go on from.

        Raises:
            DamagedCheckpoint: in place of the errors of its files.
        """
        try:
            yield
        except DAMAGE as error:
            what = str(error).removesuffix(f"\n\nhint: {error.hint}")
            text = f"{self.folder} is damaged, and the run cannot go on from it. {what}"
            raise DamagedCheckpoint(text, hint=self._way_out(error)) from error

    def _way_out(self, error: ConjoinError) -> str:
        checkpoints = RunFolder(self.folder.parent).checkpoints()
        older = next((each for each in reversed(checkpoints) if each.step < self.step and each.is_whole()), None)
        if older is not None:
            return f"--resume-from-checkpoint {older.folder} goes on from an older one, which is whole."
        own = error.hint if isinstance(error, DamagedCheckpoint) else None
        return own or "no older checkpoint of the run is whole; --overwrite-output-dir starts anew."

    def is_whole(self) -> bool:
        """True if its progress can be read, its weights opened, and its optimizer holds what optimizers write."""
        try:
            self.state()
            open_checkpoint(self.folder).close()
            check_readable(self.folder)
        except DAMAGE:
            return False
        return True


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run.

    `checkpoint-N/` appear whole (checkpoint.replacing_folder) and are renamed before they are deleted, so every folder
    that has such a name and a state is complete.
    """

    path: Path

    def checkpoint(self, step: int) -> Path:
        """Return the path of a step's checkpoint."""
        return self.path / f"checkpoint-{step}"

    def checkpoints(self) -> list[Checkpoint]:
        """Return all complete checkpoints, the newest last."""
        folders = [(_step(folder.name), folder) for folder in self.path.glob("checkpoint-*")]
        whole = [(step, folder) for step, folder in folders if step is not None and (folder / STATE_FILE).is_file()]
        return [Checkpoint(step, folder) for step, folder in sorted(whole)]

    def newest(self, up_to: int | None = None) -> Checkpoint | None:
        """Return the newest complete checkpoint.

        Args:
            up_to: Of this step or an earlier one; later ones are left by a run that was taken back.
        """
        known = [each for each in self.checkpoints() if up_to is None or each.step <= up_to]
        return next(reversed(known), None)

    def discard_after(self, step: int) -> None:
        """Delete the checkpoints of later steps."""
        self._discard(checkpoint.folder for checkpoint in self.checkpoints() if checkpoint.step > step)

    def find(self, name: str) -> Checkpoint | None:
        """Return the newest checkpoint for "latest", or that of a folder; None if the run has none yet.

        Raises:
            TrainingError: the folder is no checkpoint.
        """
        if name == "latest":
            return self.newest()
        folder = Path(name)
        step = _step(folder.name)
        if step is None or not (folder / STATE_FILE).is_file():
            raise TrainingError(
                f"{name} is no checkpoint of a training run: there is no {STATE_FILE}.",
                hint=f"expected one such as {self.path / 'checkpoint-500'}, or latest.",
            )
        return Checkpoint(step, folder)

    def _contents(self) -> str | None:
        """Name what the folder holds of a run: its newest checkpoint, or a model."""
        newest = self.newest()
        return newest.folder.name if newest else "a model" if (self.path / "config.json").is_file() else None

    def require_claimable(self, *, overwrite: bool) -> None:
        """Check that a new run may have the folder; nothing is changed.

        Raises:
            TrainingError: it holds a run already, and that is not to be overwritten.
            FileError: it cannot be written.
        """
        contents = self._contents()
        if contents and not overwrite:
            raise TrainingError(
                f"{self.path} holds a run already ({contents}); nothing was changed.",
                hint="--resume goes on with it, --overwrite-output-dir starts anew, or choose another --out.",
            )
        if self.path.exists() and not (self.path.is_dir() and os.access(self.path, os.W_OK | os.X_OK)):
            what = "nobody may write into it" if self.path.is_dir() else "it is a file, expected a folder"
            raise FileError(f"{self.path}: cannot be written: {what}.", hint="choose another --out.")

    def claim(self) -> None:
        """Make the folder for a new run, and delete what it holds of another one.

        Raises:
            TrainingError, FileError: it cannot be made, or not be deleted.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self._contents():
                self._discard(checkpoint.folder for checkpoint in self.checkpoints())
                for name in ("metrics.jsonl", "clock.txt"):
                    (self.path / name).unlink(missing_ok=True)
                shutil.rmtree(self.path / "events", ignore_errors=True)
        except OSError as error:
            raise FileError(f"{self.path}: cannot be written: {error.strerror or error}.") from None

    def rotate(self, limit: int | None, best_step: int | None) -> None:
        """Delete the oldest checkpoints beyond the limit, but never the best or the newest one."""
        checkpoints = self.checkpoints()
        if limit is None or len(checkpoints) <= limit:
            return
        best = [checkpoint for checkpoint in checkpoints if checkpoint.step == best_step]
        others = [checkpoint for checkpoint in checkpoints if checkpoint.step != best_step]
        remaining = max(limit - len(best), 0 if best and best[0] == checkpoints[-1] else 1)
        self._discard(checkpoint.folder for checkpoint in others[: len(others) - remaining])

    def write_recipe(self, recipe: Recipe | None) -> None:
        """Write recipe.yaml, with which the run can be resumed, before the first step."""
        if recipe is not None:
            with replacing_file(self.path / RECIPE_FILE) as file:
                file.write(recipe.lasting().to_yaml())

    def sweep(self) -> None:
        """Finish deletions that were interrupted."""
        for left in self.path.glob(f"{_DISCARDED}*"):
            shutil.rmtree(left, ignore_errors=True)

    def _discard(self, folders: Iterable[Path]) -> None:
        for folder in folders:
            hidden = folder.with_name(f"{_DISCARDED}{folder.name}")
            shutil.rmtree(hidden, ignore_errors=True)
            try:
                folder.rename(hidden)
            except OSError as error:
                raise TrainingError(f"{folder}: the old checkpoint cannot be deleted: {error}.") from error
            shutil.rmtree(hidden, ignore_errors=True)


def _step(name: str) -> int | None:
    match = re.fullmatch(r"checkpoint-(0|[1-9][0-9]{0,14})", name)
    return int(match[1]) if match else None


def failed_save(error: ConjoinError, run: RunFolder, step: int) -> TrainingError:
    """Return the error of a save that failed; it says which checkpoint is whole."""
    newest = run.newest()
    safe = f"{newest.folder} is whole; --resume goes on from it." if newest else "no checkpoint was written before."
    return TrainingError(f"The checkpoint of step {step} could not be saved. {error}\n{safe}")


@contextmanager
def locked(world: World, folder: Path) -> Generator[None]:
    """Keep other runs out of a folder; a process that is killed leaves no lock behind.

    The first process holds the lock for all processes of this run.

    Raises:
        FileError: another run writes there, or nothing can be written there.
    """
    lock = _Lock(folder)
    world.on_first(lock.acquire)
    try:
        yield
    finally:
        lock.release()


class _Lock:
    """A lock file beside the folder, since a save of the final model replaces the folder as one act."""

    def __init__(self, run: Path) -> None:
        self._run = run
        folder = Path(os.path.realpath(run))
        self._path = folder.parent / f".{folder.name}.lock"
        self._file: IO[bytes] | None = None

    def acquire(self) -> None:
        """Lock, or raise FileError."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while self._file is None:
                self._file = self._open_locked()
        except FileError:
            raise
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise FileError(
                f"{self._run}: cannot be written: {error.strerror or error}{where}.", hint="choose another --out."
            ) from None

    def _open_locked(self) -> IO[bytes] | None:
        """Open and lock the file; None if another run ended, and removed it, between opening and locking."""
        file = open(self._path, "ab")  # noqa: SIM115  (closed by `release`)
        lock_file(file, self._run)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):
                return file
        file.close()
        return None

    def release(self) -> None:
        """Remove the file while nobody else can have locked it."""
        if self._file is not None:
            with suppress(OSError):  # Windows removes no open files
                self._path.unlink()
            self._file.close()
            self._file = None
