"""Segments: several sequences in one row that do not see each other, as in packed batches.

Segment ids are 1 for the first sequence of a row, 2 for the next, 0 at padding; equal ids are contiguous.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from conjoin.errors import ShapeError


def segment_begins(segments: Int[Tensor, "R T"]) -> Bool[Tensor, "R T"]:
    """True at the first position of every segment."""
    changes = segments[:, 1:] != segments[:, :-1]
    return torch.cat((torch.ones_like(changes[:, :1]).expand(len(segments), 1), changes), 1)


def segment_starts(segments: Int[Tensor, "R T"]) -> Int[Tensor, "R T"]:
    """Return for every position the first position of its segment."""
    here = torch.arange(segments.shape[1], device=segments.device)
    return torch.where(segment_begins(segments), here, 0).cummax(1).values


def segment_ends(segments: Int[Tensor, "R T"]) -> Int[Tensor, "R T"]:
    """Return for every position the last position of its segment."""
    return segments.shape[1] - 1 - segment_starts(segments.flip(1)).flip(1)


def same_segment(queries: Int[Tensor, "R T"], keys: Int[Tensor, "R S"]) -> Bool[Tensor, "R 1 T S"]:
    """True where a key is in the segment of the query. Padding reads padding, so that every query reads some key."""
    return (queries[:, :, None] == keys[:, None, :])[:, None]


def check_segments(segments: Tensor | None, shape: tuple[int, int], name: str) -> None:
    """Check that there is a segment id for every token.

    Raises:
        ShapeError: the shape is another.
    """
    if segments is not None and tuple(segments.shape) != shape:
        raise ShapeError(f"{name} has shape {tuple(segments.shape)}; expected {shape}, an id for every token.")
