"""Several sequences in one row, kept apart: what packed batches are made of.

Segment ids are 1 for the first sequence of a row, 2 for the next, 0 at padding; equal ids stand together.
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
    """For every position, where its segment begins."""
    here = torch.arange(segments.shape[1], device=segments.device)
    return torch.where(segment_begins(segments), here, 0).cummax(1).values


def segment_ends(segments: Int[Tensor, "R T"]) -> Int[Tensor, "R T"]:
    """For every position, the last one of its segment."""
    return segments.shape[1] - 1 - segment_starts(segments.flip(1)).flip(1)


def same_segment(queries: Int[Tensor, "R T"], keys: Int[Tensor, "R S"]) -> Bool[Tensor, "R 1 T S"]:
    """Which keys are of the query's own segment. Padding reads padding, so that no query is left with nothing."""
    return (queries[:, :, None] == keys[:, None, :])[:, None]


def check_segments(segments: Tensor | None, shape: tuple[int, int], name: str) -> None:
    """Refuse segment ids that do not lie beside their tokens.

    Raises:
        ShapeError: another shape.
    """
    if segments is not None and tuple(segments.shape) != shape:
        raise ShapeError(f"{name} has shape {tuple(segments.shape)}; expected {shape}, an id for every token.")
