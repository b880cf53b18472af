"""Batches as numpy arrays, for any framework: padded rows, or packed rows with the segments that keep pairs apart."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conjoin.training.data.batching import Batch
from conjoin.training.data.examples import IGNORED, Examples, Rows

Ids = NDArray[np.int64]
WEIGHTS = "loss_weights"
"""Name of an array that is the loss's and not forward's: the weight of every label."""


def batch_arrays(examples: Examples, batch: Batch, source_pad: int, target_pad: int = 0) -> dict[str, Ids]:
    """Arrays of one batch, under the names that a model's forward takes.

    Args:
        target_pad: What fills up decoder inputs that the user gave.

    Returns:
        input_ids [B, S] and labels [B, T]; attention_mask [B, S] where there is padding; where a row holds several
        pairs, segment_ids [B, S] and decoder_segment_ids [B, T] in its place: 1 for the first pair of a row, 2 for
        the next, 0 at padding. And the examples' own columns.
    """
    input_ids, source_segments = _filled(examples.sources, batch, source_pad)
    labels, target_segments = _filled(examples.labels, batch, IGNORED)
    arrays = {"input_ids": input_ids, "labels": labels}
    packed = any(len(row) > 1 for row in batch)
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
    """Weight of every label of a batch [B, T], or None where all count once."""
    if examples.weights is None:
        return None
    sizes = examples.labels.lengths
    made = np.zeros((len(batch), max(int(sizes[row].sum()) for row in batch)), np.float32)
    for at, row in enumerate(batch):
        spread = np.repeat(examples.weights[row], sizes[row])
        made[at, : len(spread)] = spread
    return made


def _filled(rows: Rows, batch: Batch, pad: int) -> tuple[Ids, Ids]:
    """Ids, and which pair of its row each belongs to."""
    sizes = rows.lengths
    width = max(int(sizes[row].sum()) for row in batch)
    ids = np.full((len(batch), width), pad, np.int64)
    segments = np.zeros((len(batch), width), np.int64)
    for at, row in enumerate(batch):
        end = 0
        for segment, index in enumerate(row, 1):
            start, end = end, end + int(sizes[index])
            ids[at, start:end] = rows[index]
            segments[at, start:end] = segment
    return ids, segments


def counted_labels(examples: Examples, batches: Sequence[Batch]) -> int | float:
    """Labels that a step's batches count, over all processes, by their weights: what its loss is divided by."""
    return examples.counted(index for batch in batches for row in batch for index in row) or 1


def tokens_of(lengths: NDArray[np.int64], batches: Sequence[Batch]) -> int:
    """Source and target tokens of some batches, without padding."""
    return int(sum(lengths[row].sum() for batch in batches for row in batch))
