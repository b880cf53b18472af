"""A place among a model's parameters, and what is needed there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from zlib import crc32

from conjoin.functional.ops import Array, Ops

Parameters = Mapping[str, Array]
"""Canonical name -> array."""


def transposed_name(name: str) -> str:
    """The name of a matrix's transposed copy, (in, out)."""
    return f"{name}.T"


@dataclass(frozen=True, slots=True)
class Scope:
    """A brick's parameters.

    Args:
        parameters: Those of the whole model; shared ones under every name.
        prefix: What the names of this brick start with, "decoder.blocks.0." say.
        rng: Random state of dropout; None where nothing is dropped.
    """

    ops: Ops
    parameters: Parameters
    prefix: str = ""
    rng: Array | None = None

    def __truediv__(self, name: str) -> "Scope":
        return replace(self, prefix=f"{self.prefix}{name}.")

    def __getitem__(self, name: str) -> Array:
        return self.parameters[self.prefix + name]

    def transposed(self, name: str) -> Array | None:
        """The transposed copy of a matrix, (in, out); None where there is none."""
        return self.parameters.get(transposed_name(self.prefix + name))

    def get(self, name: str) -> Array | None:
        """The parameter, None where the model has none of that name."""
        return self.parameters.get(self.prefix + name)

    def seeded(self, number: int) -> "Scope":
        """The same place with another random state: layers that share parameters drop different numbers."""
        return self if self.rng is None else replace(self, rng=self.ops.fold_in(self.rng, number))

    def dropout(self, x: Array, rate: float, place: str) -> Array:
        """Zero a share of the numbers in training, and scale the others up.

        Args:
            place: Which of this brick's dropouts it is.
        """
        if self.rng is None or rate == 0.0:
            return x
        ops = self.ops
        here = ops.fold_in(self.rng, crc32(f"{self.prefix}{place}".encode()) & 0x7FFFFFFF)
        kept = ops.uniform(here, ops.shape(x)) >= rate
        return ops.where(kept, x / (1.0 - rate), ops.cast(ops.constant(0.0), x.dtype))
