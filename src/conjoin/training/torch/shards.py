"""The optimizer of a sharded model: every process writes its rows, any number of processes reads them (pieces.py)."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from conjoin.checkpoint import Staging, replacing_folder
from conjoin.checkpoint import Tensor as Named
from conjoin.training.folder.moments import OPTIMIZER
from conjoin.training.folder.pieces import FOLDER, Share, Stored, write_index, write_rows
from conjoin.training.torch.sharding import rows_of
from conjoin.training.torch.trained import TrainedModel
from conjoin.training.torch.world import World


def save_shards(trained: TrainedModel, folder: Path) -> None:
    """Write this process's rows of moments and average; every process must call it."""
    held: dict[str, Share] = {}
    write_rows(folder, trained.world.rank, _noted(_rows(trained), held))
    shares = trained.world.gather(held)
    trained.world.on_first(lambda: write_index(folder, shares))


def _noted(rows: Iterator[tuple[Named, Share]], held: dict[str, Share]) -> Iterator[Named]:
    for tensor, share in rows:
        held[tensor[0]] = share
        yield tensor


def _rows(trained: TrainedModel) -> Iterator[tuple[Named, Share]]:
    """Yield this process's rows; tensors that are not sharded belong to the first process."""
    states = trained.optimizing.optimizer.state
    tensors = [(f"average/{name}", each) for name, each in (trained.average.shadow if trained.average else {}).items()]
    for name, parameter in trained.parameters.items():
        state = states.get(parameter, {})
        if trained.world.first:
            count = np.array(int(state["step"]) if state else 0, np.int64)
            yield (f"updates/{name}", count, "int64"), Share((), "int64", 1)
        if state:
            tensors += [(f"first/{name}", state["exp_avg"]), (f"second/{name}", state["exp_avg_sq"])]
    for name, tensor in tensors:
        if isinstance(tensor, DTensor):
            start, end = rows_of(tensor)
            yield from _share(name, tensor.to_local(), tuple(tensor.shape), end - start)
        elif trained.world.first:
            yield from _share(name, tensor, tuple(tensor.shape), len(tensor) if tensor.dim() else 1)


def stored(tensor: Tensor) -> Stored:
    """Return a tensor as files hold it."""
    tensor = tensor.detach().cpu().contiguous()
    bits = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    return bits.numpy(), str(tensor.dtype).removeprefix("torch.")


def _share(name: str, local: Tensor, shape: tuple[int, ...], rows: int) -> Iterator[tuple[Named, Share]]:
    """Yield this process's rows, if it has some."""
    assert not shape or len(local) == rows
    if rows:
        array, dtype = stored(local)
        yield (name, array, dtype), Share(shape, dtype, rows)


@contextmanager
def staged_by_all(world: World, folder: Path) -> Generator[Staging | Path]:
    """Let all processes write into one `replacing_folder`; the first one gets the staging and puts it in place."""
    if not world.many:
        with replacing_folder(folder) as staging:
            _clear(staging)
            yield staging
        return
    holder = replacing_folder(folder) if world.first else None
    staging = holder.__enter__() if holder is not None else None
    if staging is not None:
        _clear(staging)
    path = Path(world.from_first(str(staging.folder) if staging is not None else ""))
    error: Exception | None = None
    try:
        yield path if staging is None else staging
    except Exception as own:
        error = own
    error = next((each for each in world.gather(error) if each is not None), None)
    if holder is not None and error is not None:
        holder.__exit__(type(error), error, error.__traceback__)
    elif holder is not None:
        holder.__exit__(None, None, None)
    world.from_first(None)
    if error is not None:
        raise error


def _clear(staging: Staging) -> None:
    """Remove what a checkpoint of another kind of run, or of more processes, left there."""
    staging.remove(FOLDER)
    staging.remove(OPTIMIZER.file)
