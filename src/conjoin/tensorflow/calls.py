"""From a user's call to tensors that the programs take: dtypes, and checks of what is known."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from conjoin import spec
from conjoin.errors import ShapeError
from conjoin.families import PretrainedConfig
from conjoin.functional import inputs
from conjoin.functional.inputs import (
    TARGET,
    check_ids,
    check_length,
    check_segments,
    check_shapes,
    length_of,
    target_length,
)
from conjoin.functional.loss import IGNORED, TargetRules

Batch = dict[str, Any]


def prepared(given: Mapping[str, Any], pair: spec.PairSpec) -> Batch:
    """What is given, as tensors, ids as int32; lengths and ids are checked where they are known.

    Raises:
        ShapeError: inputs that contradict each other, exceed a position table or a vocabulary.
    """
    batch = {name: _tensor(name, value) for name, value in given.items() if value is not None}
    encoder, decoder = pair.encoder, pair.decoder
    check_segments(batch)
    check_shapes(batch, pair)
    source = None
    if "encoder_outputs" in batch:
        source = batch["encoder_outputs"].shape[1]
    elif "input_ids" in batch or "inputs_embeds" in batch or not any(name in batch for name in TARGET):
        source = length_of(batch, encoder, "input_ids", "inputs_embeds")
        check_length(encoder, source or 0, batch.get("position_ids"), batch.get("segment_ids"))
    else:
        raise ShapeError("Neither input_ids, inputs_embeds nor encoder_outputs is given.")
    mask = batch.get("attention_mask")
    if mask is not None and None not in (source, mask.shape[1]) and mask.shape[1] != source:
        raise ShapeError(f"attention_mask has shape {tuple(mask.shape)}; expected {source} columns, as the source.")
    if any(name in batch for name in TARGET):
        target = target_length(batch, decoder)
        check_length(decoder, target or 0, batch.get("decoder_position_ids"), batch.get("decoder_segment_ids"))
    if all(is_known(x) for x in batch.values()):
        check_ids({name: x for name, x in batch.items() if name.endswith("ids") or name == "labels"}, pair)
    return batch


def target_rules(config: PretrainedConfig, given: Mapping[str, Any]) -> TargetRules | None:
    """How labels become decoder inputs; None where these are given. See conjoin.functional.inputs."""
    labels = given.get("labels")
    known = labels is not None and is_known(labels)
    return inputs.target_rules(config, given, ignored=known and bool((np.asarray(labels) == IGNORED).any()))


def is_known(x: Any) -> bool:
    """Whether a tensor has numbers already, and is not one of a function that is being traced."""
    return not tf.is_tensor(x) or hasattr(x, "numpy")


def _tensor(name: str, value: Any) -> Any:
    floats = name.endswith("embeds") or name == "encoder_outputs"
    tensor = tf.convert_to_tensor(value)
    if (name.endswith("ids") or name == "labels") and (tensor.shape.rank != 2 or not tensor.dtype.is_integer):
        raise ShapeError(
            f"{name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype.name}. "
            "Expected integers of shape (batch, length).",
            hint="tokenizer(text, return_tensors='np').input_ids has that shape; add [None] to a single row.",
        )
    return tensor if floats else tf.cast(tensor, tf.int32)
