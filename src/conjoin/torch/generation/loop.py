"""What every decoding loop shares: its limits, what it calls at each step, and what it collects."""

from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.generation import DeadEnd
from conjoin.torch.generation.processors.calling import LogitsProcessorList
from conjoin.torch.generation.stopping import StoppingCriteriaList
from conjoin.torch.generation.watch import Watch


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
    """What is collected per step, as transformers returns it; a list that is None is not collected.

    Args:
        origins: Which row each token of a beam's hypothesis came from.
        rows: The cache is returned, so it must hold all rows to the end.
    """

    scores: list[Tensor] | None = None
    logits: list[Tensor] | None = None
    origins: bool = False
    attentions: bool = False
    hidden_states: bool = False
    rows: bool = False

    @property
    def wanted(self) -> bool:
        """Whether rows must stay where transformers has them: the cache is returned, or something is collected."""
        lists = self.scores is not None or self.logits is not None
        return lists or self.origins or self.attentions or self.hidden_states or self.rows

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
        process: Edit scores [R, V] given ids [R, t]; None where there is nothing to edit.
        stops: Says which rows of ids [R, t] end, besides end ids and length; None where nothing else ends a row.
        patience: Steps between two looks at whether all rows have ended; more than 1 keeps a GPU from waiting.
        watch: Raises where a row cannot go on.
    """

    process: LogitsProcessorList | None = None
    stops: StoppingCriteriaList | None = None
    streamer: Streamer | None = None
    trace: Trace = field(default_factory=Trace)
    patience: int = 1
    watch: Watch = field(default_factory=lambda: Watch(_untold))

    @property
    def rows_may_leave(self) -> bool:
        """Whether finished sources may leave: nothing is collected per step, and whatever is called can follow."""
        follow = self.process is None or self.process.rows_may_leave
        return follow and not self.trace.wanted and (self.stops is None or self.stops.rows_may_leave)

    def looks(self, steps: int) -> bool:
        """Whether to ask which rows have ended: at every step on a CPU, now and then on a GPU, which must wait."""
        return steps % self.patience == 0

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Tell the processors which rows are left, in their new order."""
        if self.process is not None:
            self.process.select(rows)

    def for_source(self, index: int, trace: Trace) -> "Control":
        """The same for one source, decoded on its own."""
        rows = torch.tensor([index])
        process = None if self.process is None else self.process.for_rows(rows)
        return replace(self, process=process, trace=trace, watch=replace(self.watch, first=index))

    def processed(
        self,
        ids: Int[Tensor, "R t"],
        scores: Float[Tensor, "R V"],
        live_rows: Bool[Tensor, " R"] | None = None,
        **extra: Any,
    ) -> Float[Tensor, "R V"]:
        """Scores after every processor; the given ones may be edited in place, unless they are collected.

        Args:
            live_rows: Rows that go on; all of them if missing.
        """
        if self.process is None:
            return scores
        scores = scores if self.trace.logits is None else scores.clone()
        return self.process(ids, scores, live_rows=live_rows, **extra)

    def stopped(self, ids: Int[Tensor, "R t"]) -> Bool[Tensor, " R"] | None:
        """Rows that end for another reason than an end id or the length."""
        if self.stops is None:
            return None
        return self.stops(ids, None if self.trace.scores is None else tuple(self.trace.scores))

    def put(self, tokens: Int[Tensor, " n"]) -> None:
        """Give the streamer, if there is one, its row's next tokens, one by one."""
        if self.streamer is not None:
            for token in tokens.cpu():
                self.streamer.put(token[None])

    def end_stream(self) -> None:
        """Tell the streamer, if there is one, that no token follows."""
        if self.streamer is not None:
            self.streamer.end()


def _untold(ends: list[DeadEnd]) -> NoReturn:
    raise AssertionError(ends)


@dataclass(slots=True, kw_only=True)
class Decoded:
    """What a loop returns.

    Args:
        sequences: [R, t], rows of one source side by side, best first; padded behind their ends.
        counts: Results of each source, of beams; no more than were asked for.
        scores: [R], of beams: log-probability over length ** length_penalty.
        origins: [R, t - prompt], the row that each token came from; -1 behind the end.
    """

    sequences: Int[Tensor, "R t"]
    scores: Float[Tensor, " R"] | None = None
    origins: Int[Tensor, "R o"] | None = None
    counts: list[int] | None = None
