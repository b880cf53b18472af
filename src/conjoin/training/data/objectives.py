"""Objectives on raw text: how a segment becomes a source and a target, of which the text can be put together again.

Cuts are between words, at offsets of the text, so that both tokenizers read exact texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any, NamedTuple

import numpy as np

from conjoin.limits import EXTRA_IDS
from conjoin.texts.documents import words
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.settings import arguments

SENTINEL = "<extra_id_{}>"


class Sides(NamedTuple):
    """A source and its target."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Sentinels:
    """T5's way (Raffel et al. 2020, arXiv:1910.10683): a sentinel for each span, and the spans are the target.

    Args:
        count: Number of sentinels that both tokenizers have.
    """

    count: int

    def sides(self, pieces: Sequence[str]) -> Sides:
        """Return the sides of a text whose every second piece is a span."""
        source = "".join(SENTINEL.format(at // 2) if at % 2 else piece for at, piece in enumerate(pieces))
        target = "".join(piece if at % 2 else SENTINEL.format(at // 2) for at, piece in enumerate(pieces))
        return Sides(source, target)

    def describe(self) -> str:
        """Return a clause for a message."""
        return "spans become sentinels <extra_id_0>, <extra_id_1> ... and are the target"


@dataclass(frozen=True, slots=True)
class Infilling:
    """BART's way (Lewis et al. 2020, arXiv:1910.13461): one mask for each span, and the whole text is the target.

    Args:
        mask: The mask token; empty to delete the spans, where the tokenizer of the sources has none.
    """

    mask: str
    count: int = 1 << 30

    def sides(self, pieces: Sequence[str]) -> Sides:
        """Return the sides of a text whose every second piece is a span."""
        return Sides("".join(self.mask if at % 2 else piece for at, piece in enumerate(pieces)), "".join(pieces))

    def describe(self) -> str:
        """Return a clause for a message."""
        spans = f"become {self.mask}" if self.mask else "are deleted"
        return f"spans {spans}, since the tokenizers have no <extra_id_...>, and the whole text is the target"


Marks = Sentinels | Infilling


def marks_of(tokenizer: Tokenizer | TokenizerPair) -> Marks:
    """Return how spans are marked with these tokenizers."""
    source, target = sides_of(tokenizer)
    count = min(_sentinels(source), _sentinels(target))
    return Sentinels(count) if count > 1 else Infilling(source.mask_token or "")


def sides_of(tokenizer: Tokenizer | TokenizerPair) -> tuple[Tokenizer, Tokenizer]:
    """Return the tokenizers of sources and of targets."""
    return (tokenizer.source, tokenizer.target) if isinstance(tokenizer, TokenizerPair) else (tokenizer, tokenizer)


def _sentinels(tokenizer: Tokenizer) -> int:
    """Return how many sentinels a tokenizer reads as one token each, counted from the first."""
    names = map(SENTINEL.format, range(EXTRA_IDS))
    return sum(1 for _ in takewhile(lambda name: tokenizer.tokenize(name) == [name], names))


@dataclass(frozen=True, slots=True)
class Denoising:
    """Spans of the text are taken out.

    Args:
        span: Mean length of a span, in tokens.
        density: Share of the tokens in spans.
        mode: Put before the source.
    """

    span: float
    density: float
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Continuing:
    """The source is the beginning of the text, the target the rest.

    Args:
        share: Mean share of the text in the target.
        varies: True if the share is drawn, evenly from 0 to twice the mean; else the text is cut at the share.
        mode: Put before the source.
    """

    share: float
    varies: bool
    mode: str = ""


Task = Denoising | Continuing

HALVES = Continuing(0.5, varies=False)
"""T5Gemma's PrefixLM (Zhang et al. 2025, arXiv:2504.06225): a text is cut in halves."""
UL2: tuple[Task, ...] = (
    Denoising(3, 0.15, "[NLU]"),
    Denoising(8, 0.15, "[NLU]"),
    Continuing(0.25, varies=True, mode="[S2S]"),
    Denoising(3, 0.5, "[NLG]"),
    Denoising(8, 0.5, "[NLG]"),
    Denoising(64, 0.15, "[NLG]"),
    Denoising(64, 0.5, "[NLG]"),
)
"""UL2's mixture (Tay et al. 2023, arXiv:2205.05131, table 1), in equal parts: R, S and X, with their mode tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """How segments become pairs.

    Args:
        tasks: Each segment has one of them, in equal parts.
        words_per_token: Mean number of words of a token: spans are whole words, and are as long in tokens on average.
        modes: True to put a task's mode before the source.
    """

    tasks: tuple[Task, ...]
    marks: Marks
    words_per_token: float = 1.0
    modes: bool = False

    def sides(self, text: str, task: int, random: np.random.Generator) -> Sides:
        """Return source and target of a text."""
        own = self.tasks[task]
        pieces = words(text)
        match own:
            case Continuing():
                sides = _continued(pieces, own, random)
            case Denoising():
                sides = self.marks.sides(spans_of(pieces, own, self.words_per_token, self.marks.count, random))
        return Sides(f"{own.mode} {sides.source}", sides.target) if self.modes and own.mode else sides

    def shares(self, task: int) -> tuple[float, float]:
        """Return how many tokens of a text of one token source and target have at most."""
        own = self.tasks[task]
        if isinstance(own, Continuing):
            return (1.0, min(1.0, 2 * own.share)) if own.varies else (1 - own.share, own.share)
        marks = own.density / own.span
        target = own.density + marks if isinstance(self.marks, Sentinels) else 1.0
        return 1 - own.density + marks, target

    def describe(self) -> str:
        """Return a sentence for a message."""
        if any(isinstance(task, Denoising) for task in self.tasks):
            return f"Of each text, {self.marks.describe()}."
        return "Of each text, the first half is the source and the second half the target."


def _continued(pieces: Sequence[str], task: Continuing, random: np.random.Generator) -> Sides:
    share = random.uniform(0, 2 * task.share) if task.varies else task.share
    at = min(max(1, round(len(pieces) * (1 - share))), len(pieces) - 1)
    return Sides("".join(pieces[:at]), "".join(pieces[at:]).lstrip())


def spans_of(
    pieces: Sequence[str], task: Denoising, words_per_token: float, most: int, random: np.random.Generator
) -> list[str]:
    """Divide words into pieces that are kept and spans that are not, in turn; every way is equally likely.

    Like T5's random_spans_noise_mask, but for the end of a text, which is always a span there.

    Args:
        most: Number of sentinels, one more than there may be spans.

    Returns:
        An odd number of texts: kept, span, kept ... span, kept; joined they are the text. The first and the last may
        be empty.
    """
    count = len(pieces)
    noise = min(max(1, round(count * task.density)), count - 1)
    spans = max(1, round(noise / max(1.0, task.span * words_per_token)))
    spans = min(spans, noise, count - noise + 1, most - 1)
    taken = _parts(noise, spans, random)
    kept = _parts(count - noise + 2, spans + 1, random)
    kept[0], kept[-1] = kept[0] - 1, kept[-1] - 1  # a text may begin and end with a span
    texts: list[str] = []
    at = 0
    for length in chain.from_iterable(zip(kept, [*taken, 0], strict=True)):
        texts.append("".join(pieces[at : at + length]))
        at += length
    return texts[:-1]


def _parts(total: int, parts: int, random: np.random.Generator) -> list[int]:
    """Divide a number into parts of 1 or more, each way equally likely."""
    cuts = np.sort(random.choice(total - 1, parts - 1, replace=False)) + 1 if parts > 1 else np.empty(0, np.int64)
    values: Any = np.diff(np.concatenate(([0], cuts, [total]))).tolist()
    return values


def tasks_of(name: arguments.Objective, density: float, span: float) -> tuple[Task, ...]:
    """Return the tasks of an objective.

    Args:
        density, span: Of denoising: the share of tokens in spans, and their mean length in tokens.
    """
    match name:
        case "prefixlm":
            return (HALVES,)
        case "ul2":
            return UL2
        case "denoise":
            return (Denoising(span, density),)
