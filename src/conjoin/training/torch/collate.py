"""Batches as tensors, and their loss."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conjoin.configuration import EncoderDecoderConfig
from conjoin.join import special_tokens
from conjoin.torch.model.loss import hides_inputs, label_inputs, token_loss
from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.training.data.arrays import WEIGHTS, batch_arrays, label_weights
from conjoin.training.data.batching import Batch
from conjoin.training.data.examples import Examples


@dataclass(frozen=True, slots=True)
class Collator:
    """Makes tensors of batches on the CPU, decoder inputs included, so that the host never waits for the device.

    A decoder mask is made only if it hides something from a label that counts, as after a label of -100 in the middle:
    targets are padded on the right, where causality hides the padding anyway.
    """

    model: EncoderDecoderModel
    examples: Examples
    source_pad: int

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return the arguments of forward for one batch, and the weights of labels if there are some."""
        arrays = self._arrays(batch)
        if (weights := label_weights(self.examples, batch)) is not None:
            arrays[WEIGHTS] = weights
        tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
        segments = tensors.get("decoder_segment_ids")
        if "decoder_input_ids" not in tensors:
            kwargs: dict[str, Any] = {} if segments is None else {"segment_ids": segments}
            tensors["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(tensors["labels"], **kwargs)
        if self.examples.masks_made and isinstance(self.model.config, EncoderDecoderConfig):
            tokens, labels = special_tokens(self.model.config), tensors["labels"]
            implied = label_inputs(labels, tokens, self.model.decoder.spec, segments)
            if hides_inputs(implied["decoder_attention_mask"], labels, segments):
                tensors = {**implied, **tensors}
        return tensors

    def sources(self, batch: Batch) -> dict[str, Tensor]:
        """Return the arguments of `generate` for one batch."""
        arrays = self._arrays(batch)
        return {name: torch.as_tensor(x) for name, x in arrays.items() if not name.startswith(("labels", "decoder_"))}

    def _arrays(self, batch: Batch) -> dict[str, Any]:
        """Return the arrays of a batch; a data set may keep what it computes in an evaluation, to train on it later."""
        with torch.inference_mode(False):
            return batch_arrays(self.examples, batch, self.source_pad, self.model.config.pad_token_id or 0)


def decoder_inputs(model: EncoderDecoderModel, labels: Tensor) -> dict[str, Tensor]:
    """Return decoder inputs, their mask and positions, as forward derives them from labels."""
    inputs = {"decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels)}
    if isinstance(model.config, EncoderDecoderConfig):
        inputs |= label_inputs(labels, special_tokens(model.config), model.decoder.spec)
    return inputs


def needed_inputs(model: EncoderDecoderModel, labels: Tensor) -> dict[str, Tensor]:
    """Return decoder inputs as `decoder_inputs`, with mask and positions only if the mask hides something."""
    inputs = decoder_inputs(model, labels)
    mask = inputs.get("decoder_attention_mask")
    hides = mask is not None and hides_inputs(mask, labels, None)
    return inputs if hides else {"decoder_input_ids": inputs["decoder_input_ids"]}


def batch_loss(
    forward: nn.Module, inputs: dict[str, Tensor], counted: float, smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Return the loss of a batch: the weighted sum over its labels, divided by `counted`."""
    weights = inputs.get(WEIGHTS)
    if weights is None:
        kwargs: dict[str, Any] = {"num_items_in_batch": counted, "smoothing": smoothing, "output_logits": False}
        return forward(**inputs, **kwargs, use_cache=False).loss
    model_inputs = {name: tensor for name, tensor in inputs.items() if name not in (WEIGHTS, "labels")}
    logits = forward(**model_inputs, use_cache=False).logits
    return token_loss(logits, inputs["labels"], num_items=counted, label_smoothing=smoothing, weights=weights)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy a batch to a device, without waiting for it."""
    if device.type == "cpu":
        return batch
    pinned = {name: x.pin_memory() if x.device.type == "cpu" else x for name, x in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in pinned.items()}
