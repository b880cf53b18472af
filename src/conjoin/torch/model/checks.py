"""What a call's tensors must be, before they reach the bricks. Nothing here waits for a GPU."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.errors import ShapeError
from conjoin.torch.cpu.mode import autocasts, is_eager
from conjoin.torch.model.loss import IGNORED
from conjoin.torch.model.outputs import EncoderOutput, as_encoder_output
from conjoin.torch.model.stack_inputs import check_not_empty

_INDEX = (torch.int64, torch.int32)
"""What tables take as they are."""


def as_labels(given: Tensor | None) -> Int[Tensor, "R T"] | None:
    """Labels as the loss takes them.

    Raises:
        ShapeError: another rank, or no whole numbers.
    """
    labels = as_ids("labels", given)
    return None if labels is None else labels.long()


def as_ids(name: str, given: Tensor | None) -> Tensor | None:
    """Ids [B, T] of a kind that tables take; other whole numbers are widened.

    Raises:
        ShapeError: another rank, or no whole numbers.
    """
    if given is None:
        return None
    if given.dim() != 2 or given.is_floating_point() or given.dtype == torch.bool or given.is_complex():
        raise ShapeError(
            f"{name} has shape {tuple(given.shape)} and dtype {given.dtype}. "
            "Expected integers of shape (batch, length).",
            hint="tokenizer(text, return_tensors='pt').input_ids has that shape; add [None] to a single row.",
        )
    return given if given.dtype in _INDEX else given.long()


def as_states(states: Tensor, size: int, like: Tensor) -> Float[Tensor, "B S M"]:
    """An encoder's output that a decoder can read, in its dtype.

    Args:
        size: The encoder's width.
        like: A parameter of the decoder.

    Raises:
        ShapeError: another rank or width, or no floating numbers.
    """
    if states.dim() != 3 or states.shape[-1] != size or not states.is_floating_point():
        raise ShapeError(
            f"encoder_outputs has shape {tuple(states.shape)} and dtype {states.dtype}; "
            f"expected floating numbers of shape (batch, length, {size}), the encoder's width.",
            hint="give what model.encoder(...) of this model returns.",
        )
    check_not_empty("encoder_outputs", states.shape)
    return states if autocasts(states.device.type) or states.dtype == like.dtype else states.to(like.dtype)


def as_readable(given: Any, size: int, like: Tensor) -> EncoderOutput:
    """A caller's encoder_outputs; see `as_states`."""
    encoded = as_encoder_output(given)
    if encoded.last_hidden_state is None:
        return encoded
    states = as_states(encoded.last_hidden_state, size, like)
    return EncoderOutput(states, encoded.hidden_states, encoded.attentions)


def check_labels(labels: Int[Tensor, "R T"], ids: Tensor | None, embeds: Tensor | None, vocab_size: int) -> None:
    """Refuse labels that do not lie beside the decoder's inputs; on a CPU, also ids beyond the vocabulary.

    Raises:
        ShapeError: they are such.
    """
    target = ids if embeds is None else embeds
    if target is not None and labels.shape != target.shape[:2]:
        raise ShapeError(
            f"labels has shape {tuple(labels.shape)}, the decoder's inputs {tuple(target.shape[:2])}; expected the "
            "same: labels[t] is what position t must predict."
        )
    if labels.device.type != "cpu" or not is_eager(labels):
        return
    counted = labels[labels != IGNORED]
    least, most = (int(found) for found in counted.aminmax()) if counted.numel() else (0, 0)
    if least < 0 or most >= vocab_size:
        raise ShapeError(
            f"labels has ids from {least} to {most}; expected 0 to {vocab_size - 1}, or {IGNORED} if not counted.",
            hint="the tokenizer is another model's, or has new words: model.resize_token_embeddings(decoder=len(...)).",
        )
