"""The mean of several checkpoints' weights: the last ones of a run (Vaswani et al. 2017, 6.1), or several runs'."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint import Checkpoint, Tensor, from_float32, open_checkpoint, to_float32
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConfigError, WeightError, listing
from conjoin.families import PretrainedConfig
from conjoin.surgery.folder import Change, copy_companions, count_numbers, open_model, require_other_folder, write_model

FLOATS = ("float64", "float32", "bfloat16", "float16")


def average_checkpoints(
    models: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    max_shard_size: int | str = "5GB",
) -> Change:
    """Write the mean of several models' weights as one model.

    They must be the same model at several steps of a run, or runs that started from the same weights: the mean of
    models that learned apart from different starts means nothing.

    Args:
        models: Folders or hub ids, checkpoints of runs too; two or more. Tokenizers and settings are the last one's.
        out: Folder of the new model.
        weights: Weight of each model; equal by default. Their sum is taken as 1.
        max_shard_size: Maximum size of a weight file.

    Returns:
        The new folder.

    Raises:
        ConfigError: fewer than two models, models of different shapes, or weights that cannot be used.
        WeightError: tensors that one has and another has not.

    Example:
        conjoin.average_checkpoints(["run/checkpoint-800", "run/checkpoint-1000"], "averaged")
    """
    if len(models) < 2:
        raise ConfigError(f"{len(models)} checkpoint to average; expected two or more.")
    shares = _shares(weights, len(models))
    opened = [open_model(name, "averaging") for name in models]
    out = require_other_folder(out, *(folder for folder, _ in opened))
    _require_same_model([config for _, config in opened], list(map(str, models)))
    last_folder, config = opened[-1]
    if isinstance(config, EncoderDecoderConfig):
        fresh = [set(other.fresh) for _, other in opened if isinstance(other, EncoderDecoderConfig)]
        config.fresh = sorted(set[str].intersection(*fresh))
    with ExitStack() as files:
        checkpoints = [files.enter_context(open_checkpoint(folder)) for folder, _ in opened]
        _require_same_tensors(checkpoints)
        count = count_numbers(checkpoints[-1])
        tensors = _means(checkpoints, shares)
        write_model(out, config, tensors, beside=partial(copy_companions, last_folder), max_shard_size=max_shard_size)
    return Change(out, (count, count), (f"the mean of {len(models)} checkpoints",))


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1 / count] * count
    total = sum(weights)
    if len(weights) != count or not all(0 <= weight < np.inf for weight in weights) or not total > 0:
        raise ConfigError(
            f"weights = {list(weights)}; expected {count} numbers of 0 or more, one per checkpoint, not all of them 0."
        )
    return [weight / total for weight in weights]


def _require_same_model(configs: Sequence[PretrainedConfig], names: Sequence[str]) -> None:
    """Raise if the configs differ in anything but what training changes."""
    first = _lasting(configs[0])
    for config, name in zip(configs[1:], names[1:], strict=True):
        other = _lasting(config)
        if wrong := sorted(key for key in {*first, *other} if first.get(key) != other.get(key)):
            raise ConfigError(
                f"{names[0]} and {name} are different models: their configs differ in {', '.join(wrong)}."
            )


def _lasting(config: PretrainedConfig) -> dict[str, Any]:
    values = config.to_dict()
    values.pop("transformers_version", None)
    own: dict[str, Any] = values.get("conjoin") or {}
    values["conjoin"] = {key: value for key, value in own.items() if key != "fresh"}
    return values


def _require_same_tensors(checkpoints: Sequence[Checkpoint]) -> None:
    first = checkpoints[0]
    for other in checkpoints[1:]:
        apart = sorted(set(first) ^ set(other))
        apart += [name for name in first if name in other and first[name].shape != other[name].shape]
        if apart:
            raise WeightError(f"{first.folder} and {other.folder} hold different tensors:\n{listing(apart)}")


def _means(checkpoints: Sequence[Checkpoint], shares: Sequence[float]) -> Iterator[Tensor]:
    """Yield the mean of every tensor, summed in float32, in the last checkpoint's dtype; other kinds are the last's."""
    last = checkpoints[-1]
    for name, info in last.items():
        if info.dtype not in FLOATS:
            yield name, last.array(name), info.dtype
            continue
        total: NDArray[Any] = np.zeros(info.shape, np.float32)
        for checkpoint, share in zip(checkpoints, shares, strict=True):
            total += np.float32(share) * to_float32(checkpoint.array(name), checkpoint[name].dtype)
        yield name, from_float32(total, info.dtype), info.dtype
