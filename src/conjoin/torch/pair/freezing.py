"""Which parts of a joined model are trained."""

from collections.abc import Iterator
from typing import Self

from torch import nn

from conjoin import spec as specs
from conjoin.errors import warn
from conjoin.join import part_of, parts_named


class Freezing(nn.Module):
    """A model whose parts can be frozen by name.

    Parts are those of the join report: `encoder.embedding`, `encoder.layers`, `decoder.embedding`, `decoder.layers`,
    `decoder.cross_attention` (with the width projection) and `decoder.head`. One word takes all parts that have it:
    "encoder", "decoder", "embeddings", "layers", "cross_attention", "head".
    """

    spec: specs.PairSpec

    def freeze(self, *parts: str) -> Self:
        """Stop training these parts.

        Raises:
            ConfigError: no such part; lists those there are.
        """
        self._set_trained(parts_named(parts, self.parts()), False)
        return self

    def unfreeze(self, *parts: str) -> Self:
        """Train these parts again; without a name, all of them. Fixed tables stay fixed.

        Raises:
            ConfigError: no such part; lists those there are.
        """
        self._set_trained(parts_named(parts, self.parts()) if parts else self.parts(), True)
        return self

    def train_only(self, *parts: str) -> Self:
        """Train these parts and nothing else, as in `model.train_only("cross_attention")`.

        Raises:
            ConfigError: no such part; lists those there are.
        """
        chosen = parts_named(parts, self.parts())
        self.requires_grad_(False)
        self._set_trained(chosen, True)
        return self

    def parts(self) -> set[str]:
        """The names of all parts."""
        return {part for _, part, _ in self._named()}

    def frozen_parts(self) -> list[str]:
        """The parts of which nothing is trained."""
        return sorted(self.parts() - {part for _, part, parameter in self._named() if parameter.requires_grad})

    def _named(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        """(name, part, parameter), shared ones under every name."""
        for name, parameter in self.named_parameters(remove_duplicate=False):
            yield name, part_of(name), parameter

    def _set_trained(self, chosen: set[str], trained: bool) -> None:
        fixed = {name for name, parameter in specs.pair_parameters(self.spec).items() if not parameter.trained}
        touched = {id(parameter) for name, part, parameter in self._named() if part in chosen and name not in fixed}
        also: set[str] = set()
        for _, part, parameter in self._named():
            if id(parameter) in touched:
                parameter.requires_grad_(trained)
                also |= {part} - chosen
        if also:
            warn(
                f"The halves share parameters: those of {', '.join(sorted(also))} are "
                f"{'trained' if trained else 'frozen'} too."
            )
