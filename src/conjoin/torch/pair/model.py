"""EncoderDecoderModel: any encoder joined to any decoder."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from os import PathLike
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from conjoin.checkpoint import Staging, open_checkpoint
from conjoin.configuration import CrossAttentionInit, EncoderAttention, EncoderDecoderConfig, Share
from conjoin.errors import ConfigError, ShapeError
from conjoin.families import Layers, PretrainedConfig
from conjoin.join import (
    JoinReport,
    OneFolder,
    complete_tokens,
    is_quantized,
    pair_spec,
    special_tokens,
)
from conjoin.join.diagnosis import Diagnosis
from conjoin.pretrained import pair_values
from conjoin.pretrained.sources import (
    Saved,
    Sources,
    find_saved,
    find_sources,
    open_join,
    open_saved,
    random_plan,
    tokenizer_folders,
)
from conjoin.pretrained.summary import summary
from conjoin.torch.cpu.clock import as_running
from conjoin.torch.generation.generate import generate, generate_results
from conjoin.torch.generation.loop import Decoded, Streamer
from conjoin.torch.generation.outputs import GenerateOutput, compute_transition_scores
from conjoin.torch.generation.overlap import K, generate_batches
from conjoin.torch.generation.preparing import encoded_inputs, step_inputs
from conjoin.torch.model.cache import KVCache, as_cache
from conjoin.torch.model.checks import as_labels, as_readable, check_labels
from conjoin.torch.model.loss import IGNORED, label_inputs, token_loss
from conjoin.torch.model.outputs import DecoderOutput, EncoderOutput, Seq2SeqLMOutput
from conjoin.torch.model.sharing import mark_shared
from conjoin.torch.pair import freezing, hub
from conjoin.torch.pair.doctor import examine
from conjoin.torch.pair.halves import Decoder, Encoder, chosen
from conjoin.torch.pair.joining import adopt_parameters, materialise_rest, read_half, source_of
from conjoin.torch.pair.keywords import pop_device, pop_dtype, reject_saving_kwargs
from conjoin.torch.pair.loading import fill, materialise, stored_dtype
from conjoin.torch.pair.lora import merge_saved_adapter
from conjoin.torch.pair.modules import PairModules
from conjoin.torch.pair.one_pass import counted_states
from conjoin.torch.pair.pretrained import Pretrained, plain_state
from conjoin.torch.pair.quantization import fill_quantized, quantize
from conjoin.torch.pair.resize import NewRows, resize
from conjoin.torch.pair.saving import save_pair, write_pair
from conjoin.torch.profile import Profile, open_profile, profiled_call


class EncoderDecoderModel(PairModules):
    """A sequence-to-sequence model made of two pretrained halves (Rothe et al. 2020, arXiv:1907.12461).

    A new or loaded model is in evaluation mode.

    Args:
        config: A pair's config; built from the halves if they are given.
        encoder, decoder: Models to join. The decoder must have cross-attention of the encoder's width. The encoder may
            be any module (a vision or speech model); the decoder may then be a name, and gets cross-attention.
        foreign: Of an encoder that is any module: `encoder_width`, the size of its states; `encoder_input`, the name of
            its input ("pixel_values"); `encoder_mask`, a function of input and states that tells which states are real;
            and settings of the pair such as `cross_attention_init`.

    Attributes:
        join_report: Where every parameter came from; print it.
        accepts_loss_kwargs: Makes transformers' Trainer pass num_items_in_batch, although `forward` has no `**kwargs`.
    """

    accepts_loss_kwargs = True

    def __new__(cls, config: Any = None, encoder: Any = None, *_: Any, **__: Any) -> Self:
        """Choose the class: that of pairs whose encoder is a module of the caller's differs."""
        foreign = isinstance(encoder, nn.Module) and not isinstance(encoder, Encoder)
        return super().__new__(_foreign() if foreign else cls)

    def __init__(
        self,
        config: PretrainedConfig | None = None,
        encoder: Encoder | nn.Module | None = None,
        decoder: Decoder | str | PathLike[str] | None = None,
        **foreign: Any,
    ) -> None:
        super().__init__()
        if foreign or not isinstance(encoder, Encoder | None) or not isinstance(decoder, Decoder | None):
            raise ConfigError(
                f"EncoderDecoderModel: {', '.join(foreign) or 'these halves'}: only with an encoder that is a module "
                "of your own.",
                hint="EncoderDecoderModel.from_encoder_decoder_pretrained(encoder, decoder) joins two checkpoints.",
            )
        if (encoder is None) != (decoder is None) or (config is None and encoder is None):
            raise ConfigError("EncoderDecoderModel: give a config, or both an encoder and a decoder.")
        if encoder is not None and decoder is not None:
            values = {} if config is None else pair_values(config)
            self._join((source_of(encoder), source_of(decoder)), values, dtype=None, device=None)
            return
        assert config is not None
        pair, plan = random_plan(config)
        self._build(config, pair)
        materialise(self, torch.float32, None)
        self._fill(plan)
        self.load_generation_config(None)

    def __repr__(self) -> str:
        """Return a summary of one screen; `nn.Module.__repr__(model)` lists every module."""
        if not hasattr(self, "decoder"):
            return nn.Module.__repr__(self)
        return summary(self, self.num_parameters(), f"{str(self.dtype).removeprefix('torch.')} on {self.device}")

    @classmethod
    def _empty(cls) -> Self:
        model = cls.__new__(cls)
        Pretrained.__init__(model)
        return model

    def _fill(self, plan: JoinReport) -> None:
        """Write every parameter as the plan says."""
        fill(self, plan)
        mark_shared(self, self.spec)
        self.join_report = plan
        self.note_fresh(plain_state(self))
        self.eval()

    def _join(
        self,
        sources: Sources,
        values: dict[str, Any],
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        """Build this model from two halves."""
        with open_join(sources, values) as (config, pair, plan):
            self._tokenizer_folders = tokenizer_folders(sources)
            self._build(config, pair)
            adopt_parameters(self, sources, plan)
            some = next((p for source in sources for p in source.parameters.values()), None)
            if some is not None:
                dtype, device = dtype or some.dtype, device or some.device
            materialise_rest(self, dtype or torch.float32, device or "cpu")
            self.load_generation_config(None)
            self._fill(plan)

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: str | PathLike[str] | None = None,
        decoder_pretrained_model_name_or_path: str | PathLike[str] | None = None,
        *,
        share: Share = "none",
        cross_attention_init: CrossAttentionInit = "normal",
        encoder_layers: Layers | None = None,
        decoder_layers: Layers | None = None,
        encoder_attention: EncoderAttention | None = None,
        source_layers: Sequence[int] | None = None,
        source_template: str | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        **keywords: Any,
    ) -> Self:
        """Join two checkpoints. Parameters that they lack (mostly cross-attention) are fresh and must be trained.

        Args:
            share: "embeddings" ties the token embeddings, "all" every parameter that both halves have.
            cross_attention_init: Initialisation of fresh cross-attention: "normal", "self_attention" (a copy of the
                block's self-attention where widths permit) or "zero_gate" (its output scaled by a gate that starts at
                0). Or a join without fresh parameters, in which self-attention reads source and target in one softmax:
                "merged" (it reads the encoder's output; equal widths) or "layerwise" (each layer reads what the
                encoder's layer of its number reads, as a prefix of the target, so that a causal LM joined to itself
                stays that LM; equal blocks).
            encoder_layers, decoder_layers: Layers of that checkpoint to join: a number, spread evenly with the first
                and the last (Shleifer & Rush 2020, arXiv:2010.13002), or a list of indices from 0; all by default.
            encoder_attention: "causal" or "bidirectional"; by default bidirectional, but causal for a causal LM that is
                read layer by layer.
            source_layers: With "layerwise", the encoder layer that each decoder layer reads with, where the halves have
                different numbers of layers.
            source_template: Prompt around every source; see `set_source_template`.
            dtype: Dtype of the parameters; float32 by default, since a joined model will be trained.
            keywords: `encoder_*` and `decoder_*` go to that half: `encoder_model=` (a loaded one), `encoder_config=`,
                config values such as `encoder_hidden_dropout_prob=0.2`, and hub keywords such as `decoder_revision=`.
                `decoder_from_tf=True` (or from_flax, from_pt) loads the weights that this framework wrote, if a folder
                has several. Without a prefix: values of the pair's own config, and hub keywords for both halves.

        Returns:
            The model, in evaluation mode, with `join_report`.

        Raises:
            JoinError, ConfigError, WeightError, FileError: the halves cannot be loaded or joined.
        """
        wanted, device = pop_dtype(dtype, keywords), pop_device(device, keywords)
        names = encoder_pretrained_model_name_or_path, decoder_pretrained_model_name_or_path
        layers = {"encoder_layers": encoder_layers, "decoder_layers": decoder_layers}
        sources = find_sources(*names, keywords, read_half, **layers)
        model = cls._empty()
        values = keywords | {"share": share, "cross_attention_init": cross_attention_init}
        values |= {"encoder_attention": encoder_attention, "source_layers": source_layers}
        model._join(sources, values, wanted, device)
        if source_template is not None:
            model.set_source_template(source_template)
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
        merge_adapter: bool = True,
        **overrides: Any,
    ) -> Self:
        """Load a joined pair or a whole seq2seq checkpoint (BART, T5), saved by conjoin or by transformers.

        Args:
            dtype: Dtype of the parameters; by default that of the checkpoint.
            generation_config: Replaces the folder's; a GenerationConfig of ours or of transformers, or a dict.
            merge_adapter: Merge an adapter that was saved beside the weights (`conjoin train --lora`) into them; False
                leaves it out, as for peft.PeftModel.from_pretrained(model, folder).
            overrides: Config values; revision, cache_dir, local_files_only, token, subfolder for the hub; and from_tf,
                from_flax or from_pt=True to load the weights that this framework wrote, if a folder has several. Or
                `encoder`, a module of yours that the saved state of its class is loaded into, and its `encoder_mask`.

        Raises:
            WeightError: missing, misshapen, truncated or non-finite tensors, all of them in one error.
            ConfigError, FileError: unreadable or unknown config, no such folder or hub id.
        """
        if "encoder" in overrides:
            return _foreign().load(name_or_path, dtype=dtype, device=device, **overrides)
        wanted, device = pop_dtype(dtype, overrides), pop_device(device, overrides)
        saved = find_saved(name_or_path, config, overrides)
        model = cls._empty()
        model._tokenizer_folders = OneFolder(saved.folder)
        if is_quantized(saved.config):
            model._load_quantized(saved, wanted, device)
            model.load_generation_config(saved.folder, generation_config, saved.settings)
        else:
            with open_saved(saved) as (pair, plan, checkpoint):
                model._build(saved.config, pair)
                materialise(model, wanted or stored_dtype(checkpoint), device)
                model.load_generation_config(saved.folder, generation_config, saved.settings)
                model._fill(plan)
        complete_tokens(saved.config, saved.folder)
        if merge_adapter:
            merge_saved_adapter(model, saved.folder)
        return model.eval()

    def _load_quantized(self, saved: Saved, dtype: torch.dtype | None, device: torch.device | str | None) -> None:
        """Load a model that was saved after `quantize`."""
        self._build(saved.config, pair_spec(saved.config))
        with open_checkpoint(saved.folder) as checkpoint:
            fill_quantized(self, self.spec, checkpoint, dtype, device)

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        *,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        untied: bool = False,
        **keywords: Any,
    ) -> None:
        """Write config, weights and tokenizers, atomically: a killed save leaves the old folder or the new one.

        transformers can load the folder if it supports such a pair.

        Args:
            is_main_process: False writes nothing.
            state_dict: Parameters to write in place of the model's own, by the names of `model.state_dict()`.
            untied: Write shared parameters under both halves' names, so that transformers reads them as copies.
            keywords: Other arguments of transformers' method. save_function is ignored; others must have their
                defaults.

        Raises:
            FileError: the folder cannot be written.
            WeightError: state_dict lacks parameters, or has others.
        """
        reject_saving_kwargs(keywords)
        if is_main_process:
            save_pair(self, save_directory, max_shard_size=max_shard_size, untied=untied, state=state_dict)

    def write(self, staging: Staging, state: dict[str, Tensor] | None = None) -> None:
        """Write the model into a folder that will be a checkpoint, beside its other files (`saving.write_pair`)."""
        write_pair(self, staging, state=state)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "5GB",
    ) -> str:
        """Save the model and upload it as one commit; the repository is created if it does not exist.

        Returns:
            The URL of the commit.

        Raises:
            FileError: the hub refuses or cannot be reached.
        """
        return hub.push(self, repo_id, commit_message, private, token, revision, create_pr, max_shard_size)

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
        """Return the logits at every target position and, if labels are given, the loss.

        Args:
            attention_mask: [B, S], 1 at real source tokens; None means that all tokens are real.
            decoder_input_ids: Computed from labels by default: start id, then labels[:-1].
            decoder_attention_mask: [R, T]; computed from labels by default, except in whole checkpoints (BART, T5),
                which were trained without.
            encoder_outputs: Output of an earlier call, in place of input_ids.
            past_key_values: Cache that an earlier call returned, with target positions and the source's keys and
                values.
            labels: labels[t] is what target position t must predict; -100 is not counted.
            use_cache: Return past_key_values; None follows the decoder's config, and is False in training or with
                labels.
            num_items_in_batch: Divide the summed loss by this number, that of counted labels of a whole accumulated
                batch.
            smoothing: Label smoothing: share of every target that is spread over the vocabulary. Its name lacks "label"
                because some trainers take every argument with "label" in its name for labels.
            output_logits: False computes the loss without keeping logits, at the counted labels only. Halves that are
                one language model then take one pass, which has no states of an encoder.
            segment_ids, decoder_segment_ids: For rows that hold several pairs: number of the pair of each token, from
                1, and 0 at padding. Pairs do not see each other; each starts at position 0 and with the start id.

        Raises:
            ShapeError: inputs are missing, contradict each other or exceed the position table.
            ConfigError: labels are given, but no start id is known.
        """
        past_key_values = as_cache(past_key_values)
        labels = as_labels(labels)
        reads_source = past_key_values is None or not past_key_values.cross
        unusual = (past_key_values, encoder_outputs, inputs_embeds, decoder_inputs_embeds, token_type_ids, position_ids)
        unusual += (decoder_token_type_ids, decoder_position_ids, segment_ids, decoder_segment_ids)
        returns_more = output_logits or use_cache or output_attentions or output_hidden_states
        if labels is not None and not returns_more and all(each is None for each in unusual):
            inputs = (input_ids, attention_mask, decoder_input_ids, decoder_attention_mask)
            states = counted_states(self, *inputs, labels)
            if states is not None:
                counted = labels[labels != IGNORED]
                loss = self.decoder.loss(states, counted, num_items=num_items_in_batch, label_smoothing=smoothing)
                output = Seq2SeqLMOutput(loss=loss)
                return output if chosen(return_dict, self.config.return_dict) else output.to_tuple()
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
        like, wide = self.decoder.embed.words.weight, self.decoder.spec.reads_wide_states
        encoded = as_readable(encoder_outputs, self.encoder.spec.output_size, like, wide=wide)
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels, decoder_segment_ids)
            if decoder_attention_mask is None and isinstance(self.config, EncoderDecoderConfig):
                implied = label_inputs(labels, special_tokens(self.config), self.decoder.spec, decoder_segment_ids)
                decoder_attention_mask = implied["decoder_attention_mask"]
                if decoder_position_ids is None:
                    decoder_position_ids = implied.get("decoder_position_ids")
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
        """The default of `use_cache`."""
        return self.decoder.config.use_cache and labels is None and not self.training

    def _loss(
        self, decoded: DecoderOutput, labels: Tensor, num_items: Tensor | int | None, smoothing: float
    ) -> Float[Tensor, ""]:
        if decoded.logits is not None:
            return token_loss(decoded.logits, labels, num_items=num_items, label_smoothing=smoothing)
        assert decoded.last_hidden_state is not None
        counted = labels != IGNORED
        states = decoded.last_hidden_state[counted]
        return self.decoder.loss(states, labels[counted], num_items=num_items, label_smoothing=smoothing)

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
        """Generate a target for every source: by greedy, sampled, beam, contrastive or assisted decoding.

        Args:
            inputs: Source ids.
            generation_config: Settings of this call: a GenerationConfig, ours or transformers', or a dict. They
                override the model's own, and keyword arguments override them.
            logits_processor, stopping_criteria: Processors that run after those of the settings, and criteria that
                apply as well as theirs. All rows stay in the batch for them, unless every processor has a
                `select(rows)` that tells it which rows are left: a finished beam is replaced by a live one of its
                source, and a finished source continues with pad ids, for which they have no effect.
            prefix_allowed_tokens_fn: (source index, ids so far) -> ids that may follow; called for live rows only.
            assistant_model: A smaller joined model that drafts.
            streamer: Receives tokens as soon as they are certain; with beams, these are the tokens that all beams which
                may still win have in common. It is told once of the end, also after an error.
            keywords: Settings by name; attention_mask, decoder_input_ids (a prefix of the target),
                decoder_attention_mask, encoder_outputs, inputs_embeds, token_type_ids, position_ids, tokenizer;
                generator, a torch.Generator that samples, or a list of one per source, each of which then draws what
                it draws alone, whatever its batch; and past_key_values, the cache of an earlier call for the first
                tokens of decoder_input_ids, which is not changed. max_new_tokens=0 returns the prompts.

        Returns:
            Ids [B * num_return_sequences, t], start id included and padded with the pad id (transformers' beam search
            pads with the end id if the pad id is 0); or an output object with `return_dict_in_generate=True`. Beam
            search returns each hypothesis once: a source with fewer hypotheses than requested has fewer rows, which a
            warning says, and whose numbers are in `results_per_source` of the output object.

        Raises:
            GenerationError: settings are unknown, contradictory or not supported, or leave a row no token; or scores
                are NaN.
        """
        self.warn_of_fresh(lambda: plain_state(self))
        with profiled_call(self):
            return generate(
                self,
                inputs,
                generation_config,
                logits_processor,
                stopping_criteria,
                prefix_allowed_tokens_fn,
                assistant_model,
                streamer,
                **keywords,
            )

    def generate_results(self, **inputs: Any) -> Decoded:
        """Return what `generate` returns, with what beam search knows of its results, at no cost.

        `generate` with return_dict_in_generate=True has all of that too, but stores what it needs for its other outputs
        at every step.

        Args:
            inputs: As for `generate`: sources, settings, generator, tokenizer.

        Returns:
            `sequences`, and with beams `scores` (log-probability / length ** length_penalty) and `counts`, the number
            of results of each source.

        Raises:
            GenerationError: as `generate`.
        """
        self.warn_of_fresh(lambda: plain_state(self))
        with profiled_call(self):
            return generate_results(self, **inputs)

    def generate_batches(self, batches: Iterable[tuple[K, dict[str, Any]]]) -> Iterator[tuple[K, Decoded | Exception]]:
        """Yield the results of batch after batch, each as soon as it is done: what `generate_results` returns.

        In greedy and beam search by compiled kernels the next batch joins when half of the one before it is done, so
        that rows stay many; results are those of each batch alone, to the bit. Elsewhere batches run one by one.

        Args:
            batches: Names of any kind, and arguments of `generate_results`. They are read when there is room for them;
                if that fails, those that were read are generated before the error is raised.

        Yields:
            A batch's name, and its results or what it raised.

        Example:
            for name, results in model.generate_batches([("a", {"input_ids": a}), ("b", {"input_ids": b})]):
                print(name, results.sequences)
        """
        self.warn_of_fresh(lambda: plain_state(self))
        with profiled_call(self):
            yield from generate_batches(self, batches)

    @contextmanager
    def profile(self) -> Generator[Profile]:
        """Measure where the time of this model's `generate` goes, in this thread: `with model.profile() as profile:`.

        Print the profile afterwards: phases, their shares, and how near they are to what the machine allows. With
        CONJOIN_PROFILE=1 in the environment, every call of `generate` prints its own.
        """
        profile = open_profile(self)
        with as_running(profile.clock):
            yield profile

    def compute_transition_scores(
        self,
        sequences: Int[Tensor, "R t"],
        scores: tuple[Float[Tensor, "R2 V"], ...],
        beam_indices: Int[Tensor, "R o"] | None = None,
        normalize_logits: bool = False,
    ) -> Float[Tensor, "R o2"]:
        """Return the score of every generated token."""
        return compute_transition_scores(sequences, scores, beam_indices, normalize_logits)

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
        """Return the arguments of `forward` for the next step.

        Args:
            input_ids: The targets so far, including positions that past_key_values holds.
            next_sequence_length: Number of new ids at the end; by default those that past_key_values does not hold.
            attention_mask: [B, S], mask of the sources.
            inputs_embeds: Ignored: `encoder_outputs` replaces the embeddings of the sources.
            keywords: `encoder_outputs`, `use_cache` and other arguments of `forward`.
        """
        return step_inputs(input_ids, next_sequence_length, past_key_values, attention_mask, keywords)

    def _prepare_encoder_decoder_kwargs_for_generation(
        self,
        inputs_tensor: Tensor,
        model_kwargs: dict[str, Any],
        model_input_name: str | None = None,
        generation_config: Any = None,
    ) -> dict[str, Any]:
        """Return a call's inputs with the encoder's output added; older versions of peft call this."""
        name = model_input_name or self.main_input_name
        return encoded_inputs(self.get_encoder(), inputs_tensor, name, model_kwargs, generation_config)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        *,
        encoder: int | None = None,
        decoder: int | None = None,
        new_rows: NewRows = "mean",
    ) -> nn.Module:
        """Change the vocabulary sizes. Optimizers that exist already must be created again.

        If the halves share one token embedding, either size changes both.

        Args:
            new_num_tokens: New size for halves that share one token embedding.
            pad_to_multiple_of: Round the sizes up to a multiple of this; tensor cores like 64.
            encoder, decoder: New size of that half's vocabulary, as `len(tokenizer)`.
            new_rows: Initialisation of added rows: the mean of the old ones (Hewitt 2021, "Initializing New Word
                Embeddings for Pretrained Language Models", as in transformers), or drawn as the half's fresh tables
                are.

        Returns:
            The encoder's token embedding.

        Raises:
            ConfigError: there is no size, one size for two separate embeddings, or two sizes for a shared one; the
                model is quantised; or a size leaves out an id that the model itself uses.
        """
        resize(self, new_num_tokens, pad_to_multiple_of, encoder, decoder, new_rows)
        return self.get_input_embeddings()

    def freeze(self, *parts: str) -> Self:
        """Stop training these parts.

        Parts are named as in the join report: `encoder.embedding`, `encoder.layers`, `decoder.embedding`,
        `decoder.layers`, `decoder.head` and `decoder.cross_attention` (with the width projection). A single name
        selects all parts that contain it: "encoder", "decoder", "embeddings", "layers", "cross_attention", "head".

        Raises:
            ConfigError: there is no such part; the message lists all parts.
        """
        freezing.set_trained(self, self.spec, freezing.select(self, parts), False)
        return self

    def unfreeze(self, *parts: str) -> Self:
        """Train these parts again; without names, all parts. Tables that are never trained stay so.

        Raises:
            ConfigError: there is no such part; the message lists all parts.
        """
        freezing.set_trained(self, self.spec, freezing.select(self, parts) if parts else self.parts(), True)
        return self

    def train_only(self, *parts: str) -> Self:
        """Train these parts and nothing else, as in `model.train_only("cross_attention")`.

        Raises:
            ConfigError: there is no such part; the message lists all parts.
        """
        chosen = freezing.select(self, parts)
        self.requires_grad_(False)
        freezing.set_trained(self, self.spec, chosen, True)
        return self

    def parts(self) -> set[str]:
        """Return the names of all parts."""
        return freezing.parts(self)

    def frozen_parts(self) -> list[str]:
        """Return the parts that have no trained parameter."""
        return freezing.frozen_parts(self)

    def quantize(self, method: str = "int8") -> Self:
        """Quantise all linear layers and the vocabulary matrix to 8 bits, in place; for inference only.

        Returns:
            The model itself. It can be saved and loaded, but not trained or converted back.

        Raises:
            ConfigError: the method is unknown, or the model is quantised already.
        """
        quantize(self, self.config, method)
        return self

    def doctor(self, batch: Mapping[str, Any]) -> Diagnosis:
        """Check that this model can learn from a batch; call it with the first batch of training.

        It checks that no target position reads later ones; the source changes the logits; ids, padding and labels are
        valid; training and generation start with the same id; the loss is plausible for the start of training; and
        fresh parameters receive gradients. Parameters, gradients, random state and mode are unchanged.

        Args:
            batch: Arguments of forward, with `labels`.

        Returns:
            Findings; print them. `.ok` is True if all checks passed, and each failed one has its `fix`.
        """
        return examine(self, batch)


def _foreign() -> Any:
    """Return the class of pairs with a foreign encoder, whose module imports this one."""
    return import_module("conjoin.torch.pair.foreign").ForeignPair
