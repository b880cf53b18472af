"""The loss of a target, and the decoder inputs that its labels imply."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int

from conjoin import spec
from conjoin.functional.ops import Array, Ops
from conjoin.functional.positions import segment_begins, segment_ends, segment_starts

IGNORED = -100
"""Label of a position that is not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRules:
    """How labels become decoder inputs.

    Args:
        start: First input; None where each target starts with its own last label (mBART).
        pad: In the place of ignored labels.
        pad_is_padding: Whether a label equal to the pad id is padding too: not where pad also starts or ends targets.
        masked: Whether the inputs made of padding are masked: not in whole checkpoints, trained without.
    """

    start: int | None
    pad: int
    pad_is_padding: bool
    masked: bool


def decoder_inputs(
    ops: Ops, rules: TargetRules, labels: Int[Array, "B T"], segments: Int[Array, "B T"] | None
) -> Int[Array, "B T"]:
    """The start id, then labels[:-1], in every segment."""
    real = ops.where(labels == IGNORED, rules.pad, labels)
    before = ops.concat((real[:, :1], real[:, :-1]), 1)
    begins = _begins(ops, labels, segments)
    if rules.start is not None:
        return ops.where(begins, rules.start, before)
    if segments is not None:
        return ops.where(begins, ops.gather(real, segment_ends(ops, segments), 1), before)
    count = ops.sum(ops.cast(real != rules.pad, "int32"), 1, keepdims=True)
    return ops.where(begins, ops.gather(real, ops.maximum(count - 1, 0), 1), before)


def decoder_mask(
    ops: Ops, rules: TargetRules, labels: Int[Array, "B T"], segments: Int[Array, "B T"] | None
) -> Bool[Array, "B T"]:
    """Which of these inputs are real: every segment's start, then wherever the label before was counted."""
    counted = labels != IGNORED
    if rules.pad_is_padding:
        counted = counted & (labels != rules.pad)
    return ops.concat((counted[:, :1], counted[:, :-1]), 1) | _begins(ops, labels, segments)


def label_positions(
    ops: Ops, position: spec.Position, labels: Int[Array, "B T"], segments: Int[Array, "B T"] | None
) -> Int[Array, "X T"] | None:
    """Return the positions of these inputs: labels keep their places, whatever is -100 before them.

    None if the decoder counts for itself what is no padding (RoBERTa, OPT).
    """
    if spec.skipped_pads(position) is not None:
        return None
    places = ops.arange(ops.shape(labels)[1])[None]
    return places if segments is None else places - segment_starts(ops, segments)


def _begins(ops: Ops, labels: Array, segments: Array | None) -> Bool[Array, "X T"]:
    if segments is not None:
        return segment_begins(ops, segments)
    return (ops.arange(ops.shape(labels)[1]) == 0)[None]


def token_loss(
    ops: Ops,
    logits: Float[Array, "B T V"],
    labels: Int[Array, "B T"],
    *,
    num_items: Array | float | None = None,
    label_smoothing: float = 0.0,
    weights: Float[Array, "B T"] | None = None,
) -> Float[Array, ""]:
    """Cross-entropy over the labels that are not -100, in float32.

    Args:
        num_items: Divide the sum by this instead of by the count of labels here.
        label_smoothing: Share of every target spread over the vocabulary (Szegedy et al. 2016, arXiv:1512.00567).
        weights: How many times each label counts in the sum; its divisor is `num_items` all the same.
    """
    counted = labels != IGNORED
    logs = ops.log_softmax(ops.cast(logits, "float32"))
    losses = -ops.gather(logs, ops.where(counted, labels, 0)[..., None], -1)[..., 0]
    if label_smoothing:
        losses = (1.0 - label_smoothing) * losses - label_smoothing * ops.mean(logs, -1)
    if weights is not None:
        losses = losses * weights
    total = ops.sum(ops.sum(ops.where(counted, losses, 0.0), -1), -1)
    if num_items is None:
        num_items = ops.maximum(ops.sum(ops.sum(ops.cast(counted, "int32"), -1), -1), 1)
    return total / ops.cast(ops.constant(num_items), "float32")
