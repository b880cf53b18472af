"""TFEncoderDecoderModel: any encoder joined to any decoder, on TensorFlow."""

from collections.abc import Mapping
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any, no_type_check

import keras
import numpy as np
import tensorflow as tf

from conjoin import spec
from conjoin.checkpoint import replacing_folder
from conjoin.errors import ConfigError, MissingBackend
from conjoin.families import PretrainedConfig
from conjoin.functional.loss import decoder_inputs
from conjoin.functional.ops import Ops
from conjoin.functional.scope import Scope
from conjoin.join import JoinReport
from conjoin.pretrained.filling import fill, ties_of
from conjoin.pretrained.joined import FromCheckpoints, random_plan
from conjoin.pretrained.keywords import Placing
from conjoin.pretrained.prompt import encoder_states
from conjoin.pretrained.writing import write_pair
from conjoin.tensorflow import calls
from conjoin.tensorflow.decoding import Generates, Programs
from conjoin.tensorflow.elsewhere import ELSEWHERE
from conjoin.tensorflow.export import save_program
from conjoin.tensorflow.ops import OPS
from conjoin.tensorflow.outputs import EncoderOutput, Seq2SeqLMOutput
from conjoin.tensorflow.programs import How, Net, encode, forward
from conjoin.tensorflow.training import Trains

if keras.backend.backend() != "tensorflow":
    raise MissingBackend(
        f"Keras runs on {keras.backend.backend()} in this process; TFEncoderDecoderModel needs it on TensorFlow.",
        hint="set KERAS_BACKEND=tensorflow before anything imports keras; or use FlaxEncoderDecoderModel.",
    )

_SEEDS = 2**31 - 1
"""Random states are int32; Keras's are wider."""


class Weights:
    """A model's variables by canonical name; a shared one stands once. Keras must not count them a second time."""

    def __init__(self, table: dict[str, keras.Variable]) -> None:
        self.table = table


class TFEncoderDecoderModel(Generates, FromCheckpoints, Trains, keras.Model):
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
        self._take(config, pair, plan, stored="float32", dtype=dtype, seed=seed, name=name)

    def _take(
        self,
        config: PretrainedConfig,
        pair: spec.PairSpec,
        plan: JoinReport,
        *,
        stored: str,
        dtype: Any,
        seed: int = 0,
        given: Mapping[str, np.ndarray] | None = None,
        folder: Path | None = None,
        name: str | None = None,
    ) -> None:
        dtype = dtype or (stored if stored in ("bfloat16", "float16") else None)
        keras.Model.__init__(self, dtype=dtype, name=name or "tf_encoder_decoder_model")
        self.config, self.spec = config, pair
        self.join_report = plan
        self.net = Net(self.spec, ties_of(plan))
        self._chance = keras.random.SeedGenerator(seed)
        arrays = fill(plan, self.variable_dtype, lambda array: array, seed=seed, given=given)
        self._held = Weights({name: self._variable(name, array) for name, array in arrays.items()})
        self._programs = Programs()
        self.built = True
        self.take_generation_config(folder)

    def _variable(self, name: str, array: np.ndarray) -> keras.Variable:
        def start(shape: Any, dtype: Any = None) -> Any:
            return tf.constant(array)

        return self.add_weight(shape=array.shape, initializer=start, dtype=self.variable_dtype, name=name)

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

    def all_params(self) -> dict[str, np.ndarray]:
        """Parameters as numpy arrays by canonical name, shared ones under every name."""
        flat = {name: np.asarray(tf.convert_to_tensor(v.value)) for name, v in self._held.table.items()}
        return flat | {name: flat[same] for name, same in self.net.ties}

    def num_parameters(self) -> int:
        """Numbers in the model, shared ones once."""
        return sum(int(np.prod(variable.shape)) for variable in self._held.table.values())

    def scope(self, training: bool = False, turned: Mapping[str, Any] | None = None, ops: Ops = OPS) -> Scope:
        """The parameters in the dtype of the computation, and in training the random state of dropout.

        Args:
            turned: Copies of matrices by their own names, beside the parameters.
            ops: TensorFlow's, or those that call kernels of our own.
        """
        rng = tf.cast(tf.cast(self._chance.next(), tf.int64) % _SEEDS, tf.int32) if training else None
        dtype = None if self.compute_dtype == self.variable_dtype else self.compute_dtype
        values = {name: v.value for name, v in self._held.table.items()}
        return self.net.scope(values | dict(turned or {}), dtype, rng, ops)

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
        how = How(hidden_states=output_hidden_states, attentions=output_attentions)
        output = encode(self.net, how, self.scope(training), calls.prepared(given, self.spec))
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
        how = How(hidden_states=bool(output_hidden_states), attentions=bool(output_attentions), rules=rules)
        output = forward(self.net, how, self.scope(bool(training)), batch)
        told = self.config.return_dict if return_dict is None else return_dict
        return output if told else output.to_tuple()


ARGUMENTS = tuple(signature(TFEncoderDecoderModel.call).parameters)[1:]
"""What a call takes, in transformers' order."""
