"""The parameters of a model: nested dicts, flat dicts, other dtypes, transposed copies."""

import typing
from collections.abc import Collection, Mapping
from typing import Any
from weakref import ref

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from conjoin.errors import WeightError, listing
from conjoin.families import PretrainedConfig
from conjoin.functional.programs import CompileKey
from conjoin.functional.reader import step_matrices
from conjoin.jax.dtypes import dtype_name
from conjoin.join import JoinReport
from conjoin.pretrained.filling import fill, ties_of
from conjoin.pretrained.joined import ArrayModel
from conjoin.spec import PairSpec

Params = dict[str, jax.Array]
"""Canonical name -> array; a shared parameter stands under one name only."""
ParamTree = Mapping[str, Any]
"""Parameters as users hold them: nested or flat."""


def as_array(values: np.ndarray) -> jax.Array:
    """Return JAX's array of these values."""
    return jnp.asarray(values)


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of dotted names; a flat one as it is."""
    flat: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= flatten(typing.cast("ParamTree", value), f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def nest(params: Mapping[str, Any]) -> dict[str, Any]:
    """A dict of dotted names as nested dicts."""
    nested: dict[str, Any] = {}
    for name, value in params.items():
        *path, leaf = name.split(".")
        here = nested
        for part in path:
            here = here.setdefault(part, {})
        here[leaf] = value
    return nested


def check_names(found: Mapping[str, Any], expected: Mapping[str, Any], *, also: Collection[str] = ()) -> None:
    """Refuse parameters of another model.

    Args:
        also: Names that may stand beside the expected ones: those of shared parameters.

    Raises:
        WeightError: names or shapes differ; all of them at once.
    """
    problems = [f"{name}: missing" for name in expected if name not in found]
    problems += [f"{name}: not of this model" for name in found if name not in expected and name not in also]
    problems += [
        f"{name}: shape {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if name in found and tuple(found[name].shape) != tuple(expected[name].shape)
    ]
    if problems:
        raise WeightError(
            f"These are not this model's parameters:\n{listing(problems)}",
            hint="give all of them, as model.params holds them, some of them changed.",
        )


def cast(params: Mapping[str, Any], dtype: str, mask: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Floating parameters in another dtype, in the nesting in which they came.

    Args:
        mask: Same nesting with bools: True at what to cast; all if missing.
    """
    flat, chosen = flatten(params), None if mask is None else flatten(mask)

    def one(name: str, value: jax.Array) -> jax.Array:
        wanted = chosen is None or chosen[name]
        return value.astype(dtype) if wanted and jnp.issubdtype(value.dtype, jnp.floating) else value

    done = {name: one(name, value) for name, value in flat.items()}
    return done if set(params) == set(flat) else nest(done)


class Transposed:
    """Copies of matrices as (in, out), made once per array.

    On a CPU, XLA multiplies two or more rows by them about twice as fast as by (out, in), and transposing inside a
    program does not help: XLA undoes it. One row is as fast by either, and other devices choose for themselves.

    Args:
        matrices: Name of the copy -> parameter.
    """

    def __init__(self, matrices: Mapping[str, str]) -> None:
        self._matrices = matrices
        self._held: dict[str, tuple[ref[jax.Array], jax.Array]] = {}

    def of(self, params: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The copies under their own names; none unless all matrices are arrays on CPUs."""
        if not all(_is_on_cpu(params[name]) for name in self._matrices.values()):
            return {}
        return {copy: self._one(name, params[name]) for copy, name in self._matrices.items()}

    def _one(self, name: str, matrix: jax.Array) -> jax.Array:
        held = self._held.get(name)
        if held is None or held[0]() is not matrix:
            held = self._held[name] = ref(matrix), matrix.T
        return held[1]


def _is_on_cpu(x: Any) -> bool:
    concrete = isinstance(x, jax.Array) and not isinstance(x, Tracer)
    return concrete and all(device.platform == "cpu" for device in x.devices())


class ParameterModel(ArrayModel):
    """The part of a FlaxEncoderDecoderModel that holds parameters.

    Attributes:
        bucket_size: Lengths are padded to multiples of it, so that not every length is compiled anew; 1 never pads.
    """

    bucket_size = 64

    def _build(
        self,
        config: PretrainedConfig,
        pair: PairSpec,
        plan: JoinReport,
        *,
        stored: str,
        dtype: Any,
        seed: int = 0,
        given: Mapping[str, jax.Array] | None = None,
    ) -> None:
        self.config, self.spec = config, pair
        self.dtype = None if dtype is None else dtype_name(dtype)
        self.join_report = plan
        self.key = CompileKey(pair, ties_of(plan), self.dtype)
        self._params = fill(plan, stored, as_array, seed=seed, given=given)
        self.transposed = Transposed(step_matrices(pair, self.key.ties))

    @property
    def params(self) -> dict[str, Any]:
        """The parameters as nested dicts of canonical names; a shared one stands once."""
        return nest(self._params)

    @params.setter
    def params(self, params: ParamTree) -> None:
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
        return dict(flat) | {name: flat[same] for name, same in self.key.ties}

    def flat(self, params: ParamTree | None) -> Params:
        """Parameters of a call as one dict of dotted names; the model's own if missing.

        Raises:
            WeightError: they are not this model's.
        """
        if params is None:
            return self._params
        flat = flatten(params)
        check_names(flat, self._params, also=dict(self.key.ties))
        return {name: jnp.asarray(x) if isinstance(x, np.ndarray) else x for name, x in flat.items()}

    def num_parameters(self) -> int:
        """Numbers in the model, shared ones once."""
        return sum(value.size for value in self._params.values())
