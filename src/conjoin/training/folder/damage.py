"""A checkpoint that cannot be read, and the older one of its run that can be."""

from collections.abc import Generator
from contextlib import contextmanager

from conjoin.checkpoint import open_checkpoint
from conjoin.errors import ConfigError, ConjoinError, FileError, WeightError
from conjoin.training.folder.moments import check_readable
from conjoin.training.folder.run_folder import Checkpoint, RunFolder
from conjoin.training.folder.state import DamagedCheckpoint

DAMAGE = (DamagedCheckpoint, WeightError, FileError, ConfigError)
"""What reading a damaged file raises; other errors are of whole checkpoints that do not fit the run."""


@contextmanager
def older_one_named(checkpoint: Checkpoint) -> Generator[None]:
    """Say in the error of a damaged checkpoint which one to go on from instead.

    Raises:
        DamagedCheckpoint: in place of errors of its files.
    """
    try:
        yield
    except DAMAGE as error:
        what = str(error).removesuffix(f"\n\nhint: {error.hint}")
        text = f"{checkpoint.folder} is damaged, and the run cannot go on from it. {what}"
        raise DamagedCheckpoint(text, hint=_way_out(checkpoint, error)) from error


def _way_out(checkpoint: Checkpoint, error: ConjoinError) -> str:
    there = RunFolder(checkpoint.folder.parent).checkpoints()
    older = next((each for each in reversed(there) if each.step < checkpoint.step and _is_whole(each)), None)
    if older is not None:
        return f"--resume-from-checkpoint {older.folder} goes on from an older one, which is whole."
    own = error.hint if isinstance(error, DamagedCheckpoint) else None
    return own or "no older checkpoint of the run is whole; --overwrite-output-dir starts anew."


def _is_whole(checkpoint: Checkpoint) -> bool:
    """Whether progress can be read, weights can be opened, and the optimizer holds what optimizers leave."""
    try:
        checkpoint.state()
        open_checkpoint(checkpoint.folder).close()
        check_readable(checkpoint.folder)
    except DAMAGE:
        return False
    return True
