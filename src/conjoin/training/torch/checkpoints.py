"""Checkpoints of a run: model, optimizer, average, random states and progress, in one folder that appears whole."""

import random
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from conjoin.checkpoint import Staging, read_json, replacing_folder, write_json
from conjoin.errors import ConjoinError, FileError, TrainingError
from conjoin.torch.model import EncoderDecoderModel
from conjoin.torch.pretrained import plain_state
from conjoin.torch.saving import write_pair
from conjoin.training.moments import Moments, Stored, read_moments, write_moments
from conjoin.training.run_folder import STATE_FILE
from conjoin.training.state import DamagedCheckpoint, TrainerState
from conjoin.training.torch.sharding import copy_into, whole_state
from conjoin.training.torch.world import World

if TYPE_CHECKING:
    from conjoin.training.torch.engine import Engine

RANDOM_FILE = "random.pt"
SCALE_FILE = "loss_scale.json"
SHARDS = "shards"


def save_checkpoint(engine: "Engine", folder: Path, state: TrainerState) -> None:
    """Write the checkpoint of a step: whole, or not at all; every process must call it."""
    states = engine.world.gather(random_state(engine.world))
    write = _write_sharded if engine.arguments.fsdp != "none" else _write_whole
    write(engine, folder, states, state)


def _write_whole(engine: "Engine", folder: Path, states: list[Any], state: TrainerState) -> None:
    def write() -> None:
        with replacing_folder(folder) as staging:
            write_pair(engine.model, staging)
            write_moments(staging, _moments(engine))
            if engine.arguments.fp16:
                write_json(staging / SCALE_FILE, engine.scaler.state_dict())
            _save(staging, RANDOM_FILE, states)
            write_json(staging / STATE_FILE, state.to_dict())

    engine.world.on_first(write)


def _write_sharded(engine: "Engine", folder: Path, states: list[Any], state: TrainerState) -> None:
    from conjoin.training.torch.shards import save_shards, staged_by_all

    weights = whole_state(engine.model, engine.world)
    with staged_by_all(engine.world, folder) as staging:
        save_shards(engine, Path(staging))
        if isinstance(staging, Staging):
            write_pair(engine.model, staging, state=weights)
            _save(staging, RANDOM_FILE, states)
            write_json(staging / STATE_FILE, state.to_dict())


def _moments(engine: "Engine") -> Moments:
    """AdamW's state by name. Parameters that had no update yet have none."""
    states = engine.optimizing.optimizer.state
    held = {name: states[parameter] for name, parameter in engine.trained.items() if parameter in states}
    average = None if engine.average is None else engine.average.shadow
    return Moments(
        updates={name: int(held[name]["step"]) if name in held else 0 for name in engine.trained},
        first={name: _stored(state["exp_avg"]) for name, state in held.items()},
        second={name: _stored(state["exp_avg_sq"]) for name, state in held.items()},
        average=None if average is None else {name: _stored(tensor) for name, tensor in average.items()},
    )


def _stored(tensor: Tensor) -> Stored:
    tensor = tensor.detach().cpu().contiguous()
    bits = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    return bits.numpy(), str(tensor.dtype).removeprefix("torch.")


def _tensor(stored: Stored) -> Tensor:
    array, dtype = stored
    return torch.from_numpy(array).view(getattr(torch, dtype))


def _save(staging: Staging, name: str, value: Any) -> None:
    try:
        torch.save(value, staging / name)
    except RuntimeError as error:  # what torch's own writer makes of a full disk
        raise FileError(f"{name} cannot be written: {str(error).partition(chr(10))[0]}.") from error


def restore_checkpoint(engine: "Engine", folder: Path, step: int) -> None:
    """Go on from a checkpoint. One of another framework has no random states; they are seeded by its step then.

    Raises:
        TrainingError: it does not fit, or cannot be read.
    """
    load_weights(engine.model, folder)
    try:
        _restore_optimizer(engine, folder)
    except (ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, ConjoinError):
            raise
        raise TrainingError(
            f"{folder}: its optimizer does not fit this run: {error}.",
            hint="resume with the settings of the run's recipe.yaml.",
        ) from error
    states = _load(folder / RANDOM_FILE) if (folder / RANDOM_FILE).is_file() else ()
    if len(states) == engine.world.size:
        set_random_state(states[engine.world.rank])
    else:
        seed_all(engine.arguments.seed + step, engine.world)


def _restore_optimizer(engine: "Engine", folder: Path) -> None:
    """From whichever kind of run wrote it. What reads shards is imported where there are some: it takes a second."""
    if (folder / SHARDS).is_dir():
        from conjoin.training.torch.shards import load_shards

        load_shards(engine, folder)
        return
    saved = read_moments(folder, engine.trained, averaged=engine.average is not None)
    adopt(engine, saved)
    if engine.arguments.fp16 and (folder / SCALE_FILE).is_file():
        engine.scaler.load_state_dict(read_json(folder / SCALE_FILE))
    if engine.average is not None and saved.average is not None:
        with torch.no_grad():
            for name, tensor in engine.average.shadow.items():
                copy_into(tensor, _tensor(saved.average[name]))


def adopt(engine: "Engine", saved: Moments) -> None:
    """Give the optimizer the moments of a file; settings stay this run's."""
    optimizer = engine.optimizing.optimizer
    states: dict[str, Any] = {
        name: {
            "step": torch.tensor(float(saved.updates[name])),
            "exp_avg": _tensor(first),
            "exp_avg_sq": _tensor(saved.second[name]),
        }
        for name, first in saved.first.items()
    }
    if engine.arguments.fsdp != "none":
        from conjoin.training.torch.shards import adopt_whole

        adopt_whole(engine, states)
        return
    names = {id(parameter): name for name, parameter in engine.trained.items()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    by_number = {number: states[name] for number, name in enumerate(order) if name in states}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": by_number})


def load_weights(model: EncoderDecoderModel, folder: Path) -> None:
    """Fill a model with a saved one's weights."""
    saved = plain_state(EncoderDecoderModel.from_pretrained(folder, dtype=model.dtype))
    ours = plain_state(model)
    if {n: t.shape for n, t in ours.items()} != {n: t.shape for n, t in saved.items()}:
        raise TrainingError(
            f"{folder} holds another model than the one to be trained.", hint="resume with the run's own model."
        )
    with torch.no_grad():
        for name, tensor in ours.items():
            copy_into(tensor, saved[name])


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise DamagedCheckpoint(f"{path}: cannot be read: {str(error).partition(chr(10))[0]}.") from error


def random_state(world: World) -> dict[str, Any]:
    """Every generator that training may use."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, cast("Any", keys).tolist(), position, has_gauss, gauss),
    }
    return found | ({"cuda": torch.cuda.get_rng_state(world.device)} if world.device.type == "cuda" else {})


def set_random_state(state: dict[str, Any]) -> None:
    """Put every generator back."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed_all(seed: int, world: World) -> None:
    """Start every generator; each process its own way, or all would drop out alike."""
    torch.manual_seed(seed * world.size + world.rank)
    random.seed(seed)
    np.random.seed(seed % 2**32)
