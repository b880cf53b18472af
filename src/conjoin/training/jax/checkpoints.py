"""Checkpoints of a run: model, optimizer, average and progress, in one folder that appears whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from conjoin.checkpoint import replacing_folder, write_json
from conjoin.errors import TrainingError
from conjoin.jax.model import FlaxEncoderDecoderModel
from conjoin.jax.saving import write_pair
from conjoin.pretrained.dtypes import as_bits, with_meaning
from conjoin.training.folder.moments import Moments as Saved
from conjoin.training.folder.moments import open_moments, write_moments
from conjoin.training.folder.pieces import Stored
from conjoin.training.folder.run_folder import STATE_FILE
from conjoin.training.folder.state import TrainerState
from conjoin.training.jax.adamw import Arrays, Moments

if TYPE_CHECKING:
    from conjoin.training.jax.engine import Engine


def save_checkpoint(engine: "Engine", folder: Path, state: TrainerState) -> None:
    """Write the checkpoint of a step: whole, or not at all."""
    with replacing_folder(folder) as staging:
        write_pair(engine.model, staging, engine.model.all_params())
        write_moments(staging, _moments(engine))
        write_json(staging / STATE_FILE, state.to_dict())


def _moments(engine: "Engine") -> Saved:
    """AdamW's state by name. Parameters that had no update yet have none."""
    held = {name for name, count in engine.updates.items() if count}
    first, second = ({name: _stored(value) for name, value in part.items() if name in held} for part in engine.moments)
    average = None if engine.average is None else {name: _stored(value) for name, value in engine.average.items()}
    return Saved(engine.updates, first, second, average)


def _stored(value: jax.Array) -> Stored:
    array = np.asarray(value)
    return as_bits(array), array.dtype.name


def restore_checkpoint(engine: "Engine", folder: Path) -> None:
    """Go on from a checkpoint.

    Raises:
        TrainingError: it does not fit, or cannot be read.
    """
    engine.model.params = params = _weights(engine.model, folder)
    kinds = {name: (params[name].shape, params[name].dtype.name) for name in engine.trained}
    with open_moments(folder, kinds, averaged=engine.average is not None) as saved:
        engine.updates = dict(saved.updates)
        engine.moments = Moments(*(_like(part, filled, params) for part, filled in _pairs(engine, saved)))
        if saved.average is not None:
            engine.average = _like(saved.average, engine.average or {}, params)


def _pairs(engine: "Engine", saved: Saved) -> list[tuple[Mapping[str, Stored], Arrays]]:
    return [(saved.first, engine.moments.first), (saved.second, engine.moments.second)]


def _like(saved: Mapping[str, Stored], now: Arrays, params: Arrays) -> Arrays:
    """What was saved, in the parameters' dtype; zeros where a parameter had no update yet."""
    read = {name: jnp.asarray(with_meaning(*stored), params[name].dtype) for name, stored in saved.items()}
    return {name: read[name] if name in read else jnp.zeros_like(value) for name, value in now.items()}


def _weights(model: FlaxEncoderDecoderModel, folder: Path) -> Arrays:
    """A saved model's weights, in this model's dtype and on its device."""
    ours, saved = model.flat_params, FlaxEncoderDecoderModel.from_pretrained(folder).flat_params
    if {n: x.shape for n, x in ours.items()} != {n: x.shape for n, x in saved.items()}:
        raise TrainingError(
            f"{folder} holds another model than the one to be trained.", hint="resume with the run's own model."
        )
    return {name: jax.device_put(saved[name].astype(x.dtype), x.sharding) for name, x in ours.items()}
