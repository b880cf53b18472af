"""Where commands may write: never over their inputs, and over other existing files only with --overwrite."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from conjoin.errors import FileError


def claim_file(path: Path, *, inputs: Iterable[str | Path], overwrite: bool) -> None:
    """Check, before the work starts, that results can be written to a file.

    Raises:
        FileError: the path is an input, a folder, a device or an existing file, or its folder cannot be written.
    """
    _reject_inputs(path, inputs)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise FileError(f"{path} is {kind}; expected a file to write.")
    if path.exists() and not overwrite:
        raise FileError(f"{path} exists already.", hint="--overwrite replaces it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror}.") from None


def claim_folder(path: Path, *, inputs: Iterable[str | Path], overwrite: bool) -> None:
    """Check, before the work starts, that a model may be written to a folder.

    Raises:
        FileError: the path is an input, a file, or a folder that is not empty.
    """
    path = path.expanduser()
    _reject_inputs(path, inputs)
    if path.exists() and not path.is_dir():
        raise FileError(f"{path} is a file, expected a folder.")
    entries = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    if entries and not overwrite:
        some = f"{', '.join(entries[:3])}{', ...' if len(entries) > 3 else ''}"
        raise FileError(
            f"{path} is not empty ({some}); nothing was changed.",
            hint="--overwrite replaces an existing model, or choose another --out.",
        )


def _reject_inputs(path: Path, inputs: Iterable[str | Path]) -> None:
    """Raise if a command would write over one of its inputs, under whatever name.

    Raises:
        FileError: the path is one of the inputs.
    """
    for name in inputs:
        source = Path(name).expanduser()
        if source.exists() and path.exists() and source.samefile(path):
            raise FileError(
                f"{path} is an input of this command ({name}); nothing was changed.", hint="choose another output."
            )
