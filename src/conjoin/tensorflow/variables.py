"""The variables of a model, and the functions that were traced for it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from conjoin.families import PretrainedConfig
from conjoin.functional.ops import Ops
from conjoin.functional.programs import CompileKey
from conjoin.functional.scope import Scope
from conjoin.join import JoinReport
from conjoin.pretrained.filling import fill, ties_of
from conjoin.pretrained.joined import ArrayModel
from conjoin.spec import PairSpec, pair_parameters
from conjoin.tensorflow.ops import OPS
from conjoin.tensorflow.training import Trains

_SEEDS = 2**31 - 1
"""Random states are int32; Keras's seeds are wider and are taken modulo this."""


class Variables:
    """A model's variables by canonical name, shared ones once; hidden from Keras, which would count them twice."""

    def __init__(self, table: dict[str, keras.Variable]) -> None:
        self.table = table


class Programs:
    """Traced functions by their keys; hidden from Keras, which would take them for parts of the model."""

    def __init__(self) -> None:
        self.held: dict[Any, Any] = {}


class VariableModel(ArrayModel, Trains, keras.Model):
    """The part of a TFEncoderDecoderModel that holds variables."""

    def _build(
        self,
        config: PretrainedConfig,
        pair: PairSpec,
        plan: JoinReport,
        *,
        stored: str,
        dtype: Any,
        seed: int = 0,
        given: Mapping[str, np.ndarray] | None = None,
        name: str | None = None,
    ) -> None:
        dtype = dtype or (stored if stored in ("bfloat16", "float16") else None)
        keras.Model.__init__(self, dtype=dtype, name=name or "tf_encoder_decoder_model")
        self.config, self.spec = config, pair
        self.join_report = plan
        self.key = CompileKey(pair, ties_of(plan))
        self._seeds = keras.random.SeedGenerator(seed)
        arrays = fill(plan, self.variable_dtype, lambda array: array, seed=seed, given=given)
        kinds = pair_parameters(pair)
        self.variables_by_name = Variables(
            {name: self._variable(name, array, trained=kinds[name].trained) for name, array in arrays.items()}
        )
        self.programs = Programs()
        self.built = True

    def _variable(self, name: str, array: np.ndarray, *, trained: bool) -> keras.Variable:
        def start(shape: Any, dtype: Any = None) -> Any:
            return tf.constant(array)

        return self.add_weight(
            shape=array.shape, initializer=start, dtype=self.variable_dtype, trainable=trained, name=name
        )

    def all_params(self) -> dict[str, np.ndarray]:
        """Return the parameters as numpy arrays by canonical name, shared ones under every name."""
        flat = {name: np.asarray(tf.convert_to_tensor(v.value)) for name, v in self.variables_by_name.table.items()}
        return flat | {name: flat[same] for name, same in self.key.ties}

    def num_parameters(self) -> int:
        """Return the number of parameters, shared ones counted once."""
        return sum(int(np.prod(variable.shape)) for variable in self.variables_by_name.table.values())

    def scope(self, training: bool = False, transposed: Mapping[str, Any] | None = None, ops: Ops = OPS) -> Scope:
        """Return the parameters in the compute dtype and, in training, the random state of dropout.

        Args:
            transposed: Transposed copies of matrices by name, in addition to the parameters.
            ops: TensorFlow's operations, or those that call our own kernels.
        """
        rng = tf.cast(tf.cast(self._seeds.next(), tf.int64) % _SEEDS, tf.int32) if training else None
        dtype = None if self.compute_dtype == self.variable_dtype else self.compute_dtype
        values = {name: tf.convert_to_tensor(v.value) for name, v in self.variables_by_name.table.items()}
        return replace(self.key, dtype=dtype).scope(ops, values | dict(transposed or {}), rng)
