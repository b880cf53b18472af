"""AdamW's state as a file that every framework reads: moments and averages under the parameters' canonical names.

`optimizer.safetensors` holds `updates/NAME` for every trained parameter, `first/NAME` and `second/NAME` for those that
had an update, and `average/NAME` if there is a moving average.
"""

from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint import Form, Staging, Tensor, nonfinite, open_checkpoint, parse_size, write_tensors
from conjoin.errors import TrainingError, shown
from conjoin.training.folder.pieces import FOLDER, INDEX, Pieces, Stored, Whole
from conjoin.training.folder.state import DamagedCheckpoint

PARTS = ("updates", "first", "second", "average")
_MOST_UPDATES = 1 << 31
"""JAX counts them in 32 bits."""

OPTIMIZER = Form("optimizer", "safetensors", ("pt",))
_ONE_FILE = parse_size("8TB")

Kind = tuple[tuple[int, ...], str]
"""A parameter's shape and dtype."""


@dataclass(frozen=True, slots=True)
class Moments:
    """AdamW's state by parameter name.

    Args:
        updates: Number of updates of each trained parameter.
        first, second: Means of gradients and of their squares, for parameters that had an update.
        average: Moving average of the weights; None without.
    """

    updates: Mapping[str, int]
    first: Mapping[str, Stored]
    second: Mapping[str, Stored]
    average: Mapping[str, Stored] | None


def write_moments(staging: Staging, moments: Moments) -> None:
    """Write the file of a checkpoint.

    Raises:
        ConjoinError: it cannot be written.
    """
    write_tensors(staging, as_tensors(moments), max_shard_bytes=_ONE_FILE, form=OPTIMIZER)
    staging.remove(FOLDER)


def as_tensors(moments: Moments) -> Iterator[Tensor]:
    """Yield every tensor of the file."""
    for name, count in moments.updates.items():
        yield f"updates/{name}", np.array(count, np.int64), "int64"
    parts = {"first": moments.first, "second": moments.second, "average": moments.average or {}}
    for part, held in parts.items():
        for name, (array, dtype) in held.items():
            yield f"{part}/{name}", array, dtype


@contextmanager
def open_moments(folder: Path, trained: Mapping[str, Kind], *, averaged: bool) -> Generator[Moments]:
    """Open the moments of a checkpoint, checked; each is read when it is used, from one file or from shards.

    Args:
        trained: The parameters that this run trains, with their shapes and dtypes.
        averaged: True if it keeps a moving average.

    Raises:
        TrainingError: there is no such file, it cannot be read or holds what no optimizer writes, or it belongs to a
            run that trains other parameters.
    """
    path, table = _opened(folder)
    try:
        moments = _sorted(path, table)
        _check_fit(folder, moments, set(trained), averaged)
        _check_whole(path, moments, trained)
        yield moments
    except (OSError, ValueError) as error:
        if isinstance(error, TrainingError):
            raise
        raise _unreadable(path, error) from error
    finally:
        table.close()


def _opened(folder: Path) -> tuple[Path, Pieces | Whole]:
    """Open the one file if there is one, else the shards."""
    path, index = folder / OPTIMIZER.file, folder / FOLDER / INDEX
    try:
        if path.is_file():
            return path, Whole(open_checkpoint(path))
        if index.is_file():
            return index, Pieces(folder)
    except (OSError, ValueError) as error:
        raise _unreadable(path if path.is_file() else index, error) from error
    raise _no_file(folder)


def check_readable(folder: Path) -> None:
    """Read and check the moments of a checkpoint, whichever run they belong to.

    Raises:
        TrainingError: they are damaged.
    """
    path, table = _opened(folder)
    try:
        moments = _sorted(path, table)
        for part in (moments.first, moments.second, moments.average or {}):
            for name in part:
                _check_numbers(path, f"{name}", *part[name], squares=part is moments.second)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    finally:
        table.close()


def _unreadable(path: Path, error: Exception) -> DamagedCheckpoint:
    what = str(error).partition("\n")[0].removesuffix(".")
    return DamagedCheckpoint(f"{path}: cannot be read: {what}.")


def _no_file(folder: Path) -> TrainingError:
    if (folder / FOLDER).is_dir():
        return DamagedCheckpoint(
            f"{folder}: its optimizer is in shards without an {INDEX}. An older conjoin wrote such shards as pickles, "
            "which may run programs and are not read.",
            hint="begin a new run from its weights: --model with this folder, and another --out.",
        )
    return DamagedCheckpoint(
        f"{folder} holds no {OPTIMIZER.file}: the state of the optimizer is missing.",
        hint="begin a new run from its weights: --model with this folder, and another --out.",
    )


class _Part(Mapping[str, Stored]):
    """The tensors under one prefix."""

    def __init__(self, table: Mapping[str, Stored], prefix: str, names: Collection[str]) -> None:
        self._table, self._prefix, self._names = table, prefix, dict.fromkeys(names)

    def __getitem__(self, name: str) -> Stored:
        return self._table[f"{self._prefix}/{name}"]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _sorted(path: Path, table: Mapping[str, Stored]) -> Moments:
    names: dict[str, list[str]] = {part: [] for part in PARTS}
    for full in table:
        part, _, name = full.partition("/")
        if part not in names:
            raise DamagedCheckpoint(f"{path}: {shown(full)} is nothing that an optimizer keeps.")
        names[part].append(name)
    updates, first, second, average = (_Part(table, part, names[part]) for part in PARTS)
    counts = {name: _count(path, name, *stored) for name, stored in updates.items()}
    return Moments(counts, first, second, average if names["average"] else None)


def _count(path: Path, name: str, array: NDArray[Any], dtype: str) -> int:
    count = int(array) if array.shape == () and dtype == "int64" else -1
    if not 0 <= count < _MOST_UPDATES:
        raise DamagedCheckpoint(f"{path}: updates/{name} is no number of updates.")
    return count


def _check_fit(folder: Path, moments: Moments, trained: set[str], averaged: bool) -> None:
    if averaged != (moments.average is not None):
        raise TrainingError(
            f"{folder}: its optimizer does not fit this run: ema_decay was set in one of the two, not in the other.",
            hint="resume with the settings of the run's recipe.yaml.",
        )
    if odd := sorted(trained ^ set(moments.updates)):
        only = "this run" if odd[0] in trained else "the checkpoint's"
        raise TrainingError(
            f"{folder}: its optimizer does not fit this run: {odd[0]} is trained by {only} only (one of {len(odd)}).",
            hint="resume with the settings of the run's recipe.yaml: freeze, model and share among them.",
        )


def _check_whole(path: Path, moments: Moments, trained: Mapping[str, Kind]) -> None:
    """Check every moment's name, shape, dtype and numbers, which the optimizer's kernels trust."""
    updated = {name for name, count in moments.updates.items() if count}
    parts = {"first": moments.first, "second": moments.second, "average": moments.average}
    for part, held in parts.items():
        if held is None:
            continue
        if odd := sorted((set(trained) if part == "average" else updated) ^ set(held)):
            has = "is there, though its parameter had no update" if odd[0] in held else "is missing"
            raise DamagedCheckpoint(f"{path}: {part}/{odd[0]} {has} (one of {len(odd)}).")
        for name in held:
            array, dtype = held[name]
            shape, wanted = trained[name]
            if (array.shape, dtype) != (shape, wanted):
                raise DamagedCheckpoint(
                    f"{path}: {part}/{name} is {dtype} of shape {list(array.shape)}; "
                    f"its parameter is {wanted} of shape {list(shape)}.",
                    hint="resume with the dtype and the model of the run's recipe.yaml." if dtype != wanted else None,
                )
            _check_numbers(path, f"{part}/{name}", array, dtype, squares=part == "second")


def _check_numbers(path: Path, name: str, array: NDArray[Any], dtype: str, *, squares: bool) -> None:
    if count := nonfinite(array, dtype):
        raise DamagedCheckpoint(f"{path}: {name} holds {count} numbers that are NaN or infinite.")
    if squares and (count := _negative(array, dtype)):
        raise DamagedCheckpoint(f"{path}: {name} holds {count} negative numbers; means of squares have none.")


def _negative(array: NDArray[Any], dtype: str) -> int:
    return int(np.count_nonzero(array > (1 << 15) if dtype == "bfloat16" else array < 0))
