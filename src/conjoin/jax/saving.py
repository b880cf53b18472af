"""Writing models: the files that PyTorch's class writes."""

from os import PathLike
from pathlib import Path

import jax
import numpy as np

from conjoin.checkpoint import Staging, replacing_folder
from conjoin.jax.params import ParameterModel
from conjoin.pretrained import writing


def save_pair(
    model: ParameterModel,
    state: dict[str, jax.Array],
    folder: str | PathLike[str],
    *,
    max_shard_size: int | str,
    untied: bool,
) -> None:
    """Write a joined pair as one checkpoint."""
    with replacing_folder(Path(folder)) as staging:
        write_pair(model, staging, state, max_shard_size=max_shard_size, untied=untied)


def write_pair(
    model: ParameterModel,
    staging: Staging,
    state: dict[str, jax.Array],
    *,
    max_shard_size: int | str = "5GB",
    untied: bool = False,
) -> None:
    """Write a joined pair into a folder that is being filled, beside whatever else goes there.

    Args:
        state: Every parameter, shared ones under every name.
    """
    arrays = {name: np.asarray(value) for name, value in state.items()}
    writing.write_pair(model, staging, arrays, max_shard_size=max_shard_size, untied=untied)
