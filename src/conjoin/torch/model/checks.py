"""Checks on the tensors of a call before the layers get them. None of them waits for a GPU."""

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
"""Dtypes that embedding tables accept without a cast."""


def as_labels(labels: Tensor | None) -> Int[Tensor, "R T"] | None:
    """Return labels as int64, the dtype of the loss.

    Raises:
        ShapeError: they are not a matrix of integers.
    """
    labels = as_ids("labels", labels)
    return None if labels is None else labels.long()


def as_ids(name: str, ids: Tensor | None) -> Tensor | None:
    """Return ids [B, T] in a dtype that embedding tables accept; other integers are cast to int64.

    Raises:
        ShapeError: they are not a matrix of integers.
    """
    if ids is None:
        return None
    if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool or ids.is_complex():
        raise ShapeError(
            f"{name} has shape {tuple(ids.shape)} and dtype {ids.dtype}. Expected integers of shape (batch, length).",
            hint="tokenizer(text, return_tensors='pt').input_ids has that shape; add [None] to a single row.",
        )
    return ids if ids.dtype in _INDEX else ids.long()


def as_states(states: Tensor, size: int, like: Tensor, *, wide: bool = False) -> Float[Tensor, "B S M"]:
    """Check an encoder's output and return it in the decoder's dtype.

    Args:
        size: Width of the encoder's output.
        like: A parameter of the decoder.
        wide: Leave float32 as it is for a decoder in float16, which its inner states would overflow.

    Raises:
        ShapeError: the rank or hidden size is another, or the dtype is not a floating one.
    """
    if states.dim() != 3 or states.shape[-1] != size or not states.is_floating_point():
        raise ShapeError(
            f"encoder_outputs has shape {tuple(states.shape)} and dtype {states.dtype}; "
            f"expected floating numbers of shape (batch, length, {size}), the encoder's width.",
            hint="give what model.encoder(...) of this model returns.",
        )
    check_not_empty("encoder_outputs", states.shape)
    wide = wide and states.dtype == torch.float32 and like.dtype == torch.float16
    as_it_is = wide or autocasts(states.device.type) or states.dtype == like.dtype
    return states if as_it_is else states.to(like.dtype)


def as_readable(encoder_outputs: Any, size: int, like: Tensor, *, wide: bool = False) -> EncoderOutput:
    """Check a caller's encoder_outputs and return them in the decoder's dtype; see `as_states`."""
    encoded = as_encoder_output(encoder_outputs)
    if encoded.last_hidden_state is None:
        return encoded
    states = as_states(encoded.last_hidden_state, size, like, wide=wide)
    return EncoderOutput(states, encoded.hidden_states, encoded.attentions)


def check_labels(labels: Int[Tensor, "R T"], ids: Tensor | None, embeds: Tensor | None, vocab_size: int) -> None:
    """Check that labels have the shape of the decoder's inputs and, on a CPU, are ids of the vocabulary.

    Raises:
        ShapeError: they have another shape, or an id is outside the vocabulary.
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
    least, most = (int(label) for label in counted.aminmax()) if counted.numel() else (0, 0)
    if least < 0 or most >= vocab_size:
        raise ShapeError(
            f"labels has ids from {least} to {most}; expected 0 to {vocab_size - 1}, or {IGNORED} if not counted.",
            hint="the tokenizer is another model's, or has new words: model.resize_token_embeddings(decoder=len(...)).",
        )
