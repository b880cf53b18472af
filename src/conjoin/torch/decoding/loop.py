"""What every decoding loop shares: its limits, what it calls at each step, and what it collects."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Processor = Callable[[Tensor, Tensor], Tensor]
Criterion = Callable[[Tensor, Any], Tensor]


@runtime_checkable
class Streamer(Protocol):
    """What receives tokens while they are made (transformers' BaseStreamer)."""

    def put(self, value: Tensor) -> None: ...
    def end(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where hypotheses end.

    Args:
        prompt: Target positions given.
        max_length: Target positions in all.
        eos: Ids that end a hypothesis.
        pad: Written behind the end.
    """

    prompt: int
    max_length: int
    eos: tuple[int, ...]
    pad: int


@dataclass(slots=True, kw_only=True)
class Trace:
    """What is collected per step, as transformers returns it; a list that is None is not collected."""

    scores: list[Tensor] | None = None
    logits: list[Tensor] | None = None
    origins: bool = False
    attentions: bool = False
    hidden_states: bool = False

    @property
    def wanted(self) -> bool:
        """Whether anything is collected, so that rows must stay where transformers has them."""
        lists = self.scores is not None or self.logits is not None
        return lists or self.origins or self.attentions or self.hidden_states

    def note(self, logits: Tensor, scores: Tensor) -> None:
        """Keep one step's raw and processed scores."""
        if self.logits is not None:
            self.logits.append(logits.clone())
        if self.scores is not None:
            self.scores.append(scores.clone())


@dataclass(slots=True, kw_only=True)
class Control:
    """What a loop calls at each step.

    Args:
        process: Edits scores [R, V] given ids [R, t]; None where there is nothing to edit.
        stops: Says which rows of ids [R, t] end, besides end ids and length; None where nothing else ends a row.
        select: Called with kept row indices when finished sources leave, for processors that keep state per row.
        patience: Steps between two looks at whether all rows have ended; more than 1 keeps a GPU from waiting.
    """

    process: Processor | None = None
    stops: Criterion | None = None
    streamer: Streamer | None = None
    select: Callable[[Int[Tensor, " R"]], None] | None = None
    trace: Trace = field(default_factory=Trace)
    patience: int = 1

    def processed(self, ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """Scores after every processor; the input is not changed."""
        return scores if self.process is None else self.process(ids, scores.clone())

    def stopped(self, ids: Int[Tensor, "R t"]) -> Bool[Tensor, " R"] | None:
        """Rows that end for another reason than an end id or the length."""
        if self.stops is None:
            return None
        told = self.stops(ids, None)
        if isinstance(told, bool):
            return torch.full((ids.shape[0],), told, device=ids.device)
        return told.to(ids.device).bool()


@dataclass(slots=True, kw_only=True)
class Decoded:
    """What a loop returns.

    Args:
        sequences: [R, t], rows of one source side by side, best first; padded behind their ends.
        scores: [R], of beams: log-probability over length ** length_penalty.
        origins: [R, t - prompt], the row that each token came from; -1 behind the end.
    """

    sequences: Int[Tensor, "R t"]
    scores: Float[Tensor, " R"] | None = None
    origins: Int[Tensor, "R o"] | None = None
