"""What makes a model generate: its settings, kept beside its config, and the method."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jaxtyping import Float, Int
from torch import Tensor

from conjoin.checkpoint import Staging, write_json
from conjoin.errors import ConjoinWarning
from conjoin.families import PretrainedConfig
from conjoin.generation import GenerationConfig
from conjoin.torch.decoding.generate import generate
from conjoin.torch.decoding.loop import Streamer
from conjoin.torch.decoding.outputs import GenerateOutput, compute_transition_scores

if TYPE_CHECKING:
    from conjoin.torch.model import EncoderDecoderModel

FILE = "generation_config.json"
IDS = ("decoder_start_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
"""Kept in the model's config alone, so that loss and generate cannot disagree."""


class Generates:
    """A model with generation settings.

    Attributes:
        generation_config: Defaults of `generate`. Special ids are not in it: they live in `config`.
    """

    generation_config: GenerationConfig
    config: PretrainedConfig

    def can_generate(self) -> bool:
        """Always."""
        return True

    def generate(
        self,
        inputs: Int[Tensor, "B S"] | None = None,
        generation_config: GenerationConfig | None = None,
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
            generation_config: Settings of this call; keywords win over it, it wins over the model's own.
            logits_processor, stopping_criteria: The caller's own, after and beside those that the settings ask for.
                Finished sources leave the batch otherwise; with these all rows stay in their place, unless every
                processor has a `select(rows)` that tells it which rows are left.
            prefix_allowed_tokens_fn: (source index, ids so far) -> ids that may follow.
            assistant_model: A smaller joined model that drafts.
            streamer: Gets tokens as they are certain: of beams, what all that may still win have in common.
            keywords: Settings by name; and attention_mask, decoder_input_ids (a prefix of the target),
                decoder_attention_mask, encoder_outputs, inputs_embeds, token_type_ids, position_ids, tokenizer.
                max_new_tokens=0 gives the prompts back.

        Returns:
            Ids [B * num_return_sequences, t], start id included, the pad id behind their ends (transformers' beams
            write the end id there where the pad id is 0); or an output object with `return_dict_in_generate=True`.

        Raises:
            GenerationError: settings that are unknown, contradict each other or cannot be honoured.
        """
        model = cast("EncoderDecoderModel", self)
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

    def take_generation_config(self, folder: Path | None) -> None:
        """Read generation_config.json, or what older files keep in config.json; move the special ids into `config`."""
        if folder is not None and (folder / FILE).exists():
            found = GenerationConfig.from_pretrained(folder)
        else:
            found = GenerationConfig.from_model_config(self.config)
        for name in IDS:
            said, known = getattr(found, name, None), getattr(self.config, name)
            if (said is not None and known is None) or (name == "eos_token_id" and said is not None):
                setattr(self.config, name, said)
            elif said is not None and said != known:
                warnings.warn(
                    f"{name} is {known} in config.json and {said} in {FILE}: both training and generate use the first.",
                    ConjoinWarning,
                    stacklevel=4,
                )
            setattr(found, name, None)
        self.generation_config = found

    def save_generation_config(self, staging: Staging) -> None:
        """Write generation_config.json, with the special ids, for transformers to find."""
        values = self.generation_config.to_dict()
        values |= {name: getattr(self.config, name) for name in IDS if getattr(self.config, name) is not None}
        written = GenerationConfig.from_dict(values)
        write_json(staging.path(FILE), written.to_diff_dict())
