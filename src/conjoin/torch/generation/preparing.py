"""Inputs of one decoding step, under transformers' names: for loops of your own, and for peft."""

import inspect
from typing import TYPE_CHECKING, Any, cast

from jaxtyping import Int
from torch import Tensor

from conjoin.torch.model.cache import KVCache

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel

_NEVER_FORWARDED = ("labels", "next_sequence_length", "cache_position", "is_first_iteration")
_AS_LONG_AS_IDS = ("decoder_position_ids", "decoder_token_type_ids")


class PreparesInputs:
    """A model whose steps can be called one by one. `generate` has its own way and does not call these."""

    def prepare_inputs_for_generation(
        self,
        input_ids: Int[Tensor, "R t"],
        next_sequence_length: int | None = None,
        past_key_values: KVCache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **keywords: Any,
    ) -> dict[str, Any]:
        """Arguments of `forward` for the next step.

        Args:
            input_ids: The targets so far, those behind past_key_values included.
            next_sequence_length: So many last ids are new; by default those that past_key_values does not hold.
            attention_mask: [B, S], of the sources.
            inputs_embeds: Of the sources, which `encoder_outputs` stands for here; left out.
            keywords: `encoder_outputs`, `use_cache` and whatever else `forward` takes.
        """
        held = 0 if past_key_values is None else past_key_values.get_seq_length()
        new = max(input_ids.shape[1] - held, 1) if next_sequence_length is None else next_sequence_length
        ids = input_ids[:, -new:].contiguous()
        inputs: dict[str, Any] = {"decoder_input_ids": ids, "attention_mask": attention_mask}
        inputs |= {"past_key_values": past_key_values, **keywords}
        inputs |= {
            name: given[:, -ids.shape[1] :] for name in _AS_LONG_AS_IDS if (given := keywords.get(name)) is not None
        }
        return {name: v for name, v in inputs.items() if v is not None and name not in _NEVER_FORWARDED}

    def _prepare_encoder_decoder_kwargs_for_generation(
        self,
        inputs_tensor: Tensor,
        model_kwargs: dict[str, Any],
        model_input_name: str | None = None,
        generation_config: Any = None,
    ) -> dict[str, Any]:
        """Run the encoder on a call's inputs and put its output among them; older peft asks for this."""
        model = cast("EncoderDecoderModel", self)
        encoder = model.get_encoder()
        taken = inspect.signature(encoder.forward).parameters
        given = {name: value for name, value in model_kwargs.items() if name in taken}
        for name in ("output_attentions", "output_hidden_states"):
            given[name] = getattr(generation_config, name, None) or given.get(name)
        given |= {"return_dict": True, model_input_name or model.main_input_name: inputs_tensor}
        return model_kwargs | {"encoder_outputs": encoder(**given)}
