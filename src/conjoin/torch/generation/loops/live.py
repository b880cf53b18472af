"""Where beam searches put what they found, and which sources they still work on."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.generation import FORBIDDEN
from conjoin.torch.generation.loop import Control, Decoded
from conjoin.torch.generation.loops.beams import BeamRules, Beams, Finished
from conjoin.torch.generation.reader import Reader
from conjoin.torch.generation.streamers import stable_prefix


class Results:
    """Finished hypotheses of all sources, filled in as sources are done."""

    def __init__(self, sources: int, returned: int, rules: BeamRules, device: torch.device, trace: bool) -> None:
        shape = (sources, returned)
        self.sequences = torch.full((*shape, rules.max_length), rules.pad, dtype=torch.long, device=device)
        self.scores = torch.zeros(shape, device=device)
        self.lengths = torch.zeros(shape, dtype=torch.long, device=device)
        self.filled = torch.zeros(shape, dtype=torch.bool, device=device)
        self.origins = torch.full((*shape, rules.max_length - rules.prompt), -1, device=device) if trace else None
        self.prompt = rules.prompt

    def take(self, sources: Int[Tensor, " b"], found: Finished, which: Int[Tensor, " b"]) -> None:
        """Store what was found for live sources `which`, as results of `sources`."""
        count = self.scores.shape[1]
        self.sequences[sources] = found.ids[which, :count]
        self.scores[sources] = found.scores[which, :count]
        self.lengths[sources] = found.lengths[which, :count]
        self.filled[sources] = found.filled[which, :count]
        if self.origins is not None and found.origins is not None:
            self.origins[sources] = found.origins[which, :count]

    def decoded(self) -> Decoded:
        """All hypotheses, cut to the longest; behind an end stands the pad id. Places without one are left out."""
        filled = self.filled
        longest = int(self.lengths[filled].max())
        return Decoded(
            sequences=self.sequences[filled][:, :longest],
            scores=self.scores[filled],
            origins=None if self.origins is None else self.origins[filled][:, : longest - self.prompt],
            counts=filled.sum(1).tolist(),
        )


class Live:
    """Sources that a search still works on; the others' results are stored.

    Args:
        returned: Hypotheses per source.
    """

    def __init__(
        self, reader: Reader, prompt: Int[Tensor, "B P"], rules: BeamRules, control: Control, returned: int
    ) -> None:
        self.reader, self.rules, self.control = reader, rules, control
        self.sources = torch.arange(len(prompt), device=prompt.device)
        self.results = Results(len(prompt), returned, rules, prompt.device, control.trace.origins)
        self.emitted = Emitted(control, rules)

    def is_over(self, length: int, done: Bool[Tensor, " B"]) -> bool:
        """Whether no source can change any more."""
        return length >= self.rules.max_length or (self._looks(length) and bool(done.all()))

    def see(self, best: Float[Tensor, " B"], length: int, done: Bool[Tensor, " B"], *searches: Beams) -> None:
        """See that every source has a candidate, or has found something.

        Args:
            best: The score of the best candidate that `searches` have.
            length: Tokens of the hypotheses that it continues.
            done: Sources that needed none.

        Raises:
            GenerationError: a source has neither, or scores that are not numbers.
        """

        def over() -> Bool[Tensor, " B"]:
            found = torch.stack([each.is_finished.any(1) for each in searches]).any(0)
            return done | (found & ~best.isnan())

        self.control.watch.see(best, length, over, lambda: self.sources)

    def finish(self, found: Finished) -> Decoded:
        """Store what is left; everything that was found."""
        self.control.watch.look()
        self.results.take(self.sources, found, torch.arange(len(self.sources), device=self.sources.device))
        self.emitted.end(found)
        return self.results.decoded()

    def shrinks(self, length: int, done: Bool[Tensor, " B"]) -> bool:
        """Whether sources that are done leave the batch now."""
        return self.control.rows_may_leave and self._looks(length) and bool(done.any())

    def let_go(self, found: Finished, done: Bool[Tensor, " B"]) -> list[int]:
        """Take sources that are done out of the batch; the order in which the others now stand."""
        self.control.watch.look()
        gone = done.nonzero().squeeze(1)
        self.results.take(self.sources[gone], found, gone)
        order = self.reader.keep((~done).nonzero().squeeze(1).tolist())
        self.sources = self.sources[order]
        return order

    def _looks(self, length: int) -> bool:
        return self.control.looks(length - self.rules.prompt)


class Emitted:
    """Feeds a streamer with the prefix that no later step can change."""

    def __init__(self, control: Control, rules: BeamRules) -> None:
        self.control = control
        self.position = rules.prompt

    def put(self, *searches: Beams) -> None:
        """Emit what all hypotheses that may still win have in common, of one source."""
        if self.control.streamer is None:
            return
        running = [row[: each.length] for each in searches for row in each.running[0][each.scores[0] > FORBIDDEN]]
        finished = [
            each.finished[0, 0, : int(each.finished_lengths[0, 0])]  # sorted: no other finished one can win
            for each in searches
            if bool(each.is_finished[0, 0])
        ]
        if running:
            self._emit(running[0], stable_prefix(torch.stack(running), finished))

    def end(self, found: Finished) -> None:
        """Emit the rest of the winner."""
        if self.control.streamer is not None:
            self._emit(found.ids[0, 0], int(found.lengths[0, 0]))
            self.control.end_stream()

    def _emit(self, row: Int[Tensor, " t"], until: int) -> None:
        self.control.put(row[self.position : until])
        self.position = max(self.position, until)
