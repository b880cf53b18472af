"""Compare the tensors that a model needs with those that a checkpoint holds, and name every difference."""

from collections.abc import Mapping
from dataclasses import dataclass

from conjoin.errors import WeightError, listing

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Misshapen:
    """One tensor whose shape differs from what the model needs."""

    name: str
    actual: tuple[int, ...]
    expected: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """Differences between expected and actual tensors; all fields are empty if there are none.

    Args:
        label: What was read, for the error: a file, a folder, "encoder of out".
    """

    label: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[Misshapen, ...]

    def raise_for(
        self, *, missing: bool = True, unexpected: bool = True, misshapen: bool = True, hint: str | None = None
    ) -> None:
        """Raise one error with all problems of the chosen kinds, if there are any.

        Raises:
            WeightError: naming every tensor, with both shapes where they differ.
        """
        parts: list[str] = []
        if missing and self.missing:
            parts.append(f"{_count(self.missing)} missing:\n{listing(list(self.missing))}")
        if unexpected and self.unexpected:
            parts.append(f"{_count(self.unexpected)} not expected:\n{listing(list(self.unexpected))}")
        if misshapen and self.misshapen:
            lines = [f"{bad.name}: {bad.actual} found, {bad.expected} expected" for bad in self.misshapen]
            parts.append(f"{_count(self.misshapen)} of another shape:\n{listing(lines)}")
        if parts:
            raise WeightError(f"{self.label}: the weights do not fit the model.\n" + "\n".join(parts), hint=hint)


def audit(expected: Shapes, actual: Shapes, *, label: str) -> Audit:
    """Compare names and shapes. Missing tensors are in the order of `expected`, unexpected ones in that of `actual`."""
    misshapen = (
        Misshapen(name, tuple(actual[name]), tuple(shape))
        for name, shape in expected.items()
        if name in actual and tuple(actual[name]) != tuple(shape)
    )
    return Audit(
        label=label,
        missing=tuple(name for name in expected if name not in actual),
        unexpected=tuple(name for name in actual if name not in expected),
        misshapen=tuple(misshapen),
    )


def _count(names: tuple[object, ...]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
