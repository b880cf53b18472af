"""Checkpoints of a run: model, moments, average and progress, in one folder that appears whole."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from conjoin.checkpoint import replacing_folder, write_json
from conjoin.errors import ConjoinError, TrainingError
from conjoin.jax.model import FlaxEncoderDecoderModel
from conjoin.jax.saving import write_pair
from conjoin.training.jax.adamw import Moments
from conjoin.training.jax.engine import Engine
from conjoin.training.run_folder import STATE_FILE, Checkpoint, RunFolder, as_training_error
from conjoin.training.state import TrainerState

OPTIMIZER_FILE = "optimizer.npz"


def save_checkpoint(run: RunFolder, engine: Engine, state: TrainerState) -> Path:
    """Write the checkpoint of a step: whole, or not at all.

    Raises:
        TrainingError: the disk is full, or the folder cannot be written; checkpoints before are as they were.
    """
    folder = run.checkpoint(state.global_step)
    try:
        with replacing_folder(folder) as staging:
            write_pair(engine.model, staging, engine.model.all_params(engine.params))
            np.savez(staging.path(OPTIMIZER_FILE), allow_pickle=False, **_optimizer_arrays(engine))
            write_json(staging / STATE_FILE, state.to_dict())
    except ConjoinError as error:
        raise as_training_error(error, run, state.global_step) from error
    return folder


def restore_checkpoint(checkpoint: Checkpoint, engine: Engine) -> None:
    """Go on from a checkpoint.

    Raises:
        TrainingError: another backend wrote it, or it trains other parameters.
    """
    path = checkpoint.folder / OPTIMIZER_FILE
    if not path.is_file():
        raise TrainingError(
            f"{checkpoint.folder} holds no {OPTIMIZER_FILE}: another framework wrote this checkpoint.",
            hint="resume with the run's own --framework.",
        )
    saved = FlaxEncoderDecoderModel.from_pretrained(checkpoint.folder)
    with np.load(path, allow_pickle=False) as arrays:
        held = {name: jnp.asarray(arrays[name]) for name in arrays.files}
    wanted = _optimizer_arrays(engine)
    if set(held) != set(wanted):
        odd = sorted(set(held) ^ set(wanted))
        raise TrainingError(
            f"{checkpoint.folder} trains other parameters than this run: {odd[0].partition('/')[2]}, for one.",
            hint="resume with the run's own freeze and ema_decay.",
        )
    engine.params = dict(saved.flat_params)
    first, second, average = (_part(held, part) for part in ("first", "second", "average"))
    engine.moments = Moments(first, second)
    engine.average = average or None


def _optimizer_arrays(engine: Engine) -> dict[str, np.ndarray]:
    parts = {"first": engine.moments.first, "second": engine.moments.second, "average": engine.average or {}}
    return {f"{part}/{name}": np.asarray(value) for part, held in parts.items() for name, value in held.items()}


def _part(held: dict[str, jnp.ndarray], part: str) -> dict[str, jnp.ndarray]:
    return {name.removeprefix(f"{part}/"): value for name, value in held.items() if name.startswith(f"{part}/")}
