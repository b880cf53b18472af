"""What makes a model generate: its settings, kept beside its config, and the method."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from jaxtyping import Float, Int
from torch import Tensor

from conjoin.pretrained import RemembersFresh, WithGenerationConfig
from conjoin.torch.generation.generate import generate
from conjoin.torch.generation.loop import Streamer
from conjoin.torch.generation.outputs import GenerateOutput, compute_transition_scores
from conjoin.torch.generation.preparing import PreparesInputs
from conjoin.torch.pair.pretrained import plain_state

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel


class Generates(PreparesInputs, WithGenerationConfig, RemembersFresh):
    """A model with generation settings."""

    def can_generate(self) -> bool:
        """Always."""
        return True

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: Any | None = None,
        logits_processor: Any | None = None,
        stopping_criteria: Any | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
        assistant_model: "EncoderDecoderModel | None" = None,
        streamer: Streamer | None = None,
        **keywords: Any,
    ) -> Int[Tensor, "R t"] | GenerateOutput:
        """Write a target for every source: greedily, sampled, by beams, contrastively or with drafts.

        Args:
            inputs: Source ids.
            generation_config: Settings of this call, as a GenerationConfig, ours or transformers', or a dict. Keywords
                win over it, it wins over the model's own.
            logits_processor, stopping_criteria: The caller's own, after and beside those that the settings ask for. In
                the places of beams that have ended they see a live one of the source; a source that has ended goes on
                with pads, without being listened to.
                Finished sources leave the batch otherwise; with these all rows stay in their place, unless every
                processor has a `select(rows)` that tells it which rows are left.
            prefix_allowed_tokens_fn: (source index, ids so far) -> ids that may follow; asked about live rows only.
            assistant_model: A smaller joined model that drafts.
            streamer: Gets tokens as they are certain: of beams, what all that may still win have in common. It hears of
                the end once, of an error too.
            keywords: Settings by name; and attention_mask, decoder_input_ids (a prefix of the target),
                decoder_attention_mask, encoder_outputs, inputs_embeds, token_type_ids, position_ids, tokenizer; and
                past_key_values, which an earlier call kept of decoder_input_ids' first words. It stays as it is.
                max_new_tokens=0 gives the prompts back.

        Returns:
            Ids [B * num_return_sequences, t], start id included, the pad id behind their ends (transformers' beams
            write the end id there where the pad id is 0); or an output object with `return_dict_in_generate=True`.
            Beams return each hypothesis once: where a source has fewer than asked for, its rows are fewer, a warning
            says so, and `results_per_source` of the output object says how many.

        Raises:
            GenerationError: settings that are unknown, contradict each other or cannot be honoured, or that leave a row
                no token; or scores that are not numbers.
        """
        model = cast("EncoderDecoderModel", self)
        self.warn_of_fresh(lambda: plain_state(model))
        return generate(
            model,
            inputs,
            generation_config,
            logits_processor,
            stopping_criteria,
            prefix_allowed_tokens_fn,
            assistant_model,
            streamer,
            **keywords,
        )

    def compute_transition_scores(
        self,
        sequences: Int[Tensor, "R t"],
        scores: tuple[Float[Tensor, "R2 V"], ...],
        beam_indices: Int[Tensor, "R o"] | None = None,
        normalize_logits: bool = False,
    ) -> Float[Tensor, "R o2"]:
        """The score of every generated token."""
        return compute_transition_scores(sequences, scores, beam_indices, normalize_logits)
