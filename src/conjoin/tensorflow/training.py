"""compile and fit: the loss that the model computes by itself, from labels."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from conjoin.errors import TrainingError
from conjoin.functional.loss import IGNORED


class Trains:
    """Keras's training steps, for a model that computes its own loss where compile() is given none.

    Labels come in the dict of inputs, or as the second of a pair (inputs, labels).
    """

    def train_step(self, data: Any) -> Any:
        """One step of fit."""
        return super().train_step(_with_labels(data))  # pyright: ignore[reportAttributeAccessIssue]

    def test_step(self, data: Any) -> Any:
        """One step of evaluate."""
        return super().test_step(_with_labels(data))  # pyright: ignore[reportAttributeAccessIssue]

    def predict_step(self, data: Any) -> Any:
        """One step of predict: a plain dict of the output's fields but for the loss, which has no rows."""
        output = super().predict_step(_with_labels(data))  # pyright: ignore[reportAttributeAccessIssue]
        return {name: value for name, value in output.items() if name != "loss"}

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The model's own loss. On several devices their sum is that of the whole batch: mean over all its labels.

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


def _with_labels(data: Any) -> Any:
    """Labels that stand beside the inputs, put among them."""
    if isinstance(data, tuple) and len(data) > 1 and isinstance(data[0], Mapping) and tf.is_tensor(data[1]):
        return ({**data[0], "labels": data[1]},)
    return data
