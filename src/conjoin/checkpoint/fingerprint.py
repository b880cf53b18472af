"""Fingerprints of a model folder, which change if the model at a path is replaced."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from conjoin.checkpoint.find import DEFAULT_PATTERNS, TARGET_FOLDER
from conjoin.checkpoint.forms import ADAPTER_WEIGHTS, is_weight_file
from conjoin.checkpoint.tensors import open_checkpoint
from conjoin.errors import FileError


def fingerprints(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return hashes of a model's weights, and of its configs and tokenizers: of every byte that loading may read.

    Only the contents tell a model from the same model one epoch later: names, shapes and sizes are equal, and times
    change with a copy (`cp`) or are copied from another model (`rsync -t`). A gigabyte takes about 0.6 s on a CPU with
    SHA instructions.

    Raises:
        FileError, WeightError: the folder does not exist or has no usable weights.
    """
    folder = Path(folder)
    with open_checkpoint(folder) as checkpoint:
        weights = checkpoint.files
    other_files = {
        path
        for directory in (folder, folder / TARGET_FOLDER)
        for pattern in DEFAULT_PATTERNS
        for path in directory.glob(pattern)
        if path.is_file() and (path.name == ADAPTER_WEIGHTS or not is_weight_file(path.name))
    }
    return {"weights": _digest(folder, weights), "config and tokenizers": _digest(folder, sorted(other_files))}


def _digest(folder: Path, paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb", buffering=0) as file:
                digest = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror or error}.") from None
        whole.update(str(path.relative_to(folder)).encode() + b"\0" + digest)
    return whole.hexdigest()[:32]
