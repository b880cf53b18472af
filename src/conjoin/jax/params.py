"""Parameters as users hold them: nested dicts, flat dicts, other dtypes."""

from collections.abc import Collection, Mapping
from typing import Any
from weakref import ref

import jax
import jax.numpy as jnp
from jax.core import Tracer

from conjoin.errors import WeightError, listing


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict of dotted names; a flat one as it is."""
    flat: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
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


class Turned:
    """Copies of matrices as (in, out), made once per array.

    On a CPU, XLA multiplies two or more rows by them about twice as fast as by (out, in), and turning inside a program
    does not help: XLA turns back. One row is as fast by either, and other devices choose for themselves.

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
