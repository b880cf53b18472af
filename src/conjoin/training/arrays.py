"""Batches as numpy arrays, for any framework: padded rows, or packed rows with the segments that keep pairs apart."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conjoin.training.batching import Batch
from conjoin.training.examples import Examples, Rows

Ids = NDArray[np.int64]
IGNORED = -100
"""Label of a position that is not counted; as in every backend's loss."""


def batch_arrays(examples: Examples, batch: Batch, source_pad: int) -> dict[str, Ids]:
    """Arrays of one batch, under the names that a model's forward takes.

    Returns:
        input_ids [B, S] and labels [B, T]; attention_mask [B, S] where there is padding; where a row holds several
        pairs, segment_ids [B, S] and decoder_segment_ids [B, T] in its place: 1 for the first pair of a row, 2 for
        the next, 0 at padding.
    """
    input_ids, source_segments = _filled(examples.sources, batch, source_pad)
    labels, target_segments = _filled(examples.labels, batch, IGNORED)
    arrays = {"input_ids": input_ids, "labels": labels}
    if any(len(row) > 1 for row in batch):
        arrays |= {"segment_ids": source_segments, "decoder_segment_ids": target_segments}
    elif not source_segments.all():
        arrays["attention_mask"] = source_segments
    return arrays


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


def counted_labels(label_lengths: NDArray[np.int64], batches: Sequence[Batch]) -> int:
    """Labels that a step's batches count, over all processes: what its loss is divided by."""
    return int(sum(label_lengths[row].sum() for batch in batches for row in batch))


def tokens_of(lengths: NDArray[np.int64], batches: Sequence[Batch]) -> int:
    """Source and target tokens of some batches, without padding."""
    return int(sum(lengths[row].sum() for batch in batches for row in batch))
