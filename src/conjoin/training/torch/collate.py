"""Batches as the model takes them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conjoin.torch.model import EncoderDecoderModel
from conjoin.training.arrays import batch_arrays
from conjoin.training.batching import Batch
from conjoin.training.examples import Examples


@dataclass(frozen=True, slots=True)
class Collator:
    """Makes tensors of batches on the CPU, decoder inputs included, so that nothing on the device has to be asked.

    No decoder mask is made: targets are filled up on the right, where causality hides the padding anyway.
    """

    model: EncoderDecoderModel
    examples: Examples
    source_pad: int

    def __call__(self, batch: Batch, *, shifted: bool = True) -> dict[str, Tensor]:
        """Tensors of one batch.

        Args:
            shifted: With decoder_input_ids; without, forward makes them.
        """
        arrays = batch_arrays(self.examples, batch, self.source_pad)
        made = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if shifted:
            segments = made.get("decoder_segment_ids")
            keywords: dict[str, Any] = {} if segments is None else {"segment_ids": segments}
            made["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(made["labels"], **keywords)
        return made


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Send a batch, without waiting for it to arrive."""
    if device.type == "cpu":
        return batch
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in batch.items()}
