"""The reversible table between a checkpoint's tensor names and layouts and ours: applied at load, inverted at save.

Families hold the tables as data. They work on numpy arrays and torch tensors alike, by reshaping and indexing only.
"""

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Self

from conjoin.checkpoint.layouts import Array, Layout, Same, join, part_count, shapes_of, split
from conjoin.errors import ConfigError, WeightError, listing

_PLACEHOLDER = re.compile(r"\{([a-z])\}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One checkpoint tensor and the canonical tensors it holds.

    Args:
        checkpoint: Its name: literal text with placeholders `{i}`, `{j}`, ... for whole numbers.
        canonical: Our name or names, with the same placeholders.
        layout: Layout of the canonical arrays in it.
        copies: Other names under which transformers expects the same tensor; written, but read only by other rules.
    """

    checkpoint: str
    canonical: str | tuple[str, ...]
    layout: Layout = field(default_factory=Same)
    copies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wanted = part_count(self.layout)
        if wanted is not None and wanted != len(self.parts):
            raise ConfigError(f"{self.checkpoint}: {self.layout} makes {wanted} arrays, {len(self.parts)} names given.")
        for part in self.parts:
            if set(_PLACEHOLDER.findall(part)) != set(_PLACEHOLDER.findall(self.checkpoint)):
                raise ConfigError(f"{self.checkpoint} and {part} must use the same placeholders.")

    @property
    def parts(self) -> tuple[str, ...]:
        """The canonical names as a tuple."""
        return (self.canonical,) if isinstance(self.canonical, str) else self.canonical

    def with_prefix(self, checkpoint: str, canonical: str) -> Self:
        """Return the rule with prefixes before both sides."""
        return replace(
            self,
            checkpoint=checkpoint + self.checkpoint,
            canonical=tuple(canonical + part for part in self.parts),
            copies=tuple(checkpoint + name for name in self.copies),
        )


@dataclass(frozen=True, slots=True)
class Match:
    """A checkpoint tensor that a rule matches, and the canonical names of its contents.

    Args:
        rank: Position of the rule in its table.
    """

    name: str
    rule: Rule
    canonical: tuple[str, ...]
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A checkpoint's names, sorted by a table: every name is in exactly one of the three groups.

    Args:
        ignored: Names that the table leaves out (old position buffers, pooler, ...).
        unknown: Names that no rule matches.
    """

    matches: tuple[Match, ...]
    ignored: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def sources(self) -> dict[str, Match]:
        """Canonical name -> the match that provides it; the first rule wins if several do."""
        sources: dict[str, Match] = {}
        for match in sorted(self.matches, key=lambda match: match.rank):
            for name in match.canonical:
                sources.setdefault(name, match)
        return sources


@dataclass(frozen=True, slots=True)
class Undo:
    """How one checkpoint tensor is built from canonical arrays."""

    name: str
    canonical: tuple[str, ...]
    rule: Rule
    copies: tuple[str, ...] = ()

    def __call__(self, *arrays: Array) -> Array:
        """Build the checkpoint tensor from its canonical arrays, in the order of `canonical`."""
        return join(self.rule.layout, arrays)


@dataclass(frozen=True, slots=True)
class NameTable:
    """Rules between checkpoint names and canonical names; the first rule that matches wins, in both directions.

    Args:
        ignored: Regular expressions (full match) of checkpoint names that we do not need.
        computed: Canonical names that are read where files hold them, and never written: they can be computed.
    """

    rules: tuple[Rule, ...] = ()
    ignored: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()

    def __add__(self, other: "NameTable") -> "NameTable":
        return NameTable(self.rules + other.rules, self.ignored + other.ignored, self.computed + other.computed)

    def with_prefix(self, checkpoint_prefix: str, canonical_prefix: str) -> "NameTable":
        """Return the table with prefixes before both sides of every rule."""
        return NameTable(
            tuple(rule.with_prefix(checkpoint_prefix, canonical_prefix) for rule in self.rules),
            tuple(f"{re.escape(checkpoint_prefix)}(?:{pattern})" for pattern in self.ignored),
            tuple(canonical_prefix + name for name in self.computed),
        )

    def match(self, name: str) -> Match | None:
        """Find the rule for one checkpoint name."""
        for rank, rule in enumerate(self.rules):
            if (numbers := _compiled(rule.checkpoint).fullmatch(name)) is not None:
                return Match(name, rule, tuple(_fill(part, numbers.groupdict()) for part in rule.parts), rank)
        return None

    def canonical(self, names: Iterable[str]) -> Plan:
        """Sort checkpoint names into matched, ignored and unknown ones."""
        matches: list[Match] = []
        ignored: list[str] = []
        unknown: list[str] = []
        for name in names:
            if (match := self.match(name)) is not None:
                matches.append(match)
            elif any(_regex(pattern).fullmatch(name) for pattern in self.ignored):
                ignored.append(name)
            else:
                unknown.append(name)
        return Plan(tuple(matches), tuple(ignored), tuple(unknown))

    def apply(self, match: Match, array: Array) -> list[tuple[str, Array]]:
        """Split a checkpoint tensor into canonical arrays.

        They are views of the array, except for `HeadFused` and `PairedRotary`, which copy, and `Shifted`: it converts
        half precision to float32 (pass torch tensors of the true dtype, or numpy arrays with uint16 for bfloat16).

        Raises:
            WeightError: the array's shape does not fit the layout.
        """
        with _named(match.name):
            return list(zip(match.canonical, split(match.rule.layout, array, len(match.canonical)), strict=True))

    def shapes(self, match: Match, shape: Sequence[int]) -> list[tuple[str, tuple[int, ...]]]:
        """Return the canonical shapes that `apply` would return, from the checkpoint tensor's shape alone."""
        with _named(match.name):
            return list(zip(match.canonical, shapes_of(match.rule.layout, shape, len(match.canonical)), strict=True))

    def covers(self, canonical: str) -> bool:
        """True if a rule can write this canonical tensor."""
        return self._source(canonical) is not None

    def undo(self, canonical: Iterable[str]) -> list[Undo]:
        """Plan how to write canonical tensors under the checkpoint's names, sorted by these.

        Left out are `computed` tensors, and those of the checkpoint without any part (a tied head, an absent bias).

        Raises:
            WeightError: no rule can write a name, or a checkpoint tensor lacks some of its parts.
        """
        names = dict.fromkeys(name for name in canonical if name not in self.computed)
        undo_of = {name: self._source(name) for name in names}
        unknown = [name for name, undo in undo_of.items() if undo is None]
        if unknown:
            raise WeightError(f"No rule says how to write these tensors:\n{listing(unknown)}")
        undos = {undo.name: undo for undo in undo_of.values() if undo is not None}
        incomplete = [
            f"{undo.name}: {', '.join(part for part in undo.canonical if part not in names)} missing"
            for undo in undos.values()
            if not all(part in names for part in undo.canonical)
        ]
        if incomplete:
            raise WeightError(f"Only some parts of these checkpoint tensors are given:\n{listing(incomplete)}")
        undos |= {name: replace(undo, name=name) for undo in undos.values() for name in undo.copies}
        return [undos[name] for name in sorted(undos)]

    def _source(self, canonical: str) -> Undo | None:
        for rule in self.rules:
            for part in rule.parts:
                if (match := _compiled(part).fullmatch(canonical)) is not None:
                    numbers = match.groupdict()
                    parts = tuple(_fill(part, numbers) for part in rule.parts)
                    copies = tuple(_fill(name, numbers) for name in rule.copies)
                    return Undo(_fill(rule.checkpoint, numbers), parts, rule, copies)
        return None


@contextmanager
def _named(name: str) -> Generator[None]:
    """Put the tensor's name before an error's message."""
    try:
        yield
    except WeightError as error:
        raise WeightError(f"{name}: {error}") from None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    text = ""
    seen: set[str] = set()
    for piece in re.split(r"(\{[a-z]\})", pattern):
        letter = piece[1:2] if _PLACEHOLDER.fullmatch(piece) else ""
        if not letter:
            text += re.escape(piece)
        elif letter in seen:
            text += f"(?P={letter})"
        else:
            text += f"(?P<{letter}>0|[1-9][0-9]*)"
            seen.add(letter)
    return re.compile(text)


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _fill(pattern: str, numbers: dict[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: numbers[match.group(1)], pattern)
