"""Keras's compile and fit for a model that computes its own loss, from labels."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from conjoin.errors import TrainingError
from conjoin.functional.loss import IGNORED

_OWN_LOSS = (None, "auto", "auto_with_warning", "passthrough")
"""Values of `loss` with which transformers and Keras name a model's own loss."""


class Trains:
    """Keras's training steps, for a model that computes its own loss.

    Labels come in the dict of inputs, or as the second of a pair (inputs, labels).
    """

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **more: Any) -> None:
        """Run Keras's `compile`; the loss is the model's own.

        Raises:
            TrainingError: another loss, or metrics, are requested; they would not be computed.
        """
        requested = {"loss": loss if not isinstance(loss, str) or loss not in _OWN_LOSS else None}
        requested |= {name: more.get(name) for name in ("loss_weights", "metrics", "weighted_metrics")}
        if unsupported := [name for name, value in requested.items() if value]:
            raise TrainingError(
                f"compile: {', '.join(unsupported)}: the model computes its own loss, from labels among its inputs; "
                "Keras has nothing to compare with what.",
                hint="leave them out; for a loss of your own write the step with tf.GradientTape, and measure with "
                "model.generate in a keras.callbacks.Callback, or with `conjoin evaluate`.",
            )
        super().compile(optimizer=optimizer, **more)  # pyright: ignore[reportAttributeAccessIssue]

    def fit(self, *inputs: Any, **keywords: Any) -> Any:
        """Run Keras's `fit`."""
        _refuse_weights(keywords)
        return super().fit(*inputs, **keywords)  # pyright: ignore[reportAttributeAccessIssue]

    def evaluate(self, *inputs: Any, **keywords: Any) -> Any:
        """Run Keras's `evaluate`."""
        _refuse_weights(keywords)
        return super().evaluate(*inputs, **keywords)  # pyright: ignore[reportAttributeAccessIssue]

    def train_step(self, data: Any) -> Any:
        """Run one step of `fit`."""
        return super().train_step(_inputs(data))  # pyright: ignore[reportAttributeAccessIssue]

    def test_step(self, data: Any) -> Any:
        """Run one step of `evaluate`."""
        return super().test_step(_inputs(data))  # pyright: ignore[reportAttributeAccessIssue]

    def predict_step(self, data: Any) -> Any:
        """Run one step of `predict`; return the output as a plain dict without the loss, which has no rows."""
        output = super().predict_step(_inputs(data))  # pyright: ignore[reportAttributeAccessIssue]
        return {name: value for name, value in output.items() if name != "loss"}

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the model's own loss. On several devices, these add up to the mean over the whole batch.

        Raises:
            TrainingError: there are no labels.
        """
        if "loss" not in y_pred:
            raise TrainingError(
                "The batches hold no labels, so there is no loss.",
                hint='fit on dicts with "input_ids" and "labels", or on pairs (inputs, labels).',
            )
        loss = y_pred["loss"]
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return loss
        count = tf.reduce_sum(tf.cast(x["labels"] != IGNORED, tf.float32))
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, count)
        return loss * count / tf.maximum(total, 1.0)


def _inputs(data: Any) -> tuple[dict[str, Any]]:
    """Return a batch as one dict, labels included; inputs without names get theirs by their order.

    Raises:
        TrainingError: rows have weights, which the model's loss would ignore.
    """
    inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    _refuse_weights({"sample_weight": weights})
    if not isinstance(inputs, Mapping):
        listed = inputs if isinstance(inputs, list | tuple) else (inputs,)
        inputs = dict(zip(("input_ids", "attention_mask", "decoder_input_ids"), listed, strict=False))
    targets = labels if isinstance(labels, Mapping) else {"labels": labels}
    targets = {name: x for name, x in targets.items() if x is not None}
    return ({**inputs, **targets, "return_dict": True},)


def _refuse_weights(keywords: Mapping[str, Any]) -> None:
    """Raise if samples or classes have weights: Keras ignores them silently if labels are among the inputs."""
    if keywords.get("sample_weight") is not None or keywords.get("class_weight") is not None:
        raise TrainingError(
            "sample_weight and class_weight: the model's loss is the mean over all labels, and does not weigh them.",
            hint="leave out rows that should not count, or set their labels to -100; or write the step with "
            "tf.GradientTape.",
        )
