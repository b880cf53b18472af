"""Tensors whose rows several processes wrote, as one table that any number of processes reads.

`shards/process-N.safetensors` holds the rows of one process; `shards/index.json` says, for every tensor, its whole
shape, its dtype and how many rows are in which file, in order. They contain no pickles.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from conjoin.checkpoint import (
    Checkpoint,
    Form,
    Staging,
    Tensor,
    open_checkpoint,
    parse_size,
    read_json,
    write_json,
    write_tensors,
)
from conjoin.errors import shown
from conjoin.training.folder.state import DamagedCheckpoint

FOLDER = "shards"
INDEX = "index.json"
_FILE = re.compile(r"process-(0|[1-9][0-9]{0,5})\.safetensors")
_ONE_FILE = parse_size("8TB")

Stored = tuple[np.ndarray, str]
"""An array and its dtype; bfloat16 as its bits."""


@dataclass(frozen=True, slots=True)
class Share:
    """One process's rows of a tensor.

    Args:
        shape: Shape of the whole tensor.
        rows: Number of rows, along the first dimension; 1 for a tensor without dimensions.
    """

    shape: tuple[int, ...]
    dtype: str
    rows: int


def write_rows(folder: Path, rank: int, tensors: Iterable[Tensor]) -> None:
    """Write a process's rows.

    Raises:
        ConjoinError: they cannot be written.
    """
    form = Form(f"process-{rank}", "safetensors", ("pt",))
    (folder / FOLDER).mkdir(exist_ok=True)
    write_tensors(Staging(folder / FOLDER, folder / FOLDER), tensors, max_shard_bytes=_ONE_FILE, form=form)


def write_index(folder: Path, shares: Sequence[Mapping[str, Share]]) -> None:
    """Write the index: which rows are in which file.

    Args:
        shares: Those of every process, by rank.
    """
    table: dict[str, Any] = {}
    for rank, held in enumerate(shares):
        for name, share in held.items():
            entry = table.setdefault(name, {"shape": list(share.shape), "dtype": share.dtype, "rows": []})
            entry["rows"].append([f"process-{rank}.safetensors", share.rows])
    write_json(folder / FOLDER / INDEX, {"processes": len(shares), "tensors": table})


class Pieces(Mapping[str, Stored]):
    """The whole tensors of a folder of shards, each concatenated when it is read.

    Raises:
        DamagedCheckpoint: index and files do not make whole tensors.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FOLDER / INDEX
        self._parts = _parts(read_json(self._path).get("tensors"), self._path)
        names = sorted({name for part in self._parts.values() for name, _ in part.rows})
        with contextlib.ExitStack() as opened:
            self._files = {name: opened.enter_context(open_checkpoint(folder / FOLDER / name)) for name in names}
            for name in self._parts:
                self._check(name)
            self._opened = opened.pop_all()

    def _check(self, name: str) -> None:
        part = self._parts[name]
        for file, rows in part.rows:
            found = self._files[file].get(name)
            expected = (rows, *part.shape[1:]) if part.shape else ()
            if found is None or (found.shape, found.dtype) != (expected, part.dtype):
                has = "is not there" if found is None else f"is {found.dtype} of shape {list(found.shape)}"
                raise DamagedCheckpoint(
                    f"{self._path.parent / file}: {name} {has}; its index says {part.dtype} of shape {list(expected)}."
                )

    def __getitem__(self, name: str) -> Stored:
        part = self._parts[name]
        arrays = [self._files[file].array(name) for file, _ in part.rows]
        return (np.concatenate(arrays) if part.shape else np.array(arrays[0])), part.dtype

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def close(self) -> None:
        """Close the files."""
        self._opened.close()


class Whole(Mapping[str, Stored]):
    """The tensors of one file, each copied when it is read."""

    def __init__(self, held: Checkpoint) -> None:
        self._held = held

    def __getitem__(self, name: str) -> Stored:
        if name not in self._held:
            raise KeyError(name)
        return np.array(self._held.array(name)), self._held[name].dtype

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def close(self) -> None:
        """Close the file."""
        self._held.close()


@dataclass(frozen=True, slots=True)
class _Part:
    shape: tuple[int, ...]
    dtype: str
    rows: list[tuple[str, int]]


def _parts(table: Any, path: Path) -> dict[str, _Part]:
    """Parse and check the index."""
    if not isinstance(table, dict):
        raise DamagedCheckpoint(f"{path}: tensors = {shown(table)}; expected an object.")
    return {name: _part(entry, name, path) for name, entry in cast("dict[str, Any]", table).items()}


def _part(entry: Any, name: str, path: Path) -> _Part:
    try:
        shape, dtype, rows = entry["shape"], entry["dtype"], entry["rows"]
        found = _Part(tuple(map(_count, shape)), str(dtype), [(_file(file), _count(rows)) for file, rows in rows])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(f"{path}: {shown(name)} is no entry of an index: {error}.") from None
    files = [file for file, _ in found.rows]
    if len(set(files)) < len(files) or sum(rows for _, rows in found.rows) != (shape[0] if shape else 1):
        raise DamagedCheckpoint(f"{path}: the rows of {shown(name)} do not make a tensor of shape {shown(shape)}.")
    return found


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{shown(value)} is no number of rows")
    return value


def _file(name: Any) -> str:
    if not isinstance(name, str) or not _FILE.fullmatch(name):
        raise ValueError(f"{shown(name)} is no file of shards")
    return name
