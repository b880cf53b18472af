"""FlaxEncoderDecoderModel: any encoder joined to any decoder, on JAX."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conjoin import spec
from conjoin.errors import ConfigError
from conjoin.families import PretrainedConfig
from conjoin.functional.cache import Cache
from conjoin.functional.reader import step_matrices
from conjoin.jax import calls
from conjoin.jax.decoding import Generates
from conjoin.jax.doctor import WithDoctor
from conjoin.jax.dtypes import dtype_name
from conjoin.jax.elsewhere import ELSEWHERE
from conjoin.jax.loading import Params, fill
from conjoin.jax.outputs import DecoderOutput, EncoderOutput, Seq2SeqLMOutput, as_encoder_output
from conjoin.jax.params import Turned, cast, check_names, flatten, nest
from conjoin.jax.programs import How, Net
from conjoin.jax.saving import save_pair
from conjoin.join import JoinReport, plan_random
from conjoin.pretrained.filling import ties_of
from conjoin.pretrained.joined import FromCheckpoints, random_plan
from conjoin.pretrained.keywords import Placing

Given = Mapping[str, Any]
"""Parameters as users hold them: nested or flat."""


class FlaxEncoderDecoderModel(Generates, WithDoctor, FromCheckpoints):
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

    bucket_size = 64
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
        self._take(config, pair, plan, stored="float32", dtype=dtype, seed=seed)

    def _take(
        self,
        config: PretrainedConfig,
        pair: spec.PairSpec,
        plan: JoinReport,
        *,
        stored: str,
        dtype: Any,
        seed: int = 0,
        given: Mapping[str, jax.Array] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.config, self.spec = config, pair
        self.dtype = None if dtype is None else dtype_name(dtype)
        self.join_report = plan
        self.net = Net(self.spec, ties_of(plan), self.dtype)
        self._params = fill(plan, stored, seed=seed, given=given)
        self.turned = Turned(step_matrices(pair, self.net.ties))
        self.take_generation_config(folder)

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        params: Given | None = None,
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

    @property
    def params(self) -> dict[str, Any]:
        """The parameters as nested dicts of canonical names; a shared one stands once."""
        return nest(self._params)

    @params.setter
    def params(self, params: Given) -> None:
        flat = flatten(params)
        check_names(flat, self._params)
        self._params = {name: flat[name] for name in self._params}

    @property
    def flat_params(self) -> Params:
        """The same as one dict of dotted names."""
        return dict(self._params)

    def all_params(self, params: Mapping[str, jax.Array] | None = None) -> Params:
        """Flat parameters, shared ones under every name."""
        flat = self._params if params is None else params
        return dict(flat) | {name: flat[same] for name, same in self.net.ties}

    def flat(self, params: Given | None) -> Params:
        """Parameters of a call as one dict of dotted names; the model's own if missing.

        Raises:
            WeightError: they are not this model's.
        """
        if params is None:
            return self._params
        flat = flatten(params)
        check_names(flat, self._params, also=dict(self.net.ties))
        return {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in flat.items()}

    def to_bf16(self, params: Given, mask: Given | None = None) -> dict[str, Any]:
        """Parameters in bfloat16; set `model.params` to them, or give them to a call."""
        return cast(params, "bfloat16", mask)

    def to_fp16(self, params: Given, mask: Given | None = None) -> dict[str, Any]:
        """Parameters in float16."""
        return cast(params, "float16", mask)

    def to_fp32(self, params: Given, mask: Given | None = None) -> dict[str, Any]:
        """Parameters in float32."""
        return cast(params, "float32", mask)

    def num_parameters(self) -> int:
        """Numbers in the model, shared ones once."""
        return sum(value.size for value in self._params.values())

    def init_weights(self, rng: Any, input_shape: Any = None, params: Given | None = None) -> dict[str, Any]:
        """Fresh random parameters, those of `params` kept (transformers' method).

        Args:
            rng: A jax.random key.
        """
        seed = int(jax.random.randint(rng, (), 0, jnp.iinfo(jnp.int32).max))
        fresh = fill(plan_random(self.spec), "float32", seed=seed)
        fresh = {name: fresh[name] for name in self._params}
        return nest(fresh | ({} if params is None else flatten(params)))

    def init_cache(self, batch_size: int, max_length: int, encoder_outputs: Any, params: Given | None = None) -> Cache:
        """An empty cache for `decode`, which holds the source's keys and values, computed once.

        Args:
            batch_size: Target rows: a multiple of the sources.
            max_length: Positions to reserve.
        """
        return calls.start_cache(self, batch_size, max_length, as_encoder_output(encoder_outputs), self.flat(params))

    def encode(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        train: bool = False,
        params: Given | None = None,
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
        how = How(hidden_states=bool(output_hidden_states), attentions=bool(output_attentions))
        output = calls.encode(self, how, given, self.flat(params), calls.dropout(train, dropout_rng))
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
        params: Given | None = None,
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
        how = How(hidden_states=bool(output_hidden_states), attentions=bool(output_attentions))
        states = None if encoder_outputs is None else as_encoder_output(encoder_outputs).last_hidden_state
        rng = calls.dropout(train, dropout_rng)
        output = calls.decode(self, how, given, states, past_key_values, self.flat(params), rng)
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
        params: Given | None = None,
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
        calls.check_words(more)
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
            given["encoder_outputs"] = as_encoder_output(encoder_outputs).last_hidden_state
        how = How(
            hidden_states=bool(output_hidden_states),
            attentions=bool(output_attentions),
            recompute=gradient_checkpointing,
            rules=calls.target_rules(self.config, given),
            smoothing=smoothing,
            output_logits=output_logits,
        )
        output = calls.forward(self, how, given, self.flat(params), calls.dropout(train, dropout_rng))
        return output.to_tuple() if calls.wants_tuple(self.config, return_dict) else output
