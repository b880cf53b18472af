"""AdamW's memory as a file that every framework reads: moments and averages under the parameters' canonical names.

`optimizer.safetensors` holds `updates/NAME` for every trained parameter, `first/NAME` and `second/NAME` for those that
had an update, and `average/NAME` where there is a moving average.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint import Form, Staging, Tensor, open_checkpoint, parse_size, write_tensors
from conjoin.errors import TrainingError
from conjoin.training.state import DamagedCheckpoint

OPTIMIZER = Form("optimizer", "safetensors", ("pt",))
_ONE_FILE = parse_size("8TB")

Stored = tuple[NDArray[Any], str]
"""An array and its dtype; bfloat16 as its bits."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What AdamW keeps, by name.

    Args:
        updates: How many each trained parameter had.
        first, second: Means of gradients and of their squares, where there was an update.
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
    write_tensors(staging, _tensors(moments), max_shard_bytes=_ONE_FILE, form=OPTIMIZER)


def _tensors(moments: Moments) -> Iterator[Tensor]:
    for name, count in moments.updates.items():
        yield f"updates/{name}", np.array(count, np.int64), "int64"
    parts = {"first": moments.first, "second": moments.second, "average": moments.average or {}}
    for part, held in parts.items():
        for name, (array, dtype) in held.items():
            yield f"{part}/{name}", array, dtype


def read_moments(folder: Path, trained: Collection[str], *, averaged: bool) -> Moments:
    """Read the file of a checkpoint.

    Args:
        trained: The parameters that this run trains.
        averaged: Whether it keeps a moving average.

    Raises:
        TrainingError: there is no such file, it cannot be read, or it belongs to a run that trains other parameters.
    """
    path = folder / OPTIMIZER.file
    if not path.is_file():
        raise _no_file(folder)
    try:
        with open_checkpoint(path) as held:
            moments = _sorted({name: (np.array(held.array(name)), held[name].dtype) for name in held})
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{path}: cannot be read: {str(error).partition(chr(10))[0]}.") from error
    _check_fit(folder, moments, set(trained), averaged)
    return moments


def _no_file(folder: Path) -> TrainingError:
    if (folder / "shards").is_dir():
        return TrainingError(
            f"{folder}: its optimizer is in PyTorch's shards (fsdp), which only PyTorch reads.",
            hint="resume with --framework torch and without --fsdp, and stop after a step (Ctrl-C): "
            "the checkpoint that this leaves is for any framework.",
        )
    return DamagedCheckpoint(
        f"{folder} holds no {OPTIMIZER.file}: the state of the optimizer is missing.",
        hint="begin a new run from its weights: --model with this folder, and another --out.",
    )


def _sorted(held: Mapping[str, Stored]) -> Moments:
    parts: dict[str, dict[str, Stored]] = {"updates": {}, "first": {}, "second": {}, "average": {}}
    for full, stored in held.items():
        part, _, name = full.partition("/")
        parts[part][name] = stored
    updates = {name: int(array) for name, (array, _) in parts["updates"].items()}
    return Moments(updates, parts["first"], parts["second"], parts["average"] or None)


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
