"""Batches as numpy arrays, for any framework: padded rows, or packed rows with the segments that keep pairs apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.training.data.batching import Batch
from conjoin.training.data.examples import IGNORED, Examples, Rows

Ids = NDArray[np.int64]
WEIGHTS = "loss_weights"
"""Name of the array with the weight of every label, which the loss takes and forward does not."""


def batch_arrays(examples: Examples, batch: Batch, source_pad: int, target_pad: int = 0) -> dict[str, Any]:
    """Return the arrays of one batch, named as forward's arguments.

    Args:
        target_pad: Pads decoder inputs that the user gave.

    Returns:
        input_ids [B, S] and labels [B, T]; attention_mask [B, S] if there is padding; if rows hold several pairs,
        segment_ids [B, S] and decoder_segment_ids [B, T] instead: 1 for the first pair of a row, 2 for the next, 0 at
        padding. And the examples' own columns. Where sources are arrays, these in place of input_ids and its masks.
    """
    input_ids, source_segments = _filled(examples.sources, batch, source_pad)
    labels, target_segments = _filled(examples.labels, batch, IGNORED)
    packed = any(len(row) > 1 for row in batch)
    sources = {"input_ids": input_ids} if examples.read is None else examples.read(input_ids[:, 0].tolist())
    arrays: dict[str, Any] = {**sources, "labels": labels}
    if packed:
        arrays |= {"segment_ids": source_segments, "decoder_segment_ids": target_segments}
    elif not source_segments.all():
        arrays["attention_mask"] = source_segments
    for name, rows in examples.columns.items():
        masks = name.endswith("attention_mask")
        filler = int(packed) if masks else target_pad if name == "decoder_input_ids" else 0
        arrays[name], _ = _filled(rows, batch, filler)  # segments hide the padding of packed rows, which reads itself
    return arrays


def label_weights(examples: Examples, batch: Batch) -> NDArray[np.float32] | None:
    """Return the weight of every label of a batch [B, T], or None if all are 1."""
    if examples.weights is None:
        return None
    sizes = [examples.labels.sizes(row) for row in batch]
    weights = np.zeros((len(batch), max(int(size.sum()) for size in sizes)), np.float32)
    for at, row in enumerate(batch):
        spread = np.repeat(examples.weights[row], sizes[at])
        weights[at, : len(spread)] = spread
    return weights


def _filled(rows: Rows, batch: Batch, pad: int) -> tuple[Ids, Ids]:
    """Return padded ids, and the number of the pair in its row that each belongs to."""
    width = max(int(rows.sizes(row).sum()) for row in batch)
    ids = np.full((len(batch), width), pad, np.int64)
    segments = np.zeros((len(batch), width), np.int64)
    for at, row in enumerate(batch):
        end = 0
        for segment, index in enumerate(row, 1):
            own = rows[index]
            start, end = end, end + len(own)
            ids[at, start:end] = own
            segments[at, start:end] = segment
    return ids, segments


def counted_labels(examples: Examples, batches: Sequence[Batch]) -> int | float:
    """Return the weighted number of labels of a step, over all processes: the divisor of its loss."""
    return examples.counted(index for batch in batches for row in batch for index in row) or 1


def tokens_of(examples: Examples, batches: Sequence[Batch]) -> int:
    """Return the number of source and target tokens of batches, without padding; arrays have none."""
    indices = [index for batch in batches for row in batch for index in row]
    sides = [examples.labels, *([examples.sources] if examples.read is None else [])]
    return int(sum(side.sizes(indices).sum() for side in sides))
