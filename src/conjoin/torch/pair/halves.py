"""The two halves of a joined model; each can be used, saved and loaded on its own."""

from os import PathLike
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin import spec
from conjoin.checkpoint import open_checkpoint, pop_framework, resolve
from conjoin.errors import warn
from conjoin.families import HUB_KEYWORDS, PretrainedConfig, Role
from conjoin.join import (
    half_offer,
    half_spec,
    has_own_head,
    plan_half,
    random_half,
    require_plain_weights,
    untie_half,
)
from conjoin.pretrained import find_config
from conjoin.torch.model.cache import KVCache, as_cache
from conjoin.torch.model.checks import as_ids, as_labels, check_labels
from conjoin.torch.model.head import Head
from conjoin.torch.model.loss import token_loss
from conjoin.torch.model.outputs import DecoderOutput, EncoderOutput
from conjoin.torch.model.stack import Stack
from conjoin.torch.model.stack_inputs import Record, StackInputs
from conjoin.torch.pair.adapters import watch_wrappers
from conjoin.torch.pair.keywords import pop_device, pop_dtype, reject_saving_kwargs
from conjoin.torch.pair.loading import fill, materialise, stored_dtype
from conjoin.torch.pair.pretrained import Pretrained
from conjoin.torch.pair.writing import save_half

watch_wrappers()


class Half(Stack, Pretrained):
    """A stack with a config of its own."""

    role: Role

    def __init__(self, config: PretrainedConfig, kind: spec.StackSpec | None = None) -> None:
        super().__init__(kind or half_spec(config, self.role))
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        config: PretrainedConfig | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        **overrides: Any,
    ) -> Self:
        """Load one half from a standalone checkpoint.

        Args:
            dtype: Dtype of the parameters; by default that of the checkpoint.
            overrides: Config values; revision, cache_dir, local_files_only, token, subfolder for the hub; and from_tf,
                from_flax or from_pt=True to load the weights that this framework wrote, if a folder has several.

        Raises:
            WeightError, ConfigError, FileError: all problems of a kind in one error.
        """
        hub = {key: overrides.pop(key) for key in HUB_KEYWORDS if key in overrides}
        wanted, device = pop_dtype(dtype, overrides), pop_device(device, overrides)
        framework = pop_framework(overrides)
        folder = resolve(name_or_path, framework=framework, **hub)
        config = find_config(folder, config, overrides)
        require_plain_weights(folder, config, "loading one half")
        kind = half_spec(config, cls.role)
        with open_checkpoint(folder, framework=framework) as checkpoint:
            offer = half_offer(config, kind, cls.role, checkpoint)
            if has_own_head(kind, offer):
                config, kind = untie_half(config, kind)
                offer = half_offer(config, kind, cls.role, checkpoint)
            plan = plan_half(kind, offer, cls.role)
            with torch.device("meta"):
                model = cls(config, kind)
            materialise(model, wanted or stored_dtype(checkpoint), device)
            fill(model, plan, prefix=f"{cls.role}.")
        return model.eval()

    @classmethod
    def from_config(cls, config: PretrainedConfig, kind: spec.StackSpec | None = None) -> Self:
        """Build a half with random weights."""
        with torch.device("meta"):
            model = cls(config, kind)
        materialise(model, torch.float32, None)
        fill(model, random_half(model.spec, cls.role), prefix=f"{cls.role}.")
        return model.eval()

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        *,
        is_main_process: bool = True,
        max_shard_size: int | str = "5GB",
        **keywords: Any,
    ) -> None:
        """Write config.json and weights, as transformers' class for this half does.

        Args:
            is_main_process: False writes nothing.
            keywords: Other arguments of transformers' method. save_function is ignored; others must have their
                defaults.
        """
        reject_saving_kwargs(keywords)
        if is_main_process:
            save_half(self, self.config, self.spec, self.role, save_directory, max_shard_size)

    def _record(self, hidden_states: bool | None, attentions: bool | None) -> Record:
        """Return the record of a call, which collects what its arguments or else the config request."""
        return Record.of(
            hidden_states=chosen(hidden_states, self.config.output_hidden_states),
            attentions=chosen(attentions, self.config.output_attentions),
        )

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the token embedding."""
        return self.embed.words

    def set_input_embeddings(self, table: torch.nn.Embedding) -> None:
        """Replace the token embedding."""
        self.embed.words = table


class Encoder(Half):
    """The half that reads the source."""

    role: Role = "encoder"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Int[Tensor, "#B #S"] | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        segment_ids: Int[Tensor, "B S"] | None = None,
    ) -> EncoderOutput | tuple[Any, ...]:
        """Return the hidden states of all source positions.

        Args:
            attention_mask: 1 at real tokens; None means that all tokens are real.
            segment_ids: Number of the sequence of each token within its row, from 1; 0 at padding.
        """
        record = self._record(output_hidden_states, output_attentions)
        last = self.run(
            StackInputs(
                input_ids=as_ids("input_ids", input_ids),
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                token_type_ids=as_ids("token_type_ids", token_type_ids),
                segments=segment_ids,
                record=record,
            )
        )
        output = EncoderOutput(last, _tuple(record.hidden_states), _tuple(record.attentions))
        return output if chosen(return_dict, self.config.return_dict) else output.to_tuple()


class Decoder(Half):
    """The half that writes the target; with cross-attention it reads an encoder's output."""

    role: Role = "decoder"

    def __init__(self, config: PretrainedConfig, kind: spec.StackSpec | None = None) -> None:
        super().__init__(config, kind)
        assert self.spec.head is not None
        self.head = Head(self.spec.head, self.spec.hidden_size)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Float[Tensor, "B S M"] | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Int[Tensor, "#R #T"] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        output_logits: bool = True,
        segment_ids: Int[Tensor, "R T"] | None = None,
        encoder_segment_ids: Int[Tensor, "B S"] | None = None,
        wanted: Bool[Tensor, "R T"] | None = None,
    ) -> DecoderOutput | tuple[Any, ...]:
        """Return the logits at every target position.

        Args:
            labels: labels[t] is what position t must predict; they are not shifted, unlike in transformers' causal LMs.
            past_key_values: Cache of earlier positions, which grows in place.
            segment_ids, encoder_segment_ids: Number of the pair of each token within its row, from 1; 0 at padding.
            wanted: True at positions whose states and logits will be used; others may be zeros, which saves work.
        """
        if use_cache and self.checkpoint_every and self.training:
            warn("use_cache=True has no effect while checkpointing in training.")
            use_cache = False
        cache = as_cache(past_key_values)
        cache = KVCache() if cache is None and use_cache else cache
        record = self._record(output_hidden_states, output_attentions)
        last = self.run(
            StackInputs(
                input_ids=as_ids("input_ids", input_ids),
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                token_type_ids=as_ids("token_type_ids", token_type_ids),
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                segments=segment_ids,
                source_segments=encoder_segment_ids,
                wanted=wanted,
                cache=cache,
                record=record,
            )
        )
        labels = as_labels(labels)
        if labels is not None:
            check_labels(labels, None, last, self.spec.vocab_size)
        logits = self.score(last) if output_logits or labels is not None else None
        output = DecoderOutput(
            loss=None if labels is None or logits is None else token_loss(logits, labels),
            logits=logits if output_logits else None,
            past_key_values=cache,
            hidden_states=_tuple(record.hidden_states),
            attentions=_tuple(record.attentions),
            cross_attentions=_tuple(record.cross_attentions) or None,
            last_hidden_state=last,
        )
        return output if chosen(return_dict, self.config.return_dict) else output.to_tuple()

    def score(self, hidden: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead V"]:
        """Return the logits of hidden states."""
        return self.head(hidden, self._vocabulary())

    def loss(self, hidden: Float[Tensor, "N D"], labels: Int[Tensor, " N"], **settings: Any) -> Float[Tensor, ""]:
        """Return the loss of labels that all count, without keeping logits; `settings` are those of `token_loss`."""
        return self.head.loss(hidden, self._vocabulary(), labels, **settings)

    def _vocabulary(self) -> Float[Tensor, "V C"]:
        """Return the token embedding, which is the vocabulary matrix of a tied head."""
        return self.embed.table() if self.head.vocab is None else self.embed.words.weight

    def get_output_embeddings(self) -> torch.nn.Module:
        """Return the module whose weight is the vocabulary matrix; with a tied head, the token embedding."""
        return self.embed.words if self.head.vocab is None else self.head.vocab


def chosen(argument: bool | None, default: bool) -> bool:
    """Return an argument of a call; the config's default if it is None."""
    return default if argument is None else argument


def _tuple(collected: list[Tensor] | None) -> tuple[Tensor, ...] | None:
    return None if collected is None else tuple(collected)
