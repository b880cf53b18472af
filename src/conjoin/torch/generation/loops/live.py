"""The results of beam searches, and the sources that they still work on."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.generation import FORBIDDEN
from conjoin.torch.generation.loop import Control, Decoded
from conjoin.torch.generation.loops.beams import BeamRules, Beams, Finished
from conjoin.torch.generation.reader import Reader
from conjoin.torch.generation.streamers import stable_prefix


class Results:
    """Finished hypotheses of all sources, stored as each source is done."""

    def __init__(self, sources: int, returned: int, rules: BeamRules, device: torch.device, trace: bool) -> None:
        shape = (sources, returned)
        self.sequences = torch.full((*shape, rules.max_length), rules.pad, dtype=torch.long, device=device)
        self.scores = torch.zeros(shape, device=device)
        self.lengths = torch.zeros(shape, dtype=torch.long, device=device)
        self.filled = torch.zeros(shape, dtype=torch.bool, device=device)
        self.origins = torch.full((*shape, rules.max_length - rules.prompt), -1, device=device) if trace else None
        self.prompt = rules.prompt

    def take(self, sources: Int[Tensor, " b"], hypotheses: Finished, which: Int[Tensor, " b"]) -> None:
        """Store the hypotheses of live sources `which` as the results of `sources`."""
        count = self.scores.shape[1]
        self.sequences[sources] = hypotheses.ids[which, :count]
        self.scores[sources] = hypotheses.scores[which, :count]
        self.lengths[sources] = hypotheses.lengths[which, :count]
        self.filled[sources] = hypotheses.filled[which, :count]
        if self.origins is not None and hypotheses.origins is not None:
            self.origins[sources] = hypotheses.origins[which, :count]

    def decoded(self) -> Decoded:
        """Return all hypotheses, truncated to the longest and padded after their ends; empty places are left out."""
        filled = self.filled
        longest = int(self.lengths[filled].max())
        return Decoded(
            sequences=self.sequences[filled][:, :longest],
            scores=self.scores[filled],
            origins=None if self.origins is None else self.origins[filled][:, : longest - self.prompt],
            counts=filled.sum(1).tolist(),
        )


class Live:
    """The sources that a search still works on, and the stored results of the others.

    Args:
        returned: Number of hypotheses to return per source.
    """

    def __init__(
        self, reader: Reader, prompt: Int[Tensor, "B P"], rules: BeamRules, control: Control, returned: int
    ) -> None:
        self.reader, self.rules, self.control = reader, rules, control
        self.sources = torch.arange(len(prompt), device=prompt.device)
        self.results = Results(len(prompt), returned, rules, prompt.device, control.trace.origins)
        self.emitted = Emitted(control, rules)

    def is_over(self, length: int, done: Bool[Tensor, " B"]) -> bool:
        """True if no later step can change any result."""
        return length >= self.rules.max_length or (self._checks_now(length) and bool(done.all()))

    def see(self, best: Float[Tensor, " B"], length: int, done: Bool[Tensor, " B"], *searches: Beams) -> None:
        """Check that every source has a candidate or a finished hypothesis.

        Args:
            best: Score of the best candidate of all `searches`.
            length: Length of the hypotheses that the candidates continue.
            done: True for sources that needed no candidate.

        Raises:
            GenerationError: a source has neither, or its scores are NaN or infinite.
        """

        def over() -> Bool[Tensor, " B"]:
            has_result = torch.stack([each.is_finished.any(1) for each in searches]).any(0)
            return done | (has_result & ~best.isnan())

        self.control.watch.see(best, length, over, lambda: self.sources)

    def finish(self, hypotheses: Finished) -> Decoded:
        """Store the hypotheses of the remaining sources, and return the results of all."""
        self.control.watch.look()
        self.results.take(self.sources, hypotheses, torch.arange(len(self.sources), device=self.sources.device))
        self.emitted.end(hypotheses)
        return self.results.decoded()

    def shrinks(self, length: int, done: Bool[Tensor, " B"]) -> bool:
        """True if sources that are done leave the batch now."""
        return self.control.rows_may_leave and self._checks_now(length) and bool(done.any())

    def let_go(self, hypotheses: Finished, done: Bool[Tensor, " B"]) -> list[int]:
        """Drop sources that are done from the batch; return the new order of the others."""
        self.control.watch.look()
        finished = done.nonzero().squeeze(1)
        self.results.take(self.sources[finished], hypotheses, finished)
        order = self.reader.keep((~done).nonzero().squeeze(1).tolist())
        self.sources = self.sources[order]
        return order

    def _checks_now(self, length: int) -> bool:
        return self.control.looks(length - self.rules.prompt)


class Emitted:
    """Passes the prefix that no later step can change to a streamer."""

    def __init__(self, control: Control, rules: BeamRules) -> None:
        self.control = control
        self.position = rules.prompt

    def put(self, *searches: Beams) -> None:
        """Emit the common prefix of all hypotheses of one source that may still win."""
        if self.control.streamer is None:
            return
        running = [row[: each.length] for each in searches for row in each.running[0][each.scores[0] > FORBIDDEN]]
        finished = [
            each.finished[0, 0, : int(each.finished_lengths[0, 0])]  # sorted, so no other finished hypothesis can win
            for each in searches
            if bool(each.is_finished[0, 0])
        ]
        if running:
            self._emit(running[0], stable_prefix(torch.stack(running), finished))

    def end(self, hypotheses: Finished) -> None:
        """Emit the rest of the best hypothesis."""
        if self.control.streamer is not None:
            self._emit(hypotheses.ids[0, 0], int(hypotheses.lengths[0, 0]))
            self.control.end_stream()

    def _emit(self, row: Int[Tensor, " t"], until: int) -> None:
        self.control.put(row[self.position : until])
        self.position = max(self.position, until)
