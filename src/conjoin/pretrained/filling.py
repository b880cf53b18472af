"""From a plan to numpy arrays: copied, tied or drawn."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from zlib import crc32

import numpy as np

from conjoin import spec
from conjoin.join import Computed, CopiedFresh, Drawn, InMemory, JoinReport, Tied, sinusoids
from conjoin.pretrained.copies import copies
from conjoin.pretrained.dtypes import numpy_dtype, with_meaning

Array = TypeVar("Array")


def ties_of(plan: JoinReport) -> tuple[tuple[str, str], ...]:
    """(parameter, the one that it is)."""
    return tuple((name, origin.to) for name, origin in plan.origins.items() if isinstance(origin, Tied))


def fill(
    plan: JoinReport,
    dtype: str,
    make: Callable[[np.ndarray], Array],
    *,
    seed: int = 0,
    given: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """Every parameter of a plan but the tied ones, by its canonical name.

    Args:
        make: The framework's array of a numpy array.
        seed: Of what is drawn; each parameter's numbers depend on it and its name alone.
        given: Parameters in memory, where the plan says so.

    Raises:
        WeightError: tensors with NaN or infinite numbers, all of them named.
    """
    params = {
        name: make(with_meaning(part, stored).astype(numpy_dtype(dtype)))
        for name, part, stored in copies(plan, lambda array, _: array)
    }
    for name, origin in plan.origins.items():
        match origin:
            case Drawn():
                params[name] = make(_drawn(name, plan.parameters[name], seed).astype(numpy_dtype(dtype)))
            case Computed():
                params[name] = make(sinusoids(plan.parameters[name]).astype(numpy_dtype(dtype)))
            case InMemory():
                assert given is not None
                array: Any = given[name]
                params[name] = array.astype(numpy_dtype(dtype))
            case _:
                pass
    for name, origin in plan.origins.items():
        if isinstance(origin, CopiedFresh):
            same = plan.origins[origin.of]
            params[name] = params[same.to if isinstance(same, Tied) else origin.of]
    return {name: params[name] for name in plan.origins if name in params}


def _drawn(name: str, kind: spec.Parameter, seed: int) -> np.ndarray:
    if not kind.std:
        return np.full(kind.shape, kind.start, np.float32)
    noise = np.random.default_rng((seed, crc32(name.encode()))).standard_normal(kind.shape, np.float32)
    return noise * np.float32(kind.std) + np.float32(kind.start)
