"""The loss of a target, and the decoder inputs that its labels imply."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from conjoin import spec
from conjoin.join import SpecialTokens
from conjoin.torch.cpu.masks import up_to_last
from conjoin.torch.model.segments import segment_begins, segment_ends, segment_starts

IGNORED = -100
"""Label of a position that is not counted."""


def shift_right(
    labels: Int[Tensor, "B T"], start: int, pad: int, segments: Int[Tensor, "B T"] | None = None
) -> Int[Tensor, "B T"]:
    """Decoder inputs: the start id, then labels[:-1], in every segment; ignored labels become pads."""
    shifted = torch.cat((labels.new_full((labels.shape[0], 1), start), labels[:, :-1]), 1)
    if segments is not None:
        shifted = shifted.masked_fill(segment_begins(segments), start)
    return shifted.masked_fill(shifted == IGNORED, pad)


def wrap_right(labels: Int[Tensor, "B T"], pad: int, segments: Int[Tensor, "B T"] | None = None) -> Int[Tensor, "B T"]:
    """Decoder inputs that start with each row's last real label (mBART), then labels[:-1]; labels are padded right."""
    real = labels.masked_fill(labels == IGNORED, pad)
    if segments is not None:
        shifted = torch.cat((real[:, :1], real[:, :-1]), 1)
        return torch.where(segment_begins(segments), real.gather(1, segment_ends(segments)), shifted)
    last = ((real != pad).sum(1, keepdim=True) - 1).clamp(min=0)
    return torch.cat((real.gather(1, last), real[:, :-1]), 1)


def label_mask(
    labels: Int[Tensor, "B T"], tokens: SpecialTokens, segments: Int[Tensor, "B T"] | None = None
) -> Bool[Tensor, "B T"]:
    """Which of the shifted inputs are real: every segment's start, then wherever the label before was counted.

    A label equal to the pad id is padding too, unless the pad id is also the start or an end.
    """
    counted = labels != IGNORED
    if tokens.pad is not None and not tokens.pad_is_ambiguous:
        counted = counted & (labels != tokens.pad)
    mask = torch.cat((torch.ones_like(counted[:, :1]), counted[:, :-1]), 1)
    return mask if segments is None else mask | segment_begins(segments)


def label_inputs(
    labels: Int[Tensor, "B T"],
    tokens: SpecialTokens,
    decoder: spec.StackSpec,
    segments: Int[Tensor, "B T"] | None = None,
) -> dict[str, Tensor]:
    """Return what labels imply beside decoder ids: their mask, and positions by place, whatever is -100 before them.

    There are no positions for a decoder that counts for itself what is no padding (RoBERTa, OPT), nor for sequences
    longer than its position table, which the stack refuses.
    """
    mask = {"decoder_attention_mask": label_mask(labels, tokens, segments)}
    if spec.skipped_pads(decoder.embedding.position) is not None:
        return mask
    places = torch.arange(labels.shape[1], device=labels.device).expand(labels.shape)
    if segments is not None:
        places = places - segment_starts(segments)
    limit = decoder.max_positions
    if limit is not None and labels.shape[1] > limit and int(places.max()) >= limit:
        return mask
    return {**mask, "decoder_position_ids": places}


def hides_inputs(mask: Bool[Tensor, "B T"], labels: Int[Tensor, "B T"], segments: Tensor | None = None) -> bool:
    """True if a masked position is before, or at, a label of its own pair that counts."""
    if segments is None:
        return bool((up_to_last(labels != IGNORED) & ~mask).any())
    return bool(((segments > 0) & ~mask).any())


def token_loss(
    logits: Float[Tensor, "*lead V"],
    labels: Int[Tensor, "*lead"],
    *,
    num_items: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    weights: Float[Tensor, "*lead"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy over the labels that are not -100, in float32.

    Args:
        num_items: Divide the sum by this instead of by the count of labels here: the real labels of the whole
            accumulated and sharded batch.
        label_smoothing: Share of every target spread over the vocabulary (Szegedy et al. 2016, arXiv:1512.00567).
        weights: How many times each label counts in the sum; its divisor is `num_items` all the same.
    """
    total = F.cross_entropy(
        logits.flatten(0, -2).float(),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="sum" if weights is None else "none",
        label_smoothing=label_smoothing,
    )
    if weights is not None:
        total = (total * weights.flatten()).sum()
    count = (labels != IGNORED).sum().clamp(min=1) if num_items is None else num_items
    return total / count
