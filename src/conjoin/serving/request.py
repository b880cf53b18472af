"""What every dialect is translated to and from: a request, what is told while it runs, and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Finish = Literal["eos_token", "length", "stop_sequence"]
Priority = Literal["interactive", "bulk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Which cross-attention is wanted; None takes the mean over all layers, or over all heads."""

    layer: int | None = None
    head: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One source and what is wanted for it.

    Args:
        source: Text, or ids of the source tokenizer, special ids included.
        settings: Settings of `generate`, by name.
        prefix: How the target begins: text, or ids of the target tokenizer.
        stop: The target is cut before the first of these texts.
        seed: Of sampling; drawn by the server if None, and told in the answer.
        top: None for no log-probabilities; else the number of likeliest tokens to tell at each place.
        cut: A source that is too long is cut, and the answer says so; else it is refused.
        max_source_tokens: Longer sources are too long; the model's own limit holds in any case.
        languages: Codes of source and target, for tokenizers that know languages.
        clean_up_spaces: Of decoding; as the tokenizer says if None.
        timeout_s: Seconds after which the request is given up; the server's bound holds in any case.
    """

    source: str | tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    prefix: str | tuple[int, ...] = ""
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top: int | None = None
    attention: Attention | None = None
    priority: Priority = "interactive"
    cut: bool = True
    max_source_tokens: int | None = None
    languages: tuple[str | None, str | None] = (None, None)
    clean_up_spaces: bool | None = None
    timeout_s: float | None = None

    @property
    def size(self) -> int:
        """Characters, or ids, of the source and the prefix."""
        return len(self.source) + len(self.prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Likely:
    """A token that is likely at some place; a special token's text is its name."""

    id: int
    text: str
    logprob: float
    special: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of a result.

    Args:
        text: What it adds to the text.
        logprob: Natural logarithm of the model's own probability; None if it was not asked for.
        top: The likeliest tokens at this place, best first.
        attention: Share of the cross-attention for each source token.
    """

    id: int
    text: str
    special: bool = False
    logprob: float | None = None
    top: tuple[Likely, ...] = ()
    attention: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One result of a request.

    Args:
        text: The whole target, its prefix included.
        continuation: The text behind the prefix.
        score: Of beam search: log-probability over length to the power of `length_penalty`.
        num_tokens: Tokens behind the prefix, the end included.
        tokens: Each of them, if log-probabilities or attention were asked for.
    """

    text: str
    continuation: str
    finish: Finish
    num_tokens: int
    score: float | None = None
    tokens: tuple[Token, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request became.

    Args:
        source_tokens: Tokens of the source that were read, special ones included.
        source_texts: Text of each of them, if attention was asked for.
        source_places: Where each of them begins and ends in the source, in characters; equal for special tokens.
        prefix: Tokens with which the target begins, as the request said.
        was_cut: True if the source was too long and was cut.
        warnings: Settings without effect, and the like.
        queue_s, first_s, total_s: Seconds from arrival to the start, the first token and the end.
    """

    results: tuple[Result, ...]
    source_tokens: int
    source_texts: tuple[str, ...] | None = None
    source_places: tuple[tuple[int, int], ...] | None = None
    prefix: tuple[Token, ...] = ()
    was_cut: bool = False
    seed: int | None = None
    warnings: tuple[str, ...] = ()
    queue_s: float = 0.0
    first_s: float = 0.0
    total_s: float = 0.0

    @property
    def num_tokens(self) -> int:
        """Tokens of all results."""
        return sum(result.num_tokens for result in self.results)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What became certain of a result while it runs.

    Args:
        row: Number of the result.
        text: New certain text.
        guess: With beams, how the best hypothesis goes on at present; may change.
        tokens: New certain tokens.
    """

    row: int = 0
    text: str = ""
    guess: str = ""
    tokens: tuple[Token, ...] = ()
