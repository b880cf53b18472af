"""What transformers says of its families: their configs' fields and defaults, and the classes that they have."""

from dataclasses import MISSING, dataclass, fields
from inspect import signature
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from oracle_tiny import WITHOUT_MASKED_LM, model_type

__all__ = ["can_hold", "default_fields", "listed"]


BROKEN_PAIRS = ("big_bird", "gpt_bigcode", "megatron-bert")
"""Decoders whose classes take a source and do not read it as one, in transformers 5.23.

BigBird's self-attention reads the source in place of the target, Megatron-BERT gives keys the shape of queries, and
GPTBigCode refuses sources with one head of keys, and with more cuts the keys of one head out of all.
"""


def default_fields(model_type: str) -> dict[str, Any]:
    """The fields that a family's class adds to the base class, with their defaults."""
    kind = type(AutoConfig.for_model(model_type))
    shared = {field.name for field in fields(PreTrainedConfig)}
    return {f.name: f.default for f in fields(kind) if f.name not in shared and f.default is not MISSING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What transformers' own lists say of a family.

    Args:
        encoder, masked_lm, causal_lm, whole: names of its classes, None where it has none.
    """

    encoder: str | None
    masked_lm: str | None
    causal_lm: str | None
    whole: str | None


def listed(family: str) -> Listed:
    """Look a family up in transformers' lists of models."""
    return Listed(
        encoder=MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(family) or MODEL_MAPPING_NAMES.get(family),
        masked_lm=MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(family),
        causal_lm=MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family),
        whole=MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.get(family),
    )


def can_hold(enc_key: str, dec_key: str) -> bool:
    """Return whether transformers' EncoderDecoderModel can hold, save and reload such a pair."""
    encoder, decoder = listed(model_type(enc_key)), listed(model_type(dec_key))
    reads_both_ways = encoder.masked_lm is not None or model_type(enc_key) in WITHOUT_MASKED_LM
    if not reads_both_ways or encoder.whole is not None or decoder.causal_lm is None:
        return False
    if model_type(dec_key) in BROKEN_PAIRS:
        return False
    forward = getattr(transformers, decoder.causal_lm).forward
    return "encoder_hidden_states" in signature(forward).parameters
