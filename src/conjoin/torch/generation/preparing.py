"""Inputs of one decoding step, under transformers' names: for loops of your own, and for peft."""

import inspect
from typing import Any

from jaxtyping import Int
from torch import Tensor

from conjoin.torch.generation.model import Encoder
from conjoin.torch.model.cache import KVCache

_NEVER_FORWARDED = ("labels", "next_sequence_length", "cache_position", "is_first_iteration")
_AS_LONG_AS_IDS = ("decoder_position_ids", "decoder_token_type_ids")


def step_inputs(
    input_ids: Int[Tensor, "R t"],
    next_sequence_length: int | None,
    past_key_values: KVCache | None,
    attention_mask: Tensor | None,
    keywords: dict[str, Any],
) -> dict[str, Any]:
    """See EncoderDecoderModel.prepare_inputs_for_generation."""
    held = 0 if past_key_values is None else past_key_values.get_seq_length()
    new = max(input_ids.shape[1] - held, 1) if next_sequence_length is None else next_sequence_length
    ids = input_ids[:, -new:].contiguous()
    inputs: dict[str, Any] = {"decoder_input_ids": ids, "attention_mask": attention_mask}
    inputs |= {"past_key_values": past_key_values, **keywords}
    inputs |= {name: given[:, -ids.shape[1] :] for name in _AS_LONG_AS_IDS if (given := keywords.get(name)) is not None}
    return {name: v for name, v in inputs.items() if v is not None and name not in _NEVER_FORWARDED}


def encoded_inputs(
    encoder: Encoder, inputs: Tensor, name: str, model_kwargs: dict[str, Any], generation_config: Any
) -> dict[str, Any]:
    """Run the encoder on a call's inputs and put its output among them; older peft asks for this."""
    taken = inspect.signature(encoder.forward).parameters
    given = {key: value for key, value in model_kwargs.items() if key in taken}
    for wanted in ("output_attentions", "output_hidden_states"):
        given[wanted] = getattr(generation_config, wanted, None) or given.get(wanted)
    given |= {"return_dict": True, name: inputs}
    return model_kwargs | {"encoder_outputs": encoder(**given)}
