"""Beam search whose results contain given phrases (Post & Vilar 2018, arXiv:1804.06609)."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.errors import warn
from conjoin.generation import FORBIDDEN, AnyOf, Constraint, Phrase
from conjoin.torch.generation.loop import Control, Decoded
from conjoin.torch.generation.loops.beams import NEVER, BeamRules, Beams, Step, best_of
from conjoin.torch.generation.loops.live import Live
from conjoin.torch.generation.reader import Reader, block_rows
from conjoin.torch.generation.select import top_k

UNMET = -1.0e8
"""Added to the score of a hypothesis that reached the maximum length without every phrase."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of one hypothesis with every constraint.

    Args:
        wanted: Constraints as tuples of alternatives; each alternative is a tuple of ids.
        tail: The last ids of the hypothesis, as many as the longest phrase has.
        met: True for every constraint that the hypothesis contains.
    """

    wanted: tuple[tuple[tuple[int, ...], ...], ...]
    tail: tuple[int, ...] = ()
    met: tuple[bool, ...] = ()

    @classmethod
    def start(cls, constraints: tuple[Constraint, ...]) -> "Progress":
        """Return the progress of an empty hypothesis."""
        wanted = tuple(_alternatives(constraint) for constraint in constraints)
        return cls(wanted, (), (False,) * len(wanted))

    def after(self, token: int) -> "Progress":
        """Return the progress after one more token."""
        keep = max(len(phrase) for alternatives in self.wanted for phrase in alternatives)
        tail = (*self.tail, token)[-keep:]
        met = tuple(
            done or any(tail[-len(phrase) :] == phrase for phrase in alternatives)
            for done, alternatives in zip(self.met, self.wanted, strict=True)
        )
        return Progress(self.wanted, tail, met)

    @property
    def complete(self) -> bool:
        """True if every constraint is met."""
        return all(self.met)

    @property
    def bank(self) -> int:
        """Number of tokens of phrases that are met, plus those of the unmet phrase that has come furthest.

        The right next token therefore always leads to a higher bank, so that hypotheses in the highest one complete.
        """
        pairs = list(zip(self.met, self.wanted, strict=True))
        met = sum(max(len(phrase) for phrase in alternatives) for done, alternatives in pairs if done)
        partial = [self._matched(phrase) for done, alternatives in pairs if not done for phrase in alternatives]
        return met + max(partial, default=0)

    def next_words(self) -> set[int]:
        """Return the tokens that begin or continue an unmet phrase."""
        missing = (a for done, a in zip(self.met, self.wanted, strict=True) if not done)
        return {phrase[self._matched(phrase)] for alternatives in missing for phrase in alternatives}

    def _matched(self, phrase: tuple[int, ...]) -> int:
        for size in range(min(len(phrase) - 1, len(self.tail)), 0, -1):
            if self.tail[-size:] == phrase[:size]:
                return size
        return 0


def _alternatives(constraint: Constraint) -> tuple[tuple[int, ...], ...]:
    match constraint:
        case Phrase(ids=ids):
            return (ids,)
        case AnyOf(phrases=phrases):
            return tuple(phrase.ids for phrase in phrases)


@dataclass(frozen=True, slots=True)
class _Candidate:
    value: float
    parent: int
    token: int
    progress: Progress
    ends: bool

    @property
    def complete(self) -> bool:
        return self.progress.complete


def constrained_beam_search(
    reader: Reader,
    prompt: Int[Tensor, "B P"],
    rules: BeamRules,
    control: Control,
    constraints: tuple[Constraint, ...],
    *,
    returned: int = 1,
    mask: Tensor | None = None,
) -> Decoded:
    """Return the best hypotheses that contain every phrase; phrases in the prompt do not count.

    Candidates are the best tokens of a source, the best of each beam, and the tokens that continue a phrase. Beams are
    distributed over banks, by the number of phrase tokens that are met, so that hypotheses that lack phrases are not
    crowded out. An end (an end id or a stopping criterion) counts only once all phrases are met.

    Args:
        returned: Number of hypotheses to return per source.
        mask: [B, P], for prompts that are padded on the left.
    """
    search = _Search(reader, prompt, rules, control, constraints, returned)
    tokens = search.step(search.first_scores(prompt, mask))
    while tokens is not None:
        tokens = search.step(reader.scores(tokens[:, None]))
    decoded = search.live.finish(search.beams.found)
    assert decoded.scores is not None
    if bool((decoded.scores < UNMET / rules.max_length ** max(rules.length_penalty, 1.0)).any()):
        warn(
            "Some results do not contain every phrase of force_words_ids: their end was reached first. "
            "Raise max_new_tokens or num_beams."
        )
    return decoded


class _Search:
    """State of a constrained beam search over the sources that are not done."""

    def __init__(
        self,
        reader: Reader,
        prompt: Int[Tensor, "B P"],
        rules: BeamRules,
        control: Control,
        constraints: tuple[Constraint, ...],
        returned: int,
    ) -> None:
        self.reader, self.rules, self.control = reader, rules, control
        self.beams = Beams.start(prompt, rules, trace=control.trace.origins)
        self.states = [[Progress.start(constraints)] * rules.num_beams for _ in range(len(prompt))]
        self.live = Live(reader, prompt, rules, control, returned)

    def first_scores(self, prompt: Int[Tensor, "B P"], mask: Tensor | None) -> Float[Tensor, "R V"]:
        """Read the prompt."""
        return self.reader.first_scores(prompt, mask, self.rules.num_beams, together=self.control.rows_may_leave)

    def step(self, scores: Float[Tensor, "R V"]) -> Int[Tensor, " R2"] | None:
        """Choose the continuations, reorder the cache, drop finished sources.

        Returns:
            The tokens to read next; None if the search is over.
        """
        logits = scores.float()
        edited = self.control.processed(self.beams.rows, logits.log_softmax(-1), self.beams.runs.flatten())
        self.control.trace.note(logits, edited)
        candidates = self._candidates(edited)
        self.live.see(self._best(edited), self.beams.length, self.beams.done, self.beams)
        step = self._advance(candidates)
        self.live.emitted.put(self.beams)
        if self.live.is_over(self.beams.length, step.done):
            return None
        self.reader.reorder(step.parents)
        if not self.live.shrinks(self.beams.length, step.done):
            return step.tokens
        order = self.live.let_go(self.beams.found, step.done)
        rows = block_rows(order, self.rules.num_beams, scores.device)
        self.beams.keep(order)
        self.states = [self.states[source] for source in order]
        self.control.select(rows)
        return step.tokens[rows]

    def _best(self, log_probs: Float[Tensor, "R V"]) -> Float[Tensor, " B"]:
        totals = log_probs.amax(-1).view_as(self.beams.scores) + self.beams.scores
        return best_of(torch.where(self.beams.runs, totals, NEVER))

    def _candidates(self, log_probs: Float[Tensor, "R V"]) -> list[list[_Candidate]]:
        """Return per source: the best continuations, the best of each beam, and those that continue a phrase."""
        beams, vocab_size = self.rules.num_beams, log_probs.shape[1]
        totals = (log_probs + self.beams.scores.reshape(-1, 1)).view(-1, beams * vocab_size)
        totals = totals.masked_fill(~self.beams.runs.repeat_interleave(vocab_size, 1), NEVER)
        best = top_k(totals, min(self.rules.candidates, beams * vocab_size))[1]
        own = top_k(log_probs, min(1 + len(self.rules.eos), vocab_size))[1]  # at least one of them does not end
        offsets = torch.arange(beams, device=own.device)[:, None] * vocab_size
        own = (own.view(len(totals), beams, -1) + offsets).flatten(1)
        continuing = [
            {beam * vocab_size + token for beam, state in enumerate(states) for token in state.next_words()}
            for states in self.states
        ]
        both = zip(torch.cat((best, own), 1).tolist(), continuing, strict=True)
        indices_of = [sorted({*likely, *needed}) for likely, needed in both]
        rows = [row for row, indices in enumerate(indices_of) for _ in indices]
        values = iter(totals[rows, [index for indices in indices_of for index in indices]].tolist())
        return [
            [self._candidate(source, index // vocab_size, index % vocab_size, next(values)) for index in indices]
            for source, indices in enumerate(indices_of)
        ]

    def _candidate(self, source: int, beam: int, token: int, value: float) -> _Candidate:
        progress = self.states[source][beam].after(token)
        return _Candidate(value, beam, token, progress, token in self.rules.eos)

    def _advance(self, candidates_of: list[list[_Candidate]]) -> Step:
        """Choose among the candidates of each source, and advance the beams."""
        count, device = self.rules.num_beams, self.beams.scores.device
        last = self.beams.length + 1 >= self.rules.max_length
        filler = _Candidate(float("-inf"), 0, self.rules.pad, self.states[0][0], False)
        rows: list[list[_Candidate]] = []
        for candidates in self._stopped(candidates_of):
            ended, running = _choose([c for c in candidates if c.value > FORBIDDEN], count, last)
            rows.append([*_filled(ended, filler, count), *_filled(running, filler, count)])
        self.states = [[c.progress for c in row[count:]] for row in rows]
        values = torch.tensor([[c.value for c in row] for row in rows], device=device)
        parents = torch.tensor([[c.parent for c in row] for row in rows], device=device)
        tokens = torch.tensor([[c.token for c in row] for row in rows], device=device)
        places = torch.arange(2 * count, device=device).expand_as(tokens)
        return self.beams.advance(values, parents, tokens, places < count, rank=places[:, count:])

    def _stopped(self, candidates_of: list[list[_Candidate]]) -> list[list[_Candidate]]:
        """Return the candidates; those that a stopping criterion ends are marked as ending."""
        if self.control.stops is None:
            return candidates_of
        device = self.beams.scores.device
        places = [(row, c.parent, c.token) for row, candidates in enumerate(candidates_of) for c in candidates]
        rows, parents, tokens = torch.tensor(places, device=device).unbind(1)
        ids = torch.cat((self.beams.running[rows, parents, : self.beams.length], tokens[:, None]), 1)
        has_stopped = self.control.stopped(ids)
        assert has_stopped is not None
        flags = iter(has_stopped.tolist())
        return [[replace(c, ends=next(flags) or c.ends) for c in candidates] for candidates in candidates_of]


def _filled(chosen: list[_Candidate], filler: _Candidate, count: int) -> list[_Candidate]:
    return chosen + [filler] * (count - len(chosen))


def _choose(candidates: list[_Candidate], count: int, last: bool) -> tuple[list[_Candidate], list[_Candidate]]:
    """Return the candidates that end, best first, and those that go on.

    A candidate that ends before its phrases are met is dropped. At the maximum length, or if no other candidate is
    left, the best of these end too, ranked far below all complete ones.
    """
    ended = [c for c in candidates if c.ends and c.complete]
    running = _share_out([c for c in candidates if not c.ends], count)
    if last or not (ended or running):
        unfinished = [c for c in candidates if not c.ends or not c.complete]
        ended += [c if c.complete else replace(c, value=c.value + UNMET) for c in unfinished]
    return sorted(ended, key=lambda c: -c.value)[:count], running


def _share_out(candidates: list[_Candidate], count: int) -> list[_Candidate]:
    """Take the best of every bank in turn, highest bank first, until `count` are taken; return them by score."""
    banks: dict[int, list[_Candidate]] = {}
    for candidate in sorted(candidates, key=lambda c: -c.value):
        banks.setdefault(candidate.progress.bank, []).append(candidate)
    taken: list[_Candidate] = []
    while len(taken) < count and any(banks.values()):
        for bank in sorted(banks, reverse=True):
            if banks[bank] and len(taken) < count:
                taken.append(banks[bank].pop(0))
    return sorted(taken, key=lambda c: -c.value)
