"""Beam search whose results contain given phrases (Post & Vilar 2018, arXiv:1804.06609)."""

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.errors import ConjoinWarning
from conjoin.generation import AnyOf, Constraint, Phrase
from conjoin.torch.decoding.beam_search import Results
from conjoin.torch.decoding.beams import NEVER, BeamRules, Beams
from conjoin.torch.decoding.loop import Control, Decoded
from conjoin.torch.decoding.reader import Reader

UNMET = -1.0e8
"""Added to the score of a hypothesis that reached the length without every phrase."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one hypothesis has come with every phrase.

    Args:
        wanted: Constraints as tuples of alternatives; each alternative is a tuple of ids.
        tail: The last ids written, as many as the longest phrase has.
        met: Which constraints stand in what was written.
    """

    wanted: tuple[tuple[tuple[int, ...], ...], ...]
    tail: tuple[int, ...] = ()
    met: tuple[bool, ...] = ()

    @classmethod
    def start(cls, constraints: tuple[Constraint, ...]) -> "Progress":
        """Nothing written yet."""
        wanted = tuple(_alternatives(constraint) for constraint in constraints)
        return cls(wanted, (), (False,) * len(wanted))

    def after(self, token: int) -> "Progress":
        """With one more word."""
        keep = max(len(phrase) for alternatives in self.wanted for phrase in alternatives)
        tail = (*self.tail, token)[-keep:]
        met = tuple(
            done or any(tail[-len(phrase) :] == phrase for phrase in alternatives)
            for done, alternatives in zip(self.met, self.wanted, strict=True)
        )
        return Progress(self.wanted, tail, met)

    @property
    def complete(self) -> bool:
        """Whether every constraint is met."""
        return all(self.met)

    @property
    def bank(self) -> int:
        """Words of phrases that are in place; an unmet constraint counts its best started alternative."""
        total = 0
        for done, alternatives in zip(self.met, self.wanted, strict=True):
            started = [self._started(phrase) for phrase in alternatives]
            total += max(len(phrase) for phrase in alternatives) if done else max(started)
        return total

    def next_words(self) -> set[int]:
        """Words that start or go on with a phrase that is still missing."""
        missing = (a for done, a in zip(self.met, self.wanted, strict=True) if not done)
        return {phrase[self._started(phrase)] for alternatives in missing for phrase in alternatives}

    def _started(self, phrase: tuple[int, ...]) -> int:
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


def constrained_beam_search(
    reader: Reader,
    prompt: Int[Tensor, "B P"],
    rules: BeamRules,
    control: Control,
    constraints: tuple[Constraint, ...],
    *,
    returned: int = 1,
) -> Decoded:
    """The best hypotheses that contain every phrase.

    Candidates are the best words and the words that bring a phrase forward. Beams are shared out over banks, by how
    many words of phrases are in place, so that hypotheses that must still write their phrases are not crowded out.
    An end id counts only when all phrases are in place.
    """
    batch = len(prompt)
    beams = Beams.start(prompt, rules)
    results = Results(batch, returned, rules, prompt.device, trace=False)
    states = [[Progress.start(constraints)] * rules.num_beams for _ in range(batch)]
    done = torch.zeros(batch, dtype=torch.bool, device=prompt.device)
    reader.expand(rules.num_beams)
    scores = reader.scores(prompt.repeat_interleave(rules.num_beams, 0))
    while True:
        logits = scores.float()
        edited = control.processed(beams.rows, logits.log_softmax(-1))
        control.trace.note(logits, edited)
        rows = [_decide(beams, edited, source, states[source]) for source in range(batch)]
        values, parents, tokens, rank = (
            torch.stack(column).to(prompt.device) for column in zip(*(r[0] for r in rows), strict=True)
        )
        states = [row[1] for row in rows]
        stops = control.stopped(beams.candidate_rows(parents, tokens))
        step = beams.advance(values, parents, tokens, None if stops is None else stops.view_as(tokens), rank=rank)
        done |= step.done
        if bool(done.all()) or beams.length >= rules.max_length:
            break
        reader.reorder(step.parents)
        scores = reader.scores(step.tokens[:, None])
    every = torch.arange(batch, device=prompt.device)
    results.take(every, beams, every)
    if bool((results.scores < UNMET / rules.max_length ** max(rules.length_penalty, 1.0)).any()):
        warnings.warn(
            "Some results do not contain every phrase of force_words_ids: max_length was reached first.",
            ConjoinWarning,
            stacklevel=3,
        )
    return results.decoded()


def _decide(
    beams: Beams, log_probs: Float[Tensor, "R V"], source: int, states: list[Progress]
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], list[Progress]]:
    """One source's candidates, ended ones first, and which of them go on."""
    rules = beams.rules
    count = rules.num_beams
    mine = log_probs[source * count : (source + 1) * count] + beams.scores[source][:, None]
    found = _candidates(mine, states, rules)
    last = beams.length + 1 >= rules.max_length
    running = _share_out([c for c in found if not c.ends], count)
    ended = sorted((c for c in found if c.ends), key=lambda c: -c.value)[:count]
    if last:
        everyone = sorted((*ended, *running), key=lambda c: (-c.progress.complete, -c.value))[:count]
        ended = [
            c if c.progress.complete else _Candidate(c.value + UNMET, c.parent, c.token, c.progress, True)
            for c in everyone
        ]
    filler = _Candidate(NEVER, 0, rules.pad, states[0], False)
    running += [filler] * (count - len(running))
    ended += [filler] * (count - len(ended))
    chosen = ended + running
    values = torch.tensor([c.value for c in chosen])
    parents = torch.tensor([c.parent for c in chosen])
    tokens = torch.tensor([c.token for c in chosen])
    return (values, parents, tokens, torch.arange(count, 2 * count)), [c.progress for c in running]


def _candidates(scores: Float[Tensor, "N V"], states: list[Progress], rules: BeamRules) -> list[_Candidate]:
    """The best continuations of all beams, and those that bring a phrase forward."""
    words = scores.shape[1]
    best = scores.flatten().topk(min(rules.candidates, scores.numel())).indices.tolist()
    pairs = {(index // words, index % words) for index in best}
    pairs |= {(beam, word) for beam, state in enumerate(states) for word in state.next_words()}
    found: list[_Candidate] = []
    for beam, word in sorted(pairs):
        progress = states[beam].after(word)
        ends = word in rules.eos
        if not ends or progress.complete:
            found.append(_Candidate(float(scores[beam, word]), beam, word, progress, ends))
    return found


def _share_out(candidates: list[_Candidate], count: int) -> list[_Candidate]:
    """Take the best of every bank in turn, fullest bank first; then order what was taken by score."""
    banks: dict[int, list[_Candidate]] = {}
    for candidate in sorted(candidates, key=lambda c: -c.value):
        if candidate.value > NEVER / 2:
            banks.setdefault(candidate.progress.bank, []).append(candidate)
    taken: list[_Candidate] = []
    while len(taken) < count and any(banks.values()):
        for bank in sorted(banks, reverse=True):
            if banks[bank] and len(taken) < count:
                taken.append(banks[bank].pop(0))
    return sorted(taken, key=lambda c: -c.value)
