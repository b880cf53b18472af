"""TFEncoderDecoderModel: any encoder joined to any decoder, on TensorFlow."""

from collections.abc import Callable, Sequence
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any, no_type_check

import keras
import tensorflow as tf

from conjoin.checkpoint import replacing_folder
from conjoin.errors import ConfigError, MissingBackend
from conjoin.families import PretrainedConfig
from conjoin.functional.loss import decoder_inputs
from conjoin.functional.programs import ForwardOptions, encode, forward
from conjoin.generation.prompt import encoder_states
from conjoin.pretrained.keywords import Placing
from conjoin.pretrained.sources import random_plan
from conjoin.pretrained.writing import write_pair
from conjoin.tensorflow import calls
from conjoin.tensorflow.decoding import generate
from conjoin.tensorflow.elsewhere import ELSEWHERE
from conjoin.tensorflow.export import save_program
from conjoin.tensorflow.ops import OPS
from conjoin.tensorflow.outputs import EncoderOutput, Seq2SeqLMOutput
from conjoin.tensorflow.variables import VariableModel

if keras.backend.backend() != "tensorflow":
    raise MissingBackend(
        f"Keras runs on {keras.backend.backend()} in this process; TFEncoderDecoderModel needs it on TensorFlow.",
        hint="set KERAS_BACKEND=tensorflow before anything imports keras; or use FlaxEncoderDecoderModel.",
    )


class TFEncoderDecoderModel(VariableModel):
    """A sequence-to-sequence model made of two pretrained halves (Rothe et al. 2020, arXiv:1907.12461).

    Named and called as transformers 4's class. Everything that EncoderDecoderModel joins in PyTorch is joined here,
    from and to the same files.

    Args:
        config: A pair's config, or a whole seq2seq model's (BART, T5).
        seed: Of the random parameters.
        dtype: Keras's dtype policy, "mixed_bfloat16" say; Keras's global one if missing, or the checkpoint's dtype if
            this is narrower.

    Attributes:
        join_report: Where every parameter came from; print it.
    """

    elsewhere = ELSEWHERE
    placing = Placing(
        "TensorFlow places variables by itself.",
        hint="with tf.device(...): or, for several devices, with strategy.scope():",
    )

    @no_type_check  # a checker's wrapper would hide the arguments, which Keras reads from the function itself
    def __init__(
        self,
        config: PretrainedConfig | None = None,
        encoder: Any = None,
        decoder: Any = None,
        *,
        seed: int = 0,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        if config is None or encoder is not None or decoder is not None:
            raise ConfigError(
                "TFEncoderDecoderModel(config) takes a config alone.",
                hint="TFEncoderDecoderModel.from_encoder_decoder_pretrained(encoder_model=..., decoder_model=...)",
            )
        pair, plan = random_plan(config)
        self._build(config, pair, plan, stored="float32", dtype=dtype, seed=seed, name=name)
        self.load_generation_config(None)

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        saved_model: bool = False,
        version: int = 1,
        *,
        max_shard_size: int | str = "5GB",
        untied: bool = False,
        **settings: Any,
    ) -> None:
        """Write config, weights (safetensors) and tokenizers, atomically; the files that PyTorch's class writes.

        `conjoin convert FOLDER --to tensorflow` writes them as tf_model.h5.

        Args:
            saved_model: Write a SavedModel too, to `saved_model/{version}`, for TensorFlow Serving: signatures
                serving_default, int64_serving, generate and int64_generate. It runs without conjoin.
            untied: Write shared parameters under both halves' names, so that transformers reads them as copies.
            settings: Of the generate signatures, such as max_new_tokens; others are the generation config's.
        """
        if settings and not saved_model:
            raise ConfigError(
                f"save_pretrained() takes {', '.join(settings)} with saved_model=True only: settings of generate.",
                hint="model.generation_config holds what is saved with the model.",
            )
        with replacing_folder(Path(save_directory)) as staging:
            write_pair(self, staging, self.all_params(), max_shard_size=max_shard_size, untied=untied)
        if saved_model:
            save_program(self, Path(save_directory) / "saved_model" / str(version), settings)

    def save(self, *args: Any, **keywords: Any) -> None:
        """Keras's own files would not load again.

        Raises:
            ConfigError: always, with what does.
        """
        raise ConfigError(
            "model.save: Keras's own files (.keras) do not hold a joined model.",
            hint="model.save_pretrained(folder), with saved_model=True for serving; or model.save_weights(path); "
            "of keras.callbacks.ModelCheckpoint, save_weights_only=True.",
        )

    def export(self, *args: Any, **keywords: Any) -> None:
        """A SavedModel is written by save_pretrained.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "model.export: not there.", hint="model.save_pretrained(folder, saved_model=True) writes a SavedModel."
        )

    def get_encoder(self) -> Any:
        """The encoder as a function: `encode`."""
        return self.encode

    def prepare_decoder_input_ids_from_labels(self, labels: Any) -> Any:
        """The start id, then labels[:-1]; -100 becomes the pad id."""
        rules = calls.target_rules(self.config, {"labels": labels})
        assert rules is not None
        return decoder_inputs(OPS, rules, tf.cast(tf.convert_to_tensor(labels), tf.int32), None)

    def encode(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        *,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        training: bool = False,
    ) -> EncoderOutput | tuple[Any, ...]:
        """Vectors of every source position, to be given as `encoder_outputs`."""
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        options = ForwardOptions(hidden_states=output_hidden_states, attentions=output_attentions)
        encoded = encode(self.key, options, self.scope(training), calls.prepared(given, self.spec))
        output = EncoderOutput(**encoded._asdict())
        return output if return_dict else output.to_tuple()

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """`call`; the inputs may also stand in one dict, or in one list or tuple in its order."""
        return keras.Model.__call__(self, **calls.named(type(self).__name__, ARGUMENTS, inputs, keywords))

    def call(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        decoder_inputs_embeds: Any = None,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = False,
        *,
        position_ids: Any = None,
        token_type_ids: Any = None,
        segment_ids: Any = None,
        decoder_position_ids: Any = None,
        decoder_token_type_ids: Any = None,
        decoder_segment_ids: Any = None,
    ) -> Seq2SeqLMOutput | tuple[Any, ...]:
        """Scores of the next token at every target position, and the loss where labels are given.

        Args:
            input_ids: [B, S]. The model itself, `model(...)`, also takes a dict of all inputs, as tf.data and `fit`
                give them.
            attention_mask: [B, S], 1 at real source tokens; all are real if it is missing.
            decoder_input_ids: Made from labels if missing: start id, then labels[:-1].
            encoder_outputs: What `encode` returned, in place of input_ids.
            labels: labels[t] is what target position t must predict; -100 is not counted.
            segment_ids, decoder_segment_ids: Packed rows.

        Raises:
            ShapeError: inputs that are missing, contradict each other or exceed the position table.
            ConfigError: labels are given, but no start id is known.
        """
        if past_key_values is not None or use_cache:
            raise ConfigError("past_key_values and use_cache: a call keeps no cache here.", hint="model.generate(...)")
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": decoder_attention_mask,
            "encoder_outputs": None if encoder_outputs is None else encoder_states(encoder_outputs),
            "inputs_embeds": inputs_embeds,
            "decoder_inputs_embeds": decoder_inputs_embeds,
            "labels": labels,
            "position_ids": position_ids,
            "token_type_ids": token_type_ids,
            "segment_ids": segment_ids,
            "decoder_position_ids": decoder_position_ids,
            "decoder_token_type_ids": decoder_token_type_ids,
            "decoder_segment_ids": decoder_segment_ids,
        }
        batch = calls.prepared(given, self.spec)
        rules = calls.target_rules(self.config, batch)
        options = ForwardOptions(
            hidden_states=bool(output_hidden_states), attentions=bool(output_attentions), rules=rules
        )
        output = Seq2SeqLMOutput(**forward(self.key, options, self.scope(bool(training)), batch))
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def generate(
        self,
        input_ids: Any = None,
        generation_config: Any | None = None,
        logits_processor: Sequence[Callable[..., Any]] | None = None,
        seed: Any = None,
        *,
        jit_compile: bool = False,
        **keywords: Any,
    ) -> Any:
        """Write a target for every source: greedily, sampled or by beams.

        The loop is traced once per kind of request and serves every batch and length. It may also be called inside the
        caller's own tf.function, compiled or not; the result is padded to the longest length there.

        Args:
            input_ids: Source ids [B, S], TensorFlow's or numpy's.
            logits_processor: The caller's own, each called with (ids [R, L], scores [R, V], length) on traced tensors.
            seed: What words are drawn with; from tf.random's state if missing.
            jit_compile: Compile with XLA, once per batch size and multiple of 64 source positions: slower at first,
                faster then.
            keywords: Settings by name; and attention_mask, decoder_input_ids (a prefix of the target),
                decoder_attention_mask, encoder_outputs, inputs_embeds, token_type_ids, position_ids.

        Returns:
            Ids [B * num_return_sequences, t], start id included, the pad id behind their ends; with
            return_dict_in_generate=True an output with `sequences` and, of beams, `sequences_scores`.

        Beams return each hypothesis once: where a source has fewer, `results_per_source` says so, and inside a
        tf.function the places left over hold pads and a score of -inf.

        Raises:
            GenerationError: settings that are unknown, contradict each other or cannot be honoured here, or that leave
                a row no token; or scores that are not numbers. Inside a tf.function, InvalidArgumentError; inside one
                compiled with XLA, which knows no errors, -1 in the place of the tokens.
        """
        return generate(self, input_ids, generation_config, tuple(logits_processor or ()), seed, jit_compile, keywords)


ARGUMENTS = tuple(signature(TFEncoderDecoderModel.call).parameters)[1:]
"""What a call takes, in transformers' order."""
