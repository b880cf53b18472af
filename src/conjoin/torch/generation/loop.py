"""Shared by all decoding loops: limits, the callbacks of each step, traced outputs and the result."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.generation import DeadEnd
from conjoin.torch.cpu.native.rules import Rule
from conjoin.torch.generation.processors.calling import LogitsProcessorList, RuleProcessor
from conjoin.torch.generation.select import Generators
from conjoin.torch.generation.stopping import StoppingCriteriaList
from conjoin.torch.generation.watch import Watch


@runtime_checkable
class Streamer(Protocol):
    """Receives tokens as they are generated (transformers' BaseStreamer)."""

    def put(self, value: Tensor) -> None: ...
    def end(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Lengths and ids at which hypotheses end.

    Args:
        prompt: Length of the prompt.
        max_length: Length of a hypothesis at most, its prompt included.
        eos: Ids that end a hypothesis.
        pad: Id written after the end of a hypothesis.
    """

    prompt: int
    max_length: int
    eos: tuple[int, ...]
    pad: int


@dataclass(slots=True, kw_only=True)
class Trace:
    """Outputs to collect at each step, as transformers returns them; a list that is None is not collected.

    Args:
        origins: True to collect the row that each token of a hypothesis came from (beam_indices).
        rows: True if the cache is returned, so that it must hold all rows to the end.
    """

    scores: list[Tensor] | None = None
    logits: list[Tensor] | None = None
    origins: bool = False
    attentions: bool = False
    hidden_states: bool = False
    rows: bool = False

    @property
    def wanted(self) -> bool:
        """True if rows must stay in place: the cache is returned, or outputs are collected."""
        lists = self.scores is not None or self.logits is not None
        return lists or self.origins or self.attentions or self.hidden_states or self.rows

    def note(self, logits: Tensor, scores: Tensor) -> None:
        """Collect the raw and the processed scores of one step, as far as they are wanted."""
        if self.logits is not None:
            self.logits.append(logits.clone())
        if self.scores is not None:
            self.scores.append(scores.clone())


@dataclass(slots=True, kw_only=True)
class Control:
    """Everything that a loop calls at each step.

    Args:
        process: Edits scores [R, V] given ids [R, t]; None if there are no processors.
        stops: Tells which rows of ids [R, t] end; None if only end ids and the length end rows.
        patience: Check every this many steps whether all rows have ended; above 1 saves a GPU from waiting.
        watch: Raises an error if a row has no token left to choose.
        generators: What draws tokens.
    """

    process: LogitsProcessorList | None = None
    stops: StoppingCriteriaList | None = None
    streamer: Streamer | None = None
    trace: Trace = field(default_factory=Trace)
    patience: int = 1
    watch: Watch = field(default_factory=lambda: Watch(_raise_unexpected))
    generators: Generators = None

    @property
    def rows_may_leave(self) -> bool:
        """True if finished sources may leave the batch: nothing is collected, and all callbacks support it."""
        processors_can = self.process is None or self.process.rows_may_leave
        return processors_can and not self.trace.wanted and (self.stops is None or self.stops.rows_may_leave)

    @property
    def rules(self) -> list[Rule] | None:
        """The processors as native rules; None if anything must see each step outside of a native loop."""
        if self.stops is not None or self.streamer is not None or self.trace.wanted or self.patience > 1:
            return None
        rules = [each.native_rule if isinstance(each, RuleProcessor) else None for each in self.process or ()]
        native = [rule for rule in rules if rule is not None]
        return native if len(native) == len(rules) else None

    def looks(self, steps: int) -> bool:
        """True if this step checks which rows have ended: every step on a CPU, fewer on a GPU, which must wait."""
        return steps % self.patience == 0

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Tell the processors which rows are left, in their new order."""
        if self.process is not None:
            self.process.select(rows)

    def for_source(self, index: int, trace: Trace) -> "Control":
        """Return the controls of one source that is decoded on its own."""
        rows = torch.tensor([index])
        process = None if self.process is None else self.process.for_rows(rows)
        watch = replace(self.watch, first=index)
        return replace(self, process=process, trace=trace, watch=watch, generators=self.generator_of(index))

    def generator_of(self, source: int) -> torch.Generator | None:
        """Return what draws for a source that is decoded on its own."""
        return self.generators[source] if isinstance(self.generators, Sequence) else self.generators

    def processed(
        self,
        ids: Int[Tensor, "R t"],
        scores: Float[Tensor, "R V"],
        live_rows: Bool[Tensor, " R"] | None = None,
        **extra: Any,
    ) -> Float[Tensor, "R V"]:
        """Return the scores after all processors, which may edit `scores` in place unless raw scores are collected.

        Args:
            live_rows: True for rows that have not ended; None for all.
        """
        if self.process is None:
            return scores
        scores = scores if self.trace.logits is None else scores.clone()
        return self.process.edit(ids, scores, live_rows=live_rows, **extra)

    def stopped(self, ids: Int[Tensor, "R t"]) -> Bool[Tensor, " R"] | None:
        """Return the rows that a stopping criterion ends; None without criteria."""
        if self.stops is None:
            return None
        return self.stops(ids, None if self.trace.scores is None else tuple(self.trace.scores))

    def put(self, tokens: Int[Tensor, " n"]) -> None:
        """Pass tokens to the streamer, if there is one, one by one."""
        if self.streamer is not None:
            for token in tokens.cpu():
                self.streamer.put(token[None])

    def end_stream(self) -> None:
        """Tell the streamer, if there is one, that no more tokens follow."""
        if self.streamer is not None:
            self.streamer.end()


def _raise_unexpected(ends: list[DeadEnd]) -> NoReturn:
    raise AssertionError(ends)


@dataclass(slots=True, kw_only=True)
class Decoded:
    """Result of a decoding loop.

    Args:
        sequences: [R, t], rows of one source next to each other, best first, padded after their ends.
        counts: Number of results of each source, for beam searches; at most the requested number.
        scores: [R], for beam searches: log-probability / length ** length_penalty.
        origins: [R, t - prompt], the row that each token came from; -1 after the end.
    """

    sequences: Int[Tensor, "R t"]
    scores: Float[Tensor, " R"] | None = None
    origins: Int[Tensor, "R o"] | None = None
    counts: list[int] | None = None
