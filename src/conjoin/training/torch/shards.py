"""The optimizer of a sharded model: every process writes its part, any number of processes reads it."""

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from conjoin.checkpoint import Staging, replacing_folder
from conjoin.training.torch.checkpoints import SHARDS
from conjoin.training.torch.engine import Engine
from conjoin.training.torch.world import World


def save_shards(engine: Engine, folder: Path) -> None:
    """Write this process's part of optimizer and average; every process must call it."""
    state_dict_saver.save(_template(engine), checkpoint_id=folder / SHARDS)


def load_shards(engine: Engine, folder: Path) -> None:
    """Read this process's part, whoever wrote it; every process must call it."""
    state = _template(engine)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process may read them too
        state_dict_loader.load(state, checkpoint_id=folder / SHARDS)
    set_optimizer_state_dict(engine.model, engine.optimizing.optimizer, state["optimizer"])


def _template(engine: Engine) -> dict[str, Any]:
    """What is saved, by parameter names; loading fills its tensors in place."""
    average = {} if engine.average is None else {"average": engine.average.shadow}
    return {"optimizer": get_optimizer_state_dict(engine.model, engine.optimizing.optimizer)} | average


def adopt_whole(engine: Engine, states: dict[str, Any]) -> None:
    """Give a sharded model's optimizer the state of one that was not sharded.

    Args:
        states: By the parameters' names.
    """
    names = {id(parameter): name for name, parameter in engine.trained.items()}
    groups = engine.optimizing.optimizer.param_groups
    by_name = {
        "state": states,
        "param_groups": [g | {"params": [names[id(parameter)] for parameter in g["params"]]} for g in groups],
    }
    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(engine.model, engine.optimizing.optimizer, by_name, options=options)


@contextmanager
def staged_by_all(world: World, folder: Path) -> Generator[Staging | Path]:
    """`replacing_folder` that all processes write into; the first one, which gets the staging, puts it in place."""
    if not world.many:
        with replacing_folder(folder) as staging:
            yield staging
        return
    holder = replacing_folder(folder) if world.first else None
    staging = holder.__enter__() if holder is not None else None
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
