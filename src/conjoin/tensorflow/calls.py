"""From a user's call to tensors that the programs take: dtypes, and checks of what is known."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import tensorflow as tf

from conjoin import spec
from conjoin.errors import ShapeError
from conjoin.families import PretrainedConfig
from conjoin.functional import inputs
from conjoin.functional.inputs import check_batch, check_integers, check_mask
from conjoin.functional.loss import IGNORED, TargetRules

Batch = dict[str, Any]


def prepared(given: Mapping[str, Any], pair: spec.PairSpec) -> Batch:
    """What is given, as tensors, ids as int32; lengths and ids are checked where they are known.

    Raises:
        ShapeError: inputs that contradict each other, exceed a position table or a vocabulary.
    """
    batch = {name: _tensor(name, value) for name, value in given.items() if value is not None}
    check_batch(batch, pair, known=all(is_known(x) for x in batch.values()))
    return batch


def target_rules(config: PretrainedConfig, given: Mapping[str, Any]) -> TargetRules | None:
    """How labels become decoder inputs; None where these are given. See conjoin.functional.inputs."""
    labels = given.get("labels")
    known = labels is not None and is_known(labels)
    return inputs.target_rules(config, given, ignored=known and bool((np.asarray(labels) == IGNORED).any()))


def named(model: str, order: Sequence[str], given: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments by name, the inputs also as transformers takes them: in one dict, list or tuple.

    Args:
        model: The class's name, for errors.
        order: Names of the arguments.
        given: Arguments by place.

    Raises:
        TypeError: an argument that is given twice, or that there is not.
    """
    first = given[0] if given else keywords.get("input_ids")
    packed: Mapping[str, Any] = {}
    if isinstance(first, Mapping):
        packed = cast("Mapping[str, Any]", first)
    elif isinstance(first, list | tuple) and all(hasattr(x, "shape") for x in cast("Sequence[Any]", first)):
        packed = dict(zip(order, cast("Sequence[Any]", first), strict=False))
    rest = {**dict(zip(order, given, strict=False)), **keywords}
    if packed:
        rest.pop("input_ids", None)
    rest = {name: x for name, x in rest.items() if x is not None}
    if unknown := [name for name in (*packed, *rest) if name not in order]:
        raise TypeError(f"{model}(...) takes no {', '.join(unknown)}. Expected: {', '.join(order)}.")
    if twice := [name for name in packed if name in rest]:
        raise TypeError(f"{model}(...) got {', '.join(twice)} twice: among the inputs and beside them.")
    merged = {**packed, **rest}
    return {
        name: np.asarray(x) if isinstance(x, list) and name != "encoder_outputs" else x for name, x in merged.items()
    }


def is_known(x: Any) -> bool:
    """Whether a tensor has numbers already, and is not one of a function that is being traced."""
    return not tf.is_tensor(x) or hasattr(x, "numpy")


def _tensor(name: str, value: Any) -> Any:
    floats = name.endswith("embeds") or name == "encoder_outputs"
    if isinstance(value, tf.RaggedTensor):
        raise ShapeError(
            f"{name} is ragged; expected rows of one length.",
            hint=f"{name}.to_tensor(pad_token_id), and an attention_mask that says which tokens are real.",
        )
    if name.endswith("mask") and is_known(value):
        check_mask(name, value)
    tensor = tf.convert_to_tensor(value)
    check_integers(name, tensor.shape.as_list(), tensor.dtype)
    return tensor if floats else tf.cast(tensor, tf.int32)
