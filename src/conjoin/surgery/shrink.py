"""Fewer layers: a smaller model whose layers are copies of a trained one's."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from math import prod

from conjoin.checkpoint import Checkpoint, Tensor, open_checkpoint
from conjoin.errors import WeightError, warn
from conjoin.families import KeptLayers, Layers, PretrainedConfig
from conjoin.join import LayerNames, keep_layers_of
from conjoin.surgery.folder import Change, copy_companions, count_numbers, open_model, require_other_folder, write_model


def shrink(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    encoder_layers: Layers | None = None,
    decoder_layers: Layers | None = None,
    max_shard_size: int | str = "5GB",
) -> Change:
    """Write a copy of a model with fewer layers, to be fine-tuned (Shleifer & Rush 2020, arXiv:2010.13002).

    The decoder is what generation spends its time on, and where layers are cheapest to drop. Dtypes, tokenizers and
    generation settings stay.

    Args:
        model: Folder or hub id of a joined pair, a whole seq2seq model (BART, T5) or a single model.
        out: Folder of the new model.
        encoder_layers, decoder_layers: Layers to keep of that half: a number, spread evenly, the first and the last
            among them, or a list of indices from 0. None keeps all. A single model takes the one of its role.
        max_shard_size: Maximum size of a weight file.

    Returns:
        The new folder, and parameters before and after.

    Raises:
        ConfigError, JoinError: there are no such layers, or the model's format cannot hold what would remain.
        FileError, WeightError: the model cannot be read, or the folder cannot be written.

    Example:
        conjoin.shrink("run/model", "small", decoder_layers=3)
    """
    folder, config = open_model(model, "dropping layers")
    out = require_other_folder(out, folder)
    with open_checkpoint(folder) as checkpoint:
        smaller, kept = keep_layers_of(config, set(checkpoint), encoder_layers, decoder_layers)
        names = _new_names(config, smaller, kept, checkpoint)
        before = count_numbers(checkpoint)
        after = sum(prod(checkpoint[name].shape) for name in names)
        write_model(
            out,
            smaller,
            _renamed(checkpoint, names),
            beside=partial(copy_companions, folder),
            max_shard_size=max_shard_size,
        )
    return Change(out, (before, after), tuple(_line(half, prefix) for prefix, half in kept.items()))


def _new_names(
    config: PretrainedConfig, smaller: PretrainedConfig, kept: Mapping[str, KeptLayers], checkpoint: Checkpoint
) -> dict[str, str]:
    """Return old -> new name of the tensors that remain.

    Raises:
        WeightError: no layer's tensors were found in the file.
    """
    layers = LayerNames(config, smaller, kept, set(checkpoint))
    new = {name: layers.new_name(name) for name in checkpoint}
    if not any(layers.is_of_layer(name) for name in checkpoint):
        raise WeightError(
            f"{checkpoint.folder}: no tensor has the name of a layer's; expected a {config.model_type} checkpoint, in "
            "PyTorch's names."
        )
    if unknown := [name for name in checkpoint if new[name] is None and layers.is_unknown(name)]:
        warn(f"{len(unknown)} tensors that conjoin does not use are left out, {unknown[0]} first.")
    return {old: name for old, name in new.items() if name is not None}


def _renamed(checkpoint: Checkpoint, names: Mapping[str, str]) -> Iterator[Tensor]:
    for old, new in names.items():
        yield new, checkpoint.array(old), checkpoint[old].dtype


def _line(half: KeptLayers, prefix: str) -> str:
    kept = ", ".join(map(str, half.layers))
    return f"{prefix.removesuffix('.') or 'model'}: layers {kept} of {half.total} are kept"
