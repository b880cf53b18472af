"""The folder of a run: what lies where, which checkpoints there are, which may go."""

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from conjoin.checkpoint import read_json
from conjoin.errors import ConjoinError, FileError, TrainingError, shown
from conjoin.training.folder.state import DamagedCheckpoint, TrainerState

STATE_FILE = "trainer_state.json"
RECIPE_FILE = "recipe.yaml"
_DISCARDED = ".discarded-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint of a run."""

    step: int
    folder: Path

    def state(self) -> TrainerState:
        """Where the run stood.

        Raises:
            DamagedCheckpoint: the file holds something else; with its name.
        """
        path = self.folder / STATE_FILE
        try:
            found = TrainerState.from_dict(read_json(path))
        except DamagedCheckpoint as error:
            raise DamagedCheckpoint(f"{path}: {error}") from None
        if found.global_step != self.step:
            raise DamagedCheckpoint(f"{path}: global_step = {found.global_step}, in the folder of step {self.step}.")
        return found


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run.

    `checkpoint-N/` appear whole (checkpoint.replacing_folder) and go by being renamed first, so whatever carries that
    name and has a state is complete.
    """

    path: Path

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.path / f"checkpoint-{step}"

    def checkpoints(self) -> list[Checkpoint]:
        """All complete ones, the newest last."""
        found = [(_step(folder.name), folder) for folder in self.path.glob("checkpoint-*")]
        whole = [(step, folder) for step, folder in found if step is not None and (folder / STATE_FILE).is_file()]
        return [Checkpoint(step, folder) for step, folder in sorted(whole)]

    def find(self, wanted: str) -> Checkpoint | None:
        """The newest checkpoint for "latest", or that of a folder; None if the run has none yet.

        Raises:
            TrainingError: the folder is no checkpoint.
        """
        if wanted == "latest":
            return next(reversed(self.checkpoints()), None)
        folder = Path(wanted)
        step = _step(folder.name)
        if step is None or not (folder / STATE_FILE).is_file():
            raise TrainingError(
                f"{wanted} is no checkpoint of a training run: there is no {STATE_FILE}.",
                hint=f"expected one such as {self.path / 'checkpoint-500'}, or latest.",
            )
        return Checkpoint(step, folder)

    def _held(self) -> str | None:
        """What the folder has of a run."""
        there = self.checkpoints()
        return there[-1].folder.name if there else "a model" if (self.path / "config.json").is_file() else None

    def require_claimable(self, *, overwrite: bool) -> None:
        """Check that a new run may have the folder; nothing is changed.

        Raises:
            TrainingError: it holds a run already, and that is not to be overwritten.
            FileError: it cannot be written.
        """
        held = self._held()
        if held and not overwrite:
            raise TrainingError(
                f"{self.path} holds a run already ({held}); nothing was changed.",
                hint="--resume goes on with it, --overwrite-output-dir starts anew, or choose another --out.",
            )
        if self.path.exists() and not (self.path.is_dir() and os.access(self.path, os.W_OK | os.X_OK)):
            what = "nobody may write into it" if self.path.is_dir() else "it is a file, expected a folder"
            raise FileError(f"{self.path}: cannot be written: {what}.", hint="choose another --out.")

    def claim(self) -> None:
        """Take the folder for a new run: what it holds of another one is deleted.

        Raises:
            TrainingError, FileError: it cannot be made, or not be deleted.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self._held():
                self._discard(checkpoint.folder for checkpoint in self.checkpoints())
                (self.path / "metrics.jsonl").unlink(missing_ok=True)
                shutil.rmtree(self.path / "events", ignore_errors=True)
        except OSError as error:
            raise FileError(f"{self.path}: cannot be written: {error.strerror or error}.") from None

    def rotate(self, limit: int | None, best_step: int | None) -> None:
        """Delete the oldest checkpoints beyond the limit, but never the best or the newest one."""
        there = self.checkpoints()
        if limit is None or len(there) <= limit:
            return
        best = [checkpoint for checkpoint in there if checkpoint.step == best_step]
        others = [checkpoint for checkpoint in there if checkpoint.step != best_step]
        room = max(limit - len(best), 0 if best and best[0] == there[-1] else 1)
        self._discard(checkpoint.folder for checkpoint in others[: len(others) - room])

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
    found = re.fullmatch(r"checkpoint-(0|[1-9][0-9]{0,14})", name)
    return int(found[1]) if found else None


def check_same_plan(saved: dict[str, object], now: dict[str, object]) -> None:
    """Refuse to go on where the order of batches is another one.

    Raises:
        TrainingError: names what changed.
    """
    changed = [
        f"{name}: {_told(saved.get(name))} before, {value} now"
        for name, value in now.items()
        if saved.get(name) != value
    ]
    if changed:
        raise TrainingError(
            f"The checkpoint belongs to another order of batches ({'; '.join(changed)}).",
            hint="resume with the data and batch settings of the run's recipe.yaml.",
        )


def _told(value: object) -> str:
    return value if isinstance(value, str) and len(value) < 200 else shown(value)


def as_training_error(error: ConjoinError, run: RunFolder, step: int) -> TrainingError:
    """A failed save, with what is safe."""
    newest = next(reversed(run.checkpoints()), None)
    safe = f"{newest.folder} is whole; --resume goes on from it." if newest else "no checkpoint was written before."
    return TrainingError(f"The checkpoint of step {step} could not be saved. {error}\n{safe}")
