"""The parameters of one brick, by the names that they have within the brick, and its random state."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from zlib import crc32

from conjoin.functional.ops import Array, Ops

Parameters = Mapping[str, Array]
"""Canonical name -> array."""


def transposed_name(name: str) -> str:
    """Return the name of a matrix's transposed copy, (in, out)."""
    return f"{name}.T"


@dataclass(frozen=True, slots=True)
class Scope:
    """A brick's parameters.

    Args:
        parameters: Parameters of the whole model; shared ones under every name.
        prefix: Prefix of this brick's names, for example "decoder.blocks.0.".
        rng: Random state of dropout; None disables dropout.
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
        """Return the transposed copy of a matrix, (in, out); None if there is none."""
        return self.parameters.get(transposed_name(self.prefix + name))

    def get(self, name: str) -> Array | None:
        """Return a parameter; None if the model has none of that name."""
        return self.parameters.get(self.prefix + name)

    def seeded(self, number: int) -> "Scope":
        """Return this scope with another random state, so that layers that share parameters drop different values."""
        return self if self.rng is None else replace(self, rng=self.ops.fold_in(self.rng, number))

    def dropout(self, x: Array, rate: float, place: str) -> Array:
        """Return x with a share of its values dropped and the others scaled up; outside training, x itself.

        Args:
            place: Name of this dropout within the brick.
        """
        if self.rng is None or rate == 0.0:
            return x
        ops = self.ops
        rng = ops.fold_in(self.rng, crc32(f"{self.prefix}{place}".encode()) & 0x7FFFFFFF)
        kept = ops.uniform(rng, ops.shape(x)) >= rate
        return ops.where(kept, x / (1.0 - rate), ops.cast(ops.constant(0.0), x.dtype))
