"""Checkpoints of a run: model, optimizer, average and progress, in one folder that appears whole."""

from collections.abc import Mapping
from pathlib import Path

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
from conjoin.training.jax.trained import TrainedModel


def save_checkpoint(trained: TrainedModel, folder: Path, state: TrainerState) -> None:
    """Write the checkpoint of a step: whole, or not at all."""
    with replacing_folder(folder) as staging:
        write_pair(trained.model, staging, trained.model.all_params())
        write_moments(staging, _moments(trained))
        write_json(staging / STATE_FILE, state.to_dict())


def _moments(trained: TrainedModel) -> Saved:
    """Return AdamW's state by name; parameters that had no update yet have none."""
    held = {name for name, count in trained.updates.items() if count}
    first, second = ({name: _stored(value) for name, value in part.items() if name in held} for part in trained.moments)
    average = None if trained.average is None else {name: _stored(value) for name, value in trained.average.items()}
    return Saved(trained.updates, first, second, average)


def _stored(value: jax.Array) -> Stored:
    array = np.asarray(value)
    return as_bits(array), array.dtype.name


def restore_checkpoint(trained: TrainedModel, folder: Path) -> None:
    """Load weights and optimizer of a checkpoint.

    Raises:
        TrainingError: it does not fit, or cannot be read.
    """
    trained.model.params = params = load_weights(trained.model, folder)
    kinds = {name: (params[name].shape, params[name].dtype.name) for name in trained.parameters}
    with open_moments(folder, kinds, averaged=trained.average is not None) as saved:
        trained.updates = dict(saved.updates)
        trained.moments = Moments(*(_like(part, zeros, params) for part, zeros in _pairs(trained, saved)))
        if saved.average is not None:
            trained.average = _like(saved.average, trained.average or {}, params)


def _pairs(trained: TrainedModel, saved: Saved) -> list[tuple[Mapping[str, Stored], Arrays]]:
    return [(saved.first, trained.moments.first), (saved.second, trained.moments.second)]


def _like(saved: Mapping[str, Stored], zeros: Arrays, params: Arrays) -> Arrays:
    """Return saved moments in the parameters' dtype; zeros for a parameter that had no update yet."""
    loaded = {name: jnp.asarray(with_meaning(*stored), params[name].dtype) for name, stored in saved.items()}
    return {name: loaded[name] if name in loaded else jnp.zeros_like(value) for name, value in zeros.items()}


def load_weights(model: FlaxEncoderDecoderModel, folder: Path) -> Arrays:
    """Load a saved model's weights, in this model's dtype and on its device."""
    ours, saved = model.flat_params, FlaxEncoderDecoderModel.from_pretrained(folder).flat_params
    if {n: x.shape for n, x in ours.items()} != {n: x.shape for n, x in saved.items()}:
        raise TrainingError(
            f"{folder} holds another model than the one to be trained.", hint="resume with the run's own model."
        )
    return {name: jax.device_put(saved[name].astype(x.dtype), x.sharding) for name, x in ours.items()}
