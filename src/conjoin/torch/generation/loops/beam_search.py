"""Beam search and beam sampling."""

from jaxtyping import Float, Int
from torch import Tensor

from conjoin.torch.generation.loop import Control, Decoded
from conjoin.torch.generation.loops.beams import BeamRules, Beams, Step, best_of
from conjoin.torch.generation.loops.live import Live
from conjoin.torch.generation.reader import Reader, block_rows


def beam_search(
    reader: Reader,
    prompt: Int[Tensor, "B P"],
    rules: BeamRules,
    control: Control,
    *,
    returned: int = 1,
    mask: Tensor | None = None,
) -> Decoded:
    """Return the best hypotheses of every source.

    The first step runs on one row per source, since all beams are equal then. Sources that are done leave the batch.
    The self-cache moves only where a beam changed its parent. If outputs are collected at each step, all rows stay.

    Args:
        returned: Number of hypotheses to return per source.
        mask: [B, P], for prompts that are padded on the left.
    """
    search = _Search(reader, prompt, rules, control, returned)
    tokens = search.step(search.first_scores(prompt, mask))
    while tokens is not None:
        tokens = search.step(reader.scores(tokens[:, None]))
    return search.live.finish(search.beams.found)


class _Search:
    """State of a beam search over the sources that are not done."""

    def __init__(
        self, reader: Reader, prompt: Int[Tensor, "B P"], rules: BeamRules, control: Control, returned: int
    ) -> None:
        self.reader, self.rules, self.control = reader, rules, control
        self.beams = Beams.start(prompt, rules, trace=control.trace.origins)
        self.live = Live(reader, prompt, rules, control, returned)

    def first_scores(self, prompt: Int[Tensor, "B P"], mask: Tensor | None) -> Float[Tensor, "R V"]:
        """Read the prompt: one row per source if its beams are equal and nothing needs a row for each."""
        if self.control.rows_may_leave and not self.rules.sample:
            return self.reader.scores(prompt, mask)
        self.reader.expand(self.rules.num_beams)
        mask = None if mask is None else mask.repeat_interleave(self.rules.num_beams, 0)
        return self.reader.scores(self.beams.rows, mask)

    def step(self, scores: Float[Tensor, "R V"]) -> Int[Tensor, " R2"] | None:
        """Choose the continuations, reorder the cache, drop finished sources.

        Returns:
            The tokens to read next; None if the search is over.
        """
        is_one_row_per_source = len(scores) < len(self.live.sources) * self.rules.num_beams
        step = self._decide(scores.float(), slice(None, None, self.rules.num_beams if is_one_row_per_source else 1))
        self.live.emitted.put(self.beams)
        if self.live.is_over(self.beams.length, step.done):
            return None
        if is_one_row_per_source:
            self.reader.expand(self.rules.num_beams)
        else:
            self.reader.reorder(step.parents)
        if not self.live.shrinks(self.beams.length, step.done):
            return step.tokens
        order = self.live.let_go(self.beams.found, step.done)
        rows = block_rows(order, self.rules.num_beams, scores.device)
        self.beams.keep(order)
        self.control.select(rows)
        return step.tokens[rows]

    def _decide(self, logits: Float[Tensor, "R V"], rows: slice) -> Step:
        """Choose parents and tokens from the raw scores of these rows."""
        beams, control = self.beams, self.control
        if control.process is None and not control.trace.wanted and not beams.rules.sample:
            best = beams.candidates(logits, raw=True)
        else:
            edited = control.processed(beams.rows[rows], logits.log_softmax(-1), beams.runs.flatten()[rows])
            control.trace.note(logits, edited)
            best = beams.candidates(edited, generator=control.generators)
        self.live.see(best_of(best[0]), beams.length, beams.done, beams)
        return beams.advance(*best, stopped(beams, control, *best))


def stopped(
    beams: Beams, control: Control, values: Float[Tensor, "B C"], parents: Int[Tensor, "B C"], tokens: Tensor
) -> Tensor | None:
    """Return which candidates a stopping criterion ends, [B, C]; None without criteria."""
    if control.stops is None:
        return None
    has_stopped = control.stopped(beams.candidate_rows(values, parents, tokens))
    return None if has_stopped is None else has_stopped.view_as(tokens)
