"""Where commands may write: never onto what they read, and onto what is there only when told to."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from conjoin.errors import FileError


def claim_file(path: Path, *, inputs: Iterable[str | Path], overwrite: bool) -> None:
    """Make sure, before the work, that its results can be written.

    Raises:
        FileError: an input, a folder or a device, there already, or in a folder that cannot be written.
    """
    _refuse_inputs(path, inputs)
    if path.exists() and not path.is_file():
        raise FileError(f"{path} is {'a folder' if path.is_dir() else 'no plain file'}; expected a file to write.")
    if path.exists() and not overwrite:
        raise FileError(f"{path} exists already.", hint="--overwrite replaces it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror}.") from None


def claim_folder(path: Path, *, inputs: Iterable[str | Path], overwrite: bool) -> None:
    """Make sure, before the work, that a model may be written to a folder.

    Raises:
        FileError: an input, a file, or a folder that holds something.
    """
    path = path.expanduser()
    _refuse_inputs(path, inputs)
    if path.exists() and not path.is_dir():
        raise FileError(f"{path} is a file, expected a folder.")
    held = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    if held and not overwrite:
        some = f"{', '.join(held[:3])}{', ...' if len(held) > 3 else ''}"
        raise FileError(
            f"{path} is not empty ({some}); nothing was changed.",
            hint="--overwrite replaces a model that is there, or choose another --out.",
        )


def _refuse_inputs(path: Path, inputs: Iterable[str | Path]) -> None:
    """Keep a command from writing onto what it reads, under whatever name.

    Raises:
        FileError: the path is one of them.
    """
    for given in inputs:
        read = Path(given).expanduser()
        if read.exists() and path.exists() and read.samefile(path):
            raise FileError(f"{path} is what this command reads ({given}); nothing was changed.", hint="name another.")
