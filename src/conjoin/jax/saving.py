"""Writing models: canonical parameters back under the names that transformers reads; the files that PyTorch writes."""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from conjoin.checkpoint import NameTable, Staging, parse_size, replacing_folder, write_tensors
from conjoin.configuration import EncoderDecoderConfig
from conjoin.families import family
from conjoin.jax.dtypes import as_bits
from conjoin.join import pair_names, shared_names

if TYPE_CHECKING:
    from conjoin.jax.model import FlaxEncoderDecoderModel


def save_pair(
    model: "FlaxEncoderDecoderModel",
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
    model: "FlaxEncoderDecoderModel",
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
    config = model.config.copy(dtype=arrays["decoder.embed.words.weight"].dtype.name)
    if isinstance(config, EncoderDecoderConfig):
        config.architectures = ["EncoderDecoderModel"]
        config.share = "none" if untied else config.share
    elif whole := family(config.model_type).whole:
        config.architectures = [whole.architecture]
    if not untied or not isinstance(config, EncoderDecoderConfig):
        for name in shared_names(model.spec):
            del arrays[f"decoder.{name}"]
    stored = _stored(arrays, pair_names(model.config, model.spec))
    write_tensors(staging, stored, max_shard_bytes=parse_size(max_shard_size))
    model.save_tokenizers(staging)
    model.save_generation_config(staging)
    staging.path("config.json").write_text(config.to_json_string(), encoding="utf-8")


def _stored(arrays: dict[str, np.ndarray], table: NameTable) -> Iterator[tuple[str, np.ndarray, str]]:
    for undo in table.undo(arrays):
        dtype = arrays[undo.canonical[0]].dtype.name
        # Layouts know bits, not the dtypes that numpy itself lacks.
        yield undo.name, undo(*(as_bits(arrays[name]) for name in undo.canonical)), dtype
