"""FlaxEncoderDecoderModel: any encoder joined to any decoder, on JAX."""

from collections.abc import Callable, Collection, Mapping, Sequence
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp

from conjoin.errors import ConfigError
from conjoin.families import PretrainedConfig
from conjoin.functional.cache import Cache
from conjoin.functional.programs import ForwardOptions
from conjoin.generation.prompt import encoder_states
from conjoin.jax import calls
from conjoin.jax.decoding import generate
from conjoin.jax.doctor import examine
from conjoin.jax.elsewhere import ELSEWHERE
from conjoin.jax.outputs import DecoderOutput, EncoderOutput, GenerateOutput, Seq2SeqLMOutput
from conjoin.jax.params import ParameterModel, ParamTree, as_array, cast, flatten, nest
from conjoin.jax.saving import save_pair
from conjoin.join import plan_random
from conjoin.join.diagnosis import Diagnosis
from conjoin.pretrained.filling import fill
from conjoin.pretrained.keywords import Placing
from conjoin.pretrained.sources import random_plan


class FlaxEncoderDecoderModel(ParameterModel):
    """A sequence-to-sequence model made of two pretrained halves (Rothe et al. 2020, arXiv:1907.12461).

    Named and called as transformers 4's class; it needs JAX alone. Everything that EncoderDecoderModel joins in PyTorch
    is joined here, from and to the same files. Calls take JAX's arrays or numpy's.

    Args:
        config: A pair's config, or a whole seq2seq model's (BART, T5).
        input_shape: Not needed; taken because transformers' class takes it.
        seed: Of the random parameters.
        dtype: What numbers are computed in; None computes in the parameters' own. Parameters stay as they are: see
            `to_bf16`.

    Attributes:
        join_report: Where every parameter came from; print it.
        bucket_size: Lengths are padded to multiples of it, so that not every length is compiled anew; 1 never pads.
    """

    elsewhere = ELSEWHERE
    placing = Placing(
        "JAX places arrays by itself.",
        hint="jax.default_device(...), or conjoin.jax.sharding.shard_params for several devices.",
    )

    def __init__(
        self,
        config: PretrainedConfig,
        input_shape: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1)),
        seed: int = 0,
        dtype: Any = None,
        _do_init: bool = True,
    ) -> None:
        if not _do_init:
            raise ConfigError("_do_init=False: a model without parameters.", hint="give params= to each call instead.")
        pair, plan = random_plan(config)
        self._build(config, pair, plan, stored="float32", dtype=dtype, seed=seed)
        self.load_generation_config(None)

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        params: ParamTree | None = None,
        *,
        max_shard_size: int | str = "5GB",
        untied: bool = False,
    ) -> None:
        """Write config, weights (safetensors) and tokenizers, atomically; the files that PyTorch's class writes.

        Args:
            params: In place of the model's own.
            untied: Write shared parameters under both halves' names, so that transformers reads them as copies.
        """
        state = self.all_params(self.flat(params))
        save_pair(self, state, save_directory, max_shard_size=max_shard_size, untied=untied)

    def to_bf16(self, params: ParamTree, mask: ParamTree | None = None) -> dict[str, Any]:
        """Parameters in bfloat16; set `model.params` to them, or give them to a call."""
        return cast(params, "bfloat16", mask)

    def to_fp16(self, params: ParamTree, mask: ParamTree | None = None) -> dict[str, Any]:
        """Parameters in float16."""
        return cast(params, "float16", mask)

    def to_fp32(self, params: ParamTree, mask: ParamTree | None = None) -> dict[str, Any]:
        """Parameters in float32."""
        return cast(params, "float32", mask)

    def init_weights(self, rng: Any, input_shape: Any = None, params: ParamTree | None = None) -> dict[str, Any]:
        """Fresh random parameters, those of `params` kept (transformers' method).

        Args:
            rng: A jax.random key.
        """
        seed = int(jax.random.randint(rng, (), 0, jnp.iinfo(jnp.int32).max))
        fresh = fill(plan_random(self.spec), "float32", as_array, seed=seed)
        fresh = {name: fresh[name] for name in self._params}
        return nest(fresh | ({} if params is None else flatten(params)))

    def init_cache(
        self,
        batch_size: int,
        max_length: int,
        encoder_outputs: Any,
        params: ParamTree | None = None,
        attention_mask: Any = None,
    ) -> Cache:
        """An empty cache for `decode`, which holds the source's keys and values, computed once.

        Args:
            batch_size: Target rows: a multiple of the sources.
            max_length: Positions to reserve.
            attention_mask: [B, S] of the sources, whose positions count where they are read layer by layer.
        """
        states = jnp.asarray(encoder_states(encoder_outputs))
        mask = None if attention_mask is None else jnp.asarray(attention_mask) != 0
        return calls.start_cache(self, batch_size, max_length, states, mask, self.flat(params))

    def encode(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        train: bool = False,
        params: ParamTree | None = None,
        dropout_rng: Any = None,
        *,
        token_type_ids: Any = None,
        inputs_embeds: Any = None,
    ) -> EncoderOutput | tuple[Any, ...]:
        """Vectors of every source position.

        Args:
            input_ids: [B, S]; or inputs_embeds [B, S, C] in their place.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "token_type_ids": token_type_ids,
            "inputs_embeds": inputs_embeds,
        }
        options = ForwardOptions(hidden_states=bool(output_hidden_states), attentions=bool(output_attentions))
        output = calls.encode(self, options, given, self.flat(params), calls.dropout(train, dropout_rng))
        return output.to_tuple() if calls.wants_tuple(self.config, return_dict) else output

    def decode(
        self,
        decoder_input_ids: Any = None,
        encoder_outputs: Any = None,
        encoder_attention_mask: Any = None,
        decoder_attention_mask: Any = None,
        decoder_position_ids: Any = None,
        past_key_values: Cache | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        train: bool = False,
        params: ParamTree | None = None,
        dropout_rng: Any = None,
        *,
        decoder_token_type_ids: Any = None,
        decoder_inputs_embeds: Any = None,
    ) -> DecoderOutput | tuple[Any, ...]:
        """Scores of the next token at every target position.

        Args:
            encoder_outputs: What `encode` returned; not read where `past_key_values` is given.
            decoder_input_ids: [R, T].
            decoder_attention_mask: [R, T]; with a cache also [R, room], of which the new positions are read.
            past_key_values: From `init_cache`, or from the step before; the output has the next one. Positions are
                counted by the cache, so decoder_position_ids are not needed.
        """
        given = {
            "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": decoder_attention_mask,
            "decoder_position_ids": decoder_position_ids,
            "decoder_token_type_ids": decoder_token_type_ids,
            "decoder_inputs_embeds": decoder_inputs_embeds,
            "attention_mask": encoder_attention_mask,
        }
        options = ForwardOptions(hidden_states=bool(output_hidden_states), attentions=bool(output_attentions))
        states = None if encoder_outputs is None else jnp.asarray(encoder_states(encoder_outputs))
        rng = calls.dropout(train, dropout_rng)
        output = calls.decode(self, options, given, states, past_key_values, self.flat(params), rng)
        return output.to_tuple() if calls.wants_tuple(self.config, return_dict) else output

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        position_ids: Any = None,
        decoder_position_ids: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        train: bool = False,
        params: ParamTree | None = None,
        dropout_rng: Any = None,
        *,
        labels: Any = None,
        encoder_outputs: Any = None,
        smoothing: float = 0.0,
        gradient_checkpointing: bool = False,
        output_logits: bool = True,
        **more: Any,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Scores of the next token at every target position, and the loss where labels are given.

        It may be called inside the caller's own `jax.jit` and `jax.grad`, with `params` as their argument.

        Args:
            input_ids: [B, S].
            attention_mask: [B, S], 1 at real source tokens; all are real if it is missing.
            decoder_input_ids: [R, T]; made from labels if missing: start id, then labels[:-1].
            train: Drop out, with `dropout_rng`.
            labels: [R, T]; labels[t] is what target position t must predict; -100 is not counted.
            smoothing: Share of every target that is spread over the vocabulary.
            gradient_checkpointing: Compute each block again in the backward pass.
            more: inputs_embeds, decoder_inputs_embeds, token_type_ids, decoder_token_type_ids, segment_ids,
                decoder_segment_ids (packed rows) and num_items_in_batch (what the summed loss is divided by).

        Raises:
            ShapeError: inputs that are missing, contradict each other or exceed the position table.
            ConfigError: labels are given, but no start id is known.
        """
        calls.check_kwargs(more)
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": decoder_attention_mask,
            "position_ids": position_ids,
            "decoder_position_ids": decoder_position_ids,
            "labels": labels,
            **more,
        }
        if encoder_outputs is not None:
            given["encoder_outputs"] = jnp.asarray(encoder_states(encoder_outputs))
        options = ForwardOptions(
            hidden_states=bool(output_hidden_states),
            attentions=bool(output_attentions),
            recompute=gradient_checkpointing,
            rules=calls.target_rules(self.config, given),
            smoothing=smoothing,
            output_logits=output_logits,
        )
        output = calls.forward(self, options, given, self.flat(params), calls.dropout(train, dropout_rng))
        return output.to_tuple() if calls.wants_tuple(self.config, return_dict) else output

    def generate(
        self,
        input_ids: Any = None,
        generation_config: Any | None = None,
        prng_key: Any = None,
        trace: bool = True,
        params: Mapping[str, Any] | None = None,
        logits_processor: Sequence[Callable[..., Any]] | None = None,
        **keywords: Any,
    ) -> GenerateOutput:
        """Write a target for every source: greedily, sampled or by beams, in one compiled program.

        It may also be called inside the caller's own jax.jit or pmap, parameters as their argument or set before; the
        result is padded to the longest length there, and -1 stands where a row could not go on.

        Args:
            input_ids: Source ids [B, S], JAX's or numpy's.
            prng_key: What words are drawn with; jax.random.key(0) if missing, as in transformers.
            trace: False runs the loop in Python, uncompiled, to debug.
            logits_processor: The caller's own, each called with (ids [R, L], scores [R, V], length) on traced arrays.
            keywords: Settings by name; and attention_mask, decoder_input_ids (a prefix of the target),
                decoder_attention_mask, encoder_outputs, inputs_embeds, token_type_ids, position_ids.

        Returns:
            `sequences` [B * num_return_sequences, t], start id included, the pad id behind their ends; of beams also
            `scores`. Beams return each hypothesis once: where a source has fewer, `results_per_source` says so.

        Raises:
            GenerationError: settings that are unknown, contradict each other or cannot be honoured here, or that leave
                a row no token; or scores that are not numbers.
        """
        return generate(
            self, input_ids, generation_config, prng_key, trace, params, tuple(logits_processor or ()), keywords
        )

    def doctor(self, batch: Mapping[str, Any], trained: Collection[str] | None = None) -> Diagnosis:
        """Check that this model can learn from this batch; run it on the first one. The checks of PyTorch's doctor.

        Args:
            batch: What a call takes, with `labels`.
            trained: Names of the parameters that will be trained; all that can be if missing.

        Returns:
            Findings; print them. `.ok` says whether all is well, and each failed one has its `fix`.
        """
        return examine(self, batch, trained)
