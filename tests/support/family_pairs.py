"""Every family in each of its roles beside a partner that never changes: what JAX and TensorFlow are held to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import oracle
from conjoin import EncoderDecoderModel
from conjoin.families import MODULES, family
from lanes import lanes, lanes_of_keys
from pairs import joined, stir

ENCODER, DECODER = "bert", "gpt2"
"""The partners."""
KEYS = [key for key in oracle.TINY if oracle.model_type(key) in MODULES and not key.endswith("/dynamic")]
ENCODERS = lanes(
    [key for key in KEYS if family(oracle.model_type(key)).encoder is not None],
    {"albert", "t5/gated", "gemma2", "modernbert/biases", "deberta-v2"}.__contains__,
)
"""The fast ones are those of `FAST_KEYS` that see ahead in a way of their own: both kinds of window, and distances."""
DECODERS = lanes_of_keys(key for key in KEYS if family(oracle.model_type(key)).decoder is not None)
PIECES = ((0, 4), (4, 5), (5, 6))
"""Targets that are decoded with a cache: four together, then two one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A pair of random parameters, a padded batch, and what PyTorch computes of it.

    Args:
        outputs: of the whole batch.
        unmasked: logits without the mask of the targets, as cached steps have none.
    """

    model: EncoderDecoderModel
    batch: oracle.Batch
    outputs: Any
    unmasked: torch.Tensor


def make_case(encoder: str, decoder: str, folder: Path) -> Case:
    """Join two of the oracle's checkpoints and run them."""
    model = stir(joined(folder, encoder, decoder, decoder_start_token_id=oracle.START_ID))
    batch = oracle.batch_for(encoder, decoder)
    with torch.no_grad():
        outputs = model(**batch, use_cache=False)
        unmasked = model(batch["input_ids"], batch["attention_mask"], batch["decoder_input_ids"], use_cache=False)
    return Case(model=model, batch=batch, outputs=outputs, unmasked=unmasked.logits)


def step_inputs(batch: Any, start: int, end: int) -> dict[str, Any]:
    """What one cached step is given."""
    return {"decoder_input_ids": batch["decoder_input_ids"][:, start:end], "attention_mask": batch["attention_mask"]}
