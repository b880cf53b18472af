"""The origin of every parameter (copied, tied or fresh) and the use of every checkpoint tensor (used or unused)."""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from conjoin import spec
from conjoin.checkpoint import Checkpoint, Match, NameTable, audit
from conjoin.configuration import CrossAttentionInit
from conjoin.errors import plain, warn
from conjoin.families import Role
from conjoin.join.missing import require_halves
from conjoin.join.pair import shared_names


@dataclass(frozen=True, slots=True)
class Copied:
    """Copied from a checkpoint's tensor (or a part of it)."""

    offer: "Offer"
    match: Match


@dataclass(frozen=True, slots=True)
class Untrained(Copied):
    """Copied from a checkpoint whose config records the parameter as fresh, that is, not trained yet."""


@dataclass(frozen=True, slots=True)
class Tied:
    """The same array as another parameter, by its canonical name."""

    to: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """Fresh: drawn from a normal distribution with the parameter's mean and std (0 for norms, biases and gates)."""


@dataclass(frozen=True, slots=True)
class Computed:
    """Computed, since no checkpoint holds it: the sines and cosines of positions."""


@dataclass(frozen=True, slots=True)
class CopiedFresh:
    """Fresh: initialised as a copy of another parameter of the new model."""

    of: str


@dataclass(frozen=True, slots=True)
class InMemory:
    """The same array as in a module that is in memory already."""


Origin = InMemory | Copied | Tied | Drawn | Computed | CopiedFresh


class Offer:
    """The tensors that one checkpoint offers, under canonical names.

    Args:
        label: The checkpoint's name in messages.
        table: Its name table; `prefix` is put before the canonical names.
    """

    def __init__(self, label: str, checkpoint: Checkpoint, table: NameTable, prefix: str = "") -> None:
        self.label = label
        self.checkpoint = checkpoint
        self.table = table.with_prefix("", prefix)
        self.plan = self.table.canonical(checkpoint)
        self.sources = self.plan.sources
        self.shapes = {
            name: shape
            for match in self.plan.matches
            for name, shape in self.table.shapes(match, checkpoint[match.name].shape)
            if self.sources[name] is match
        }

    def array(self, name: str) -> np.ndarray:
        """Return one canonical tensor, memory-mapped."""
        match = self.sources[name]
        return dict(self.table.apply(match, self.checkpoint.array(match.name)))[name]

    def are_equal(self, first: Match, second: Match) -> bool:
        """True if two tensors of the file hold the same numbers."""
        return bool(np.array_equal(self.checkpoint.array(first.name), self.checkpoint.array(second.name)))

    def same(self, first: str, second: str) -> bool:
        """True if both canonical tensors hold the same numbers, or one of them is missing."""
        if first not in self.sources or second not in self.sources:
            return True
        return bool(np.array_equal(self.array(first), self.array(second)))


@dataclass(frozen=True, slots=True)
class JoinReport:
    """The origin of every parameter of a model. Print it for a table.

    Args:
        origins: Canonical name -> origin.
        parameters: Canonical name -> parameter.
        unused: Checkpoint -> names of its tensors that the model does not use.
    """

    origins: Mapping[str, Origin]
    parameters: Mapping[str, spec.Parameter]
    unused: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def names(self, *kinds: type[Origin]) -> list[str]:
        """Return the canonical names whose origin is one of these classes."""
        return [name for name, origin in self.origins.items() if isinstance(origin, kinds)]

    @property
    def copied(self) -> list[str]:
        """Names of parameters from a checkpoint or from a model in memory."""
        return [name for name in self.names(Copied, InMemory) if not isinstance(self.origins[name], Untrained)]

    @property
    def tied(self) -> list[str]:
        """Names of parameters that share the array of another parameter."""
        return self.names(Tied)

    @property
    def fresh(self) -> list[str]:
        """Names of parameters that are in no checkpoint, or that a checkpoint records as not trained yet."""
        return self.names(Drawn, CopiedFresh, Untrained)

    def rows(self) -> Iterator[tuple[str, int, int, int, int]]:
        """Yield (part, copied, tied, fresh, numbers) per part: its tensors by origin, and its parameter count."""
        parts: dict[str, list[int]] = {}
        for name, origin in self.origins.items():
            row = parts.setdefault(part_of(name), [0, 0, 0, 0])
            row[_column(origin)] += 1
            row[3] += 0 if isinstance(origin, Tied) else int(np.prod(self.parameters[name].shape))
        for part, (copied, tied, fresh, numbers) in parts.items():
            yield part, copied, tied, fresh, numbers

    def __rich__(self) -> Any:
        """Return the same table for rich's console."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("part", box=None)
        for column in ("copied", "tied", "fresh", "numbers"):
            table.add_column(column, justify="right")
        for part, *counts in self.rows():
            table.add_row(part, *(f"{count:,}" for count in counts))
        return Group(table, *(Text(line) for line in self._unused_lines()))

    def _unused_lines(self) -> list[str]:
        return [f"unused in {label}: {_some(names)}" for label, names in self.unused.items() if names]

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __str__(self) -> str:
        lines = [f"{'part':<26}{'copied':>8}{'tied':>8}{'fresh':>8}{'numbers':>14}"]
        lines += [f"{part:<26}{c:>8}{t:>8}{f:>8}{n:>14,}" for part, c, t, f, n in self.rows()]
        return "\n".join(lines + self._unused_lines())


def _column(origin: Origin) -> int:
    match origin:
        case Tied():
            return 1
        case Untrained() | Drawn() | CopiedFresh():
            return 2
        case _:
            return 0


def _some(names: tuple[str, ...]) -> str:
    return plain(", ".join(names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def part_of(name: str) -> str:
    """Return the part of the model that a name belongs to; freezing, optimizers and reports use these parts."""
    side, _, rest = name.partition(".")
    if ".cross_attn" in name or side == "enc_to_dec_proj":
        return "decoder.cross_attention"
    inner = rest.split(".")[0]
    return f"{side}.{ {'embed': 'embedding', 'blocks': 'layers', 'head': 'head'}.get(inner, 'layers') }"


def plan_join(
    pair: spec.PairSpec,
    offers: list[Offer],
    *,
    init: CrossAttentionInit,
    fresh_allowed: Callable[[str], bool],
    given: Set[str] = frozenset(),
) -> JoinReport:
    """Decide the origin of every parameter.

    Args:
        init: Initial values of fresh cross-attention.
        fresh_allowed: True for names of parameters that the checkpoints may lack.
        given: Parameters that are in memory already.

    Raises:
        WeightError: missing or misshapen tensors, all of them at once.
    """
    parameters = spec.pair_parameters(pair)
    ties = _ties(pair, offers)
    origins = _origins(parameters, ties, offers, init)
    origins |= {name: InMemory() for name in parameters if name in given and name not in ties}
    _check(offers, parameters, origins, fresh_allowed)
    warn_of_copies(offers, ties)
    unused = {offer.label: _unused(offer, parameters) for offer in offers}
    return JoinReport(origins, parameters, unused)


def plan_random(pair: spec.PairSpec, init: CrossAttentionInit = "normal") -> JoinReport:
    """Return the plan of a randomly initialised model."""
    parameters = spec.pair_parameters(pair)
    return JoinReport(_origins(parameters, _ties(pair, []), [], init), parameters)


def _ties(pair: spec.PairSpec, offers: list[Offer]) -> dict[str, str]:
    """Return shared parameter -> its original: the encoder's, or the decoder's if a file stores only that one."""
    ties: dict[str, str] = {}
    for name in shared_names(pair):
        encoder, decoder = f"encoder.{name}", f"decoder.{name}"
        only_decoder = any(decoder in o.sources for o in offers) and not any(encoder in o.sources for o in offers)
        ties |= {encoder: decoder} if only_decoder else {decoder: encoder}
    return ties


def _origins(
    parameters: Mapping[str, spec.Parameter], ties: Mapping[str, str], offers: list[Offer], init: CrossAttentionInit
) -> dict[str, Origin]:
    origins: dict[str, Origin] = {}
    for name in parameters:
        offer = next((offer for offer in offers if name in offer.sources), None)
        if name in ties:
            origins[name] = Tied(ties[name])
        elif offer is not None:
            origins[name] = Copied(offer, offer.sources[name])
        else:
            origins[name] = _fresh(name, parameters, init)
    return origins


def may_be_fresh(name: str) -> bool:
    """True if a checkpoint that is being joined may lack this parameter: cross-attention, projection and head."""
    return ".cross_attn" in name or name.startswith(("decoder.head.", "enc_to_dec_proj."))


def never_fresh(name: str) -> bool:
    """Always False: the file of a finished model must have every parameter."""
    return False


def _fresh(name: str, parameters: Mapping[str, spec.Parameter], init: CrossAttentionInit) -> Origin:
    if parameters[name].kind == "sinusoid":
        return Computed()
    twin = name.replace(".cross_attn", ".self_attn")
    alike = twin != name and twin in parameters and parameters[twin].shape == parameters[name].shape
    return CopiedFresh(twin) if init == "self_attention" and alike else Drawn()


def _check(
    offers: list[Offer],
    parameters: Mapping[str, spec.Parameter],
    origins: Mapping[str, Origin],
    fresh_allowed: Callable[[str], bool],
) -> None:
    """Raise one error for all missing and misshapen tensors; a missing half is one problem."""
    actual = {name: shape for offer in offers for name, shape in offer.shapes.items() if name in parameters}
    absent = [
        name
        for name, origin in origins.items()
        if isinstance(origin, Drawn | CopiedFresh) and not _is_fixed_bias(parameters[name]) and not fresh_allowed(name)
    ]
    if len(offers) == 1 and fresh_allowed is never_fresh:
        require_halves(offers[0].label, absent, actual)
    checked = {*actual, *absent}
    expected = {name: parameter.shape for name, parameter in parameters.items() if name in checked}
    audit(expected, actual, label=" and ".join(offer.label for offer in offers)).raise_for()


def _is_fixed_bias(parameter: spec.Parameter) -> bool:
    """True for a bias that is never trained, which is zero if a file lacks it (a bare BartModel's)."""
    return parameter.kind == "bias" and not parameter.trained


def _unused(offer: Offer, parameters: Mapping[str, spec.Parameter]) -> tuple[str, ...]:
    """Return the checkpoint tensors that the model does not use; a tied head's second copy counts as used."""
    known = {*parameters, "decoder.head.vocab.weight"}
    unused = [m.name for m in offer.plan.matches if not any(part in known for part in m.canonical)]
    return tuple(sorted((*offer.plan.unknown, *unused)))


def warn_of_copies(offers: list[Offer], ties: Mapping[str, str]) -> None:
    """Warn of token embeddings that should be copies of one another and are not; the first is used."""
    for offer in offers:
        copies: dict[str, list[Match]] = {}
        for match in sorted(offer.plan.matches, key=lambda match: match.rank):
            if match.canonical[0].endswith("embed.words.weight"):
                copies.setdefault(ties.get(match.canonical[0], match.canonical[0]), []).append(match)
        for used, *others in copies.values():
            different = [match.name for match in others if not offer.are_equal(used, match)]
            if different:
                warn(
                    f"{offer.label}: {', '.join(different)} should be copies of {used.name}, but hold other numbers: "
                    f"{used.name} is used."
                )


def unshared(pair: spec.PairSpec, offer: Offer) -> list[str]:
    """Return the names, within a stack, that the halves should share, but for which a file stores different numbers."""
    return [name for name in shared_names(pair) if not offer.same(f"encoder.{name}", f"decoder.{name}")]


def untied_head(pair: spec.PairSpec, offers: list[Offer]) -> bool:
    """True if the head is declared tied, but a checkpoint stores a matrix that differs from the token embeddings."""
    head = pair.decoder.head
    if head is None or not head.tied:
        return False
    sides = ("decoder", "encoder") if "embed.words.weight" in shared_names(pair) else ("decoder",)
    tables = [f"{side}.embed.words.weight" for side in sides]
    return not all(offer.same("decoder.head.vocab.weight", table) for offer in offers for table in tables)


def plan_half(stack: spec.StackSpec, offer: Offer, role: Role) -> JoinReport:
    """Decide the origin of every parameter of one stack; cross-attention and head may be fresh."""
    parameters = {f"{role}.{name}": p for name, p in spec.stack_parameters(stack).items()}
    origins = _origins(parameters, {}, [offer], "normal")
    _check([offer], parameters, origins, may_be_fresh)
    warn_of_copies([offer], {})
    return JoinReport(origins, parameters, {offer.label: _unused(offer, parameters)})


def random_half(stack: spec.StackSpec, role: Role) -> JoinReport:
    """Return the plan of a randomly initialised stack."""
    parameters = {f"{role}.{name}": p for name, p in spec.stack_parameters(stack).items()}
    return JoinReport(_origins(parameters, {}, [], "normal"), parameters)
