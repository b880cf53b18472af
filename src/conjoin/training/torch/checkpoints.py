"""Checkpoints of a run: model, optimizer, average, random states and progress, in one folder that appears whole."""

import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from conjoin.checkpoint import Staging, replacing_folder, write_json
from conjoin.errors import ConjoinError, FileError, TrainingError
from conjoin.torch.model import EncoderDecoderModel
from conjoin.torch.pretrained import plain_state
from conjoin.torch.saving import write_pair
from conjoin.training.run_folder import STATE_FILE, Checkpoint, RunFolder, as_training_error
from conjoin.training.state import TrainerState
from conjoin.training.torch.engine import Engine
from conjoin.training.torch.sharding import copy_into, whole_state
from conjoin.training.torch.world import World

OPTIMIZER_FILE = "optimizer.pt"
RANDOM_FILE = "random.pt"
SHARDS = "shards"


def save_checkpoint(run: RunFolder, engine: Engine, state: TrainerState) -> Path:
    """Write the checkpoint of a step: whole, or not at all.

    Raises:
        TrainingError: the disk is full, or the folder cannot be written; checkpoints before are as they were.
    """
    states = engine.world.gather(random_state(engine.world))
    folder = run.checkpoint(state.global_step)
    write = _write_sharded if engine.arguments.fsdp != "none" else _write_whole
    try:
        write(engine, folder, states, state)
    except ConjoinError as error:
        raise as_training_error(error, run, state.global_step) from error
    return folder


def _write_whole(engine: Engine, folder: Path, states: list[Any], state: TrainerState) -> None:
    def write() -> None:
        with replacing_folder(folder) as staging:
            write_pair(engine.model, staging)
            _save(staging, OPTIMIZER_FILE, _optimizer_state(engine))
            _save(staging, RANDOM_FILE, states)
            write_json(staging / STATE_FILE, state.to_dict())

    engine.world.on_first(write)


def _write_sharded(engine: Engine, folder: Path, states: list[Any], state: TrainerState) -> None:
    from conjoin.training.torch.shards import save_shards, staged_by_all

    weights = whole_state(engine.model, engine.world)
    with staged_by_all(engine.world, folder) as staging:
        save_shards(engine, Path(staging))
        if isinstance(staging, Staging):
            write_pair(engine.model, staging, state=weights)
            _save(staging, RANDOM_FILE, states)
            write_json(staging / STATE_FILE, state.to_dict())


def _optimizer_state(engine: Engine) -> dict[str, Any]:
    return {
        "optimizer": engine.optimizing.optimizer.state_dict(),
        "scaler": engine.scaler.state_dict(),
        "average": None if engine.average is None else engine.average.shadow,
    }


def _save(staging: Staging, name: str, value: Any) -> None:
    try:
        torch.save(value, staging / name)
    except RuntimeError as error:  # what torch's own writer makes of a full disk
        raise FileError(f"{name} cannot be written: {str(error).partition(chr(10))[0]}.") from error


def restore_checkpoint(checkpoint: Checkpoint, engine: Engine) -> None:
    """Put everything back where it was.

    Raises:
        TrainingError: a file of the checkpoint is damaged, or belongs to another model or other settings.
    """
    load_weights(engine.model, checkpoint.folder)
    try:
        _restore_optimizer(engine, checkpoint.folder)
    except (ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, ConjoinError):
            raise
        raise TrainingError(
            f"{checkpoint.folder}: its optimizer does not fit this run: {error}.",
            hint="resume with the settings of the run's recipe.yaml.",
        ) from error
    states = _load(checkpoint.folder / RANDOM_FILE)
    if len(states) == engine.world.size:
        set_random_state(states[engine.world.rank])
    else:
        seed_all(engine.arguments.seed + checkpoint.step, engine.world)


def _restore_optimizer(engine: Engine, folder: Path) -> None:
    """From whichever kind of run wrote it. What reads shards is imported where there are some: it takes a second."""
    if (folder / SHARDS).is_dir():
        from conjoin.training.torch.shards import load_shards

        load_shards(engine, folder)
        return
    saved = _load(folder / OPTIMIZER_FILE)
    if engine.arguments.fsdp != "none":
        from conjoin.training.torch.shards import adopt_whole

        adopt_whole(engine, saved["optimizer"])
    else:
        engine.optimizing.optimizer.load_state_dict(saved["optimizer"])
    if engine.arguments.fp16:
        engine.scaler.load_state_dict(saved["scaler"])
    _restore_average(engine, saved["average"])


def _restore_average(engine: Engine, shadow: dict[str, torch.Tensor] | None) -> None:
    if (engine.average is None) != (shadow is None):
        raise ValueError("ema_decay was set in one of the two, not in the other")
    if engine.average is not None and shadow is not None:
        for name, tensor in engine.average.shadow.items():
            copy_into(tensor, shadow[name])


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
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise TrainingError(f"{path}: cannot be read: {str(error).partition(chr(10))[0]}.") from error


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
