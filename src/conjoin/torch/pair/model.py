"""EncoderDecoderModel: any encoder joined to any decoder."""

from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from conjoin import spec
from conjoin.checkpoint import FROM_KEYWORDS, open_checkpoint, resolve
from conjoin.configuration import CrossAttentionInit, EncoderDecoderConfig, Share
from conjoin.errors import ConfigError, ShapeError
from conjoin.families import HUB_KEYWORDS, PretrainedConfig
from conjoin.join import (
    JoinReport,
    OneFolder,
    TwoFolders,
    complete_tokens,
    fill_special_tokens,
    never_fresh,
    pair_offer,
    pair_spec,
    plan_join,
    plan_random,
    require_pad,
    require_start,
    special_tokens,
    starts_with_last_label,
    target_tokenizer,
    untied_head,
    with_record,
)
from conjoin.pretrained import (
    WithTokenizer,
    find_config,
    loosen_sharing,
    pair_values,
    refuse_misspelt,
    route,
    untie_head,
)
from conjoin.torch.cpu.linear import Linear
from conjoin.torch.cpu.quantization import Quantizing, fill_quantized, is_quantized
from conjoin.torch.cpu.row_counts import over_rounded_rows
from conjoin.torch.generation.mixin import Generates
from conjoin.torch.model.loss import IGNORED, label_mask, shift_right, token_loss, wrap_right
from conjoin.torch.model.outputs import DecoderOutput, EncoderOutput, Seq2SeqLMOutput
from conjoin.torch.model.sharing import mark_shared
from conjoin.torch.pair.checks import as_labels, as_readable, check_labels, require_cache
from conjoin.torch.pair.doctor import WithDoctor
from conjoin.torch.pair.freezing import Freezing
from conjoin.torch.pair.halves import Decoder, Encoder, chosen
from conjoin.torch.pair.hub import OnHub
from conjoin.torch.pair.joining import Source, adopt_modules, find_source, materialise_rest, plan_sources
from conjoin.torch.pair.keywords import Loading, take_device, take_dtype, take_loading
from conjoin.torch.pair.loading import fill, materialise, stored_dtype
from conjoin.torch.pair.pretrained import Pretrained, plain_state
from conjoin.torch.pair.resize import Resizing
from conjoin.torch.pair.saving import Saves


class EncoderDecoderModel(
    Generates, Resizing, Freezing, Quantizing, WithDoctor, WithTokenizer, Saves, OnHub, Pretrained
):
    """A sequence-to-sequence model made of two pretrained halves (Rothe et al. 2020, arXiv:1907.12461).

    However it comes about, it is in evaluation mode at first.

    Args:
        config: A pair's config; built from the halves if they are given.
        encoder, decoder: Ready halves. The decoder must have cross-attention of the encoder's width.

    Attributes:
        join_report: Where every parameter came from; print it.
        accepts_loss_kwargs: Tells transformers' Trainer to give num_items_in_batch; it looks for `**kwargs` otherwise.
    """

    accepts_loss_kwargs = True

    def __init__(
        self, config: PretrainedConfig | None = None, encoder: Encoder | None = None, decoder: Decoder | None = None
    ) -> None:
        super().__init__()
        if (encoder is None) != (decoder is None) or (config is None and encoder is None):
            raise ConfigError("EncoderDecoderModel: give a config, or both an encoder and a decoder.")
        if encoder is not None and decoder is not None:
            self._adopt(config, encoder, decoder)
            return
        assert config is not None
        self._build(config, pair_spec(config))
        fill_special_tokens(config, None)
        materialise(self, torch.float32, None)
        init = config.cross_attention_init if isinstance(config, EncoderDecoderConfig) else "normal"
        self._fill(plan_random(self.spec, init))

    def _build(self, config: PretrainedConfig, pair: spec.PairSpec) -> None:
        """Modules on the meta device: shapes, no storage."""
        self.config = config
        self.spec = pair
        joined = isinstance(config, EncoderDecoderConfig)
        with torch.device("meta"):
            self.encoder = Encoder(config.encoder if joined else config, pair.encoder)
            self.decoder = Decoder(config.decoder if joined else config, pair.decoder)
            sizes = (pair.encoder.hidden_size, pair.decoder.hidden_size)
            self.enc_to_dec_proj: nn.Linear | None = Linear(*sizes) if pair.projection else None

    @classmethod
    def _empty(cls, config: PretrainedConfig, pair: spec.PairSpec) -> Self:
        model = cls.__new__(cls)
        Pretrained.__init__(model)
        model._build(config, pair)
        return model

    def _fill(self, plan: JoinReport, folder: Path | None = None, *settings: Any) -> None:
        fill(self, plan)
        mark_shared(self, self.spec)
        self.take_generation_config(folder, *settings)
        self.join_report = plan
        self.note_fresh(plain_state(self))
        self.eval()

    def _adopt(self, config: PretrainedConfig | None, encoder: Encoder, decoder: Decoder) -> None:
        sources = (Source("encoder", encoder.config, module=encoder), Source("decoder", decoder.config, module=decoder))
        self._join(sources, {} if config is None else pair_values(config), dtype=None, device=None)

    def _join(
        self,
        sources: tuple[Source, Source],
        values: dict[str, Any],
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        """Become the pair of these sources."""
        with ExitStack() as files:
            config, pair, plan = plan_sources(sources, values, files)
            self._tokenizer_folders = TwoFolders(sources[0].folder, sources[1].folder)
            fill_special_tokens(config, target_tokenizer(sources[1].folder))
            self._build(config, pair)
            adopt_modules(self, sources, plan)
            live = next((s.module for s in sources if s.module is not None), None)
            if live is not None:
                some = next(live.parameters())
                dtype, device = dtype or some.dtype, device or some.device
            materialise_rest(self, dtype or torch.float32, device or "cpu")
            self._fill(plan)

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: str | PathLike[str] | None = None,
        decoder_pretrained_model_name_or_path: str | PathLike[str] | None = None,
        *,
        share: Share = "none",
        cross_attention_init: CrossAttentionInit = "normal",
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        **keywords: Any,
    ) -> Self:
        """Join two checkpoints; what they lack (cross-attention, mostly) is fresh and must be trained.

        Args:
            share: "embeddings" ties the word tables, "all" every parameter that both halves have.
            cross_attention_init: How fresh cross-attention starts: "normal", "self_attention" (a copy of the block's
                self-attention where widths permit) or "zero_gate" (its output scaled by a gate that starts at 0).
            dtype: Of the parameters; float32 by default, since a join is there to be trained.
            keywords: `encoder_*` and `decoder_*` go to that half: `encoder_model=` (a ready one), `encoder_config=`,
                config values such as `encoder_hidden_dropout_prob=0.2`, and hub keywords such as `decoder_revision=`.
                `decoder_from_tf=True` (or from_flax, from_pt) reads the weights that this framework wrote, where a
                folder has several. Without prefix: values of the pair's own config, and such keywords for both.

        Returns:
            The model, in evaluation mode, with `join_report`.

        Raises:
            JoinError, ConfigError, WeightError, FileError: before anything is half done.
        """
        both = {*HUB_KEYWORDS, *FROM_KEYWORDS} - {"subfolder"}
        hub = {key: keywords.pop(key) for key in both if key in keywords}
        wanted, device = take_dtype(dtype, keywords), take_device(device, keywords)
        encoder_words, decoder_words, values = route(keywords)
        refuse_misspelt(values)
        sources = (
            find_source("encoder", encoder_pretrained_model_name_or_path, hub | encoder_words),
            find_source("decoder", decoder_pretrained_model_name_or_path, hub | decoder_words),
        )
        model = cls.__new__(cls)
        Pretrained.__init__(model)
        values |= {"share": share, "cross_attention_init": cross_attention_init}
        model._join(sources, values, wanted, device)
        return model

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        config: PretrainedConfig | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        generation_config: Any | None = None,
        **overrides: Any,
    ) -> Self:
        """Load a joined pair, or a whole seq2seq checkpoint (BART, T5); also what transformers saved, in any framework.

        Args:
            dtype: Of the parameters; the checkpoint's own by default.
            generation_config: In place of the folder's; a GenerationConfig of ours or of transformers', or a dict.
            overrides: Config values; revision, cache_dir, local_files_only, token, subfolder for the hub; and from_tf,
                from_flax or from_pt=True to read the weights that this framework wrote, where a folder has several.

        Raises:
            WeightError: missing, misshapen, truncated or non-finite tensors, all of them in one error.
            ConfigError, FileError: unreadable or unknown config, no such folder or hub id.
        """
        how = take_loading(overrides, dtype, device, generation_config)
        folder = resolve(name_or_path, framework=how.framework, **how.hub)
        found = find_config(folder, config, overrides)
        pair = pair_spec(found)
        if is_quantized(found):
            return cls._load_quantized(found, pair, folder, how)
        with open_checkpoint(folder, framework=how.framework) as checkpoint:
            offer = pair_offer(found, pair, checkpoint)
            if untied_head(pair, [offer]):
                pair = untie_head(found, pair)
            pair = loosen_sharing(found, pair, offer)
            plan = with_record(plan_join(pair, [offer], init="normal", fresh_allowed=never_fresh), found)
            model = cls._empty(found, pair)
            model._tokenizer_folders = OneFolder(folder)
            materialise(model, how.dtype or stored_dtype(checkpoint), how.device)
            model._fill(plan, folder, *how.settings)
        complete_tokens(found, folder)
        return model

    @classmethod
    def _load_quantized(cls, config: PretrainedConfig, pair: spec.PairSpec, folder: Path, how: Loading) -> Self:
        """What `quantize` made and `save_pretrained` wrote."""
        model = cls._empty(config, pair)
        model._tokenizer_folders = OneFolder(folder)
        with open_checkpoint(folder) as checkpoint:
            fill_quantized(model, pair, checkpoint, how.dtype, how.device)
        model.take_generation_config(folder, *how.settings)
        complete_tokens(config, folder)
        return model.eval()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutput | tuple[Any, ...] | Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Int[Tensor, "#B #S"] | None = None,
        decoder_position_ids: Int[Tensor, "#R #T"] | None = None,
        decoder_token_type_ids: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        smoothing: float = 0.0,
        output_logits: bool = True,
        segment_ids: Int[Tensor, "B S"] | None = None,
        decoder_segment_ids: Int[Tensor, "R T"] | None = None,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Scores of the next token at every target position, and the loss where labels are given.

        Args:
            attention_mask: [B, S], 1 at real source tokens; all are real if it is missing.
            decoder_input_ids: Made from labels if missing: start id, then labels[:-1].
            decoder_attention_mask: [R, T]; made from labels too, but for whole checkpoints (BART, T5), trained without.
            encoder_outputs: From an earlier call, in place of input_ids.
            past_key_values: Target positions (and source keys and values) that an earlier call returned.
            labels: labels[t] is what target position t must predict; -100 is not counted.
            use_cache: Return past_key_values; None follows the decoder's config, but in training and with labels.
            num_items_in_batch: Divide the summed loss by this: the counted labels of a whole accumulated batch.
            smoothing: Share of every target that is spread over the vocabulary. Not called label_smoothing: trainers of
                others take every argument with "label" in its name for labels.
            output_logits: False computes the loss without keeping logits, at the counted labels only.
            segment_ids, decoder_segment_ids: Where rows hold several pairs: which one a token belongs to, from 1, and
                0 at padding. Pairs do not see each other; each starts at position 0 and with the start id.

        Raises:
            ShapeError: inputs that are missing, contradict each other or exceed the position table.
            ConfigError: labels are given, but no start id is known.
        """
        require_cache(past_key_values, self.decoder.embed.words.weight)
        labels = as_labels(labels)
        reads_source = past_key_values is None or not past_key_values.cross
        if encoder_outputs is None and reads_source:
            encoder_outputs = self.encoder(
                input_ids,
                attention_mask,
                token_type_ids,
                position_ids,
                inputs_embeds,
                output_attentions,
                output_hidden_states,
                return_dict=True,
                segment_ids=segment_ids,
            )
        encoded = as_readable(encoder_outputs, self.encoder.spec.hidden_size, self.decoder.embed.words.weight)
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels, decoder_segment_ids)
            if decoder_attention_mask is None and isinstance(self.config, EncoderDecoderConfig):
                decoder_attention_mask = label_mask(labels, special_tokens(self.config), decoder_segment_ids)
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            raise ShapeError(
                "Neither decoder_input_ids nor labels is given.",
                hint="to train, give labels=; to generate, call model.generate(input_ids).\n"
                "A trainer that takes the labels out of the batch, as transformers' does for label smoothing, needs "
                "decoder_input_ids in it: model.prepare_decoder_input_ids_from_labels(labels).",
            )
        if labels is not None:
            check_labels(labels, decoder_input_ids, decoder_inputs_embeds, self.decoder.spec.vocab_size)
        decoded = self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            self.project(encoded.last_hidden_state) if reads_source else None,
            attention_mask,
            past_key_values,
            decoder_inputs_embeds,
            use_cache=self._caches(labels) if use_cache is None else use_cache,
            token_type_ids=decoder_token_type_ids,
            position_ids=decoder_position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            output_logits=output_logits,
            segment_ids=decoder_segment_ids,
            encoder_segment_ids=segment_ids,
            wanted=None if labels is None or output_logits else labels != IGNORED,
        )
        output = Seq2SeqLMOutput(
            loss=self._loss(decoded, labels, num_items_in_batch, smoothing) if labels is not None else None,
            logits=decoded.logits,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )
        return output if chosen(return_dict, self.config.return_dict) else output.to_tuple()

    def _caches(self, labels: Tensor | None) -> bool:
        """Whether a caller who does not say gets past_key_values."""
        return self.decoder.config.use_cache and labels is None and not self.training

    def _loss(
        self, decoded: DecoderOutput, labels: Tensor, num_items: Tensor | int | None, smoothing: float
    ) -> Float[Tensor, ""]:
        settings = {"num_items": num_items, "label_smoothing": smoothing}
        if decoded.logits is not None:
            return token_loss(decoded.logits, labels, **settings)
        assert decoded.last_hidden_state is not None
        counted = labels != IGNORED
        return self.decoder.loss(decoded.last_hidden_state[counted], labels[counted], **settings)

    def project(self, encoder_hidden_states: Tensor | None) -> Tensor | None:
        """The encoder's output at the width that cross-attention reads."""
        if self.enc_to_dec_proj is None or encoder_hidden_states is None:
            return encoder_hidden_states
        return over_rounded_rows(self.enc_to_dec_proj, encoder_hidden_states)

    def prepare_decoder_input_ids_from_labels(
        self, labels: Int[Tensor, "B T"], segment_ids: Int[Tensor, "B T"] | None = None
    ) -> Int[Tensor, "B T"]:
        """Decoder inputs: the start id, then labels[:-1], -100 replaced by the pad id; the same in every segment.

        An mBART that was loaded whole starts with its target's last label instead, the language code.

        Raises:
            ConfigError: the start id is not known, or the pad id where it is needed.
        """
        if starts_with_last_label(self.config):
            return wrap_right(labels, require_pad(self.config), segment_ids)
        ignored = bool((labels == IGNORED).any())
        pad = require_pad(self.config) if ignored else 0
        return shift_right(labels, require_start(self.config), pad, segment_ids)

    def get_encoder(self) -> Encoder:
        """The half that reads the source."""
        return self.encoder

    def get_decoder(self) -> Decoder:
        """The half that writes the target."""
        return self.decoder
