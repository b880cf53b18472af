"""Writing models: canonical parameters under the names that transformers reads, in the files that PyTorch writes."""

from collections.abc import Iterator

import numpy as np

from conjoin.checkpoint import NameTable, Staging, parse_size, write_tensors
from conjoin.configuration import EncoderDecoderConfig
from conjoin.join import pair_names, shared_names
from conjoin.pretrained.dtypes import as_bits
from conjoin.pretrained.model import JoinedModel


def write_pair(
    model: JoinedModel,
    staging: Staging,
    arrays: dict[str, np.ndarray],
    *,
    max_shard_size: int | str = "5GB",
    untied: bool = False,
) -> None:
    """Write a joined pair into a staging folder; other files in it are left alone.

    Args:
        arrays: All parameters, shared ones under every name.
    """
    arrays = dict(arrays)
    config = model.config_to_save(arrays["decoder.embed.words.weight"].dtype.name, arrays)
    if untied and isinstance(config, EncoderDecoderConfig):
        config.share = "none"
    else:
        for name in shared_names(model.spec):
            del arrays[f"decoder.{name}"]
    stored = _stored(arrays, pair_names(model.config, model.spec))
    write_tensors(staging, stored, max_shard_bytes=parse_size(max_shard_size))
    model.save_settings(staging, config)


def _stored(arrays: dict[str, np.ndarray], table: NameTable) -> Iterator[tuple[str, np.ndarray, str]]:
    """Yield the name, array and dtype of every tensor of the checkpoint."""
    for undo in table.undo(arrays):
        dtype = arrays[undo.canonical[0]].dtype.name
        # numpy lacks bfloat16 and float8, so layouts are changed on bits.
        yield undo.name, undo(*(as_bits(arrays[name]) for name in undo.canonical)), dtype
