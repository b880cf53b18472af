"""Compare the tensors that a model needs with those that a checkpoint holds, and name every difference."""

from collections.abc import Mapping
from dataclasses import dataclass

from conjoin.errors import WeightError, listing

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Misshapen:
    """One tensor whose shape differs from what the model needs."""

    name: str
    found: tuple[int, ...]
    expected: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """Differences between what is expected and what was found; all empty when they agree.

    Args:
        what: What was read, for the error: a file, a folder, "encoder of out".
    """

    what: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[Misshapen, ...]

    def raise_for(
        self, *, missing: bool = True, unexpected: bool = True, misshapen: bool = True, hint: str | None = None
    ) -> None:
        """Raise one error with all problems of the kinds asked for; return quietly when there are none.

        Raises:
            WeightError: naming every tensor, with both shapes where they differ.
        """
        parts: list[str] = []
        if missing and self.missing:
            parts.append(f"{_count(self.missing)} missing:\n{listing(list(self.missing))}")
        if unexpected and self.unexpected:
            parts.append(f"{_count(self.unexpected)} not expected:\n{listing(list(self.unexpected))}")
        if misshapen and self.misshapen:
            lines = [f"{bad.name}: {bad.found} found, {bad.expected} expected" for bad in self.misshapen]
            parts.append(f"{_count(self.misshapen)} of another shape:\n{listing(lines)}")
        if parts:
            raise WeightError(f"{self.what}: the weights do not fit the model.\n" + "\n".join(parts), hint=hint)


def audit(expected: Shapes, found: Shapes, *, what: str) -> Audit:
    """Compare names and shapes; order does not matter, reports are in the order of their own side."""
    misshapen = (
        Misshapen(name, tuple(found[name]), tuple(shape))
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    )
    return Audit(
        what=what,
        missing=tuple(name for name in expected if name not in found),
        unexpected=tuple(name for name in found if name not in expected),
        misshapen=tuple(misshapen),
    )


def _count(names: tuple[object, ...]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
