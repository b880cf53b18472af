"""The decoder reading new positions of every row."""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int

from conjoin import spec
from conjoin.functional.cache import Cache
from conjoin.functional.embedding import score
from conjoin.functional.ops import Array
from conjoin.functional.scope import Scope, transposed_name
from conjoin.functional.stack import StackInputs, run_stack


@dataclass(frozen=True, slots=True)
class Reader:
    """A decoder and the sources that it reads.

    Args:
        here: The decoder's parameters.
        source_mask: [B, S], True at real tokens.
    """

    here: Scope
    kind: spec.StackSpec
    source_mask: Bool[Array, "B S"] | None

    def scores(
        self, cache: Cache, ids: Int[Array, "R T"], mask: Bool[Array, "R T"] | None = None
    ) -> tuple[Float[Array, "R V"], Cache]:
        """Scores of the word after the last new position, float32, and the cache that holds the new positions."""
        inputs = StackInputs(input_ids=ids, mask=mask, source_mask=self.source_mask, cache=cache)
        hidden, after = run_stack(self.here, self.kind, inputs)
        assert self.kind.head is not None and after is not None
        return self.here.ops.cast(score(self.here, self.kind.head, hidden[:, -1]), "float32"), after


def step_matrices(pair: spec.PairSpec, ties: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The matrices that a decoder multiplies by at every step: not those that read the source once.

    Args:
        ties: (parameter, the one that it is).

    Returns:
        The name of each transposed copy in a `Scope` -> the parameter to copy.
    """
    table, same = spec.stack_parameters(pair.decoder), dict(ties)
    names = [name for name, parameter in table.items() if parameter.kind == "linear"]
    names = [name for name in names if not name.endswith((".cross_attn.k.weight", ".cross_attn.v.weight"))]
    assert pair.decoder.head is not None
    names = [f"decoder.{name}" for name in names + ["embed.words.weight"] * pair.decoder.head.tied]
    return {transposed_name(name): same.get(name, name) for name in names}
