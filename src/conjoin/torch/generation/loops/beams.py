"""The bookkeeping of beam search: which beams go on, which are finished, when a source is done.

The rules are transformers' (generation/utils.py of 5.23, `_beam_search`), per source, so that a source's result does
not depend on its batch mates. Where a finished hypothesis is padded, we write the pad id; transformers writes the end
id where the pad id is 0.
"""

import sys
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.generation import FORBIDDEN
from conjoin.torch.generation.select import draw, drawable, is_any_of, top_k

NEVER = -float("inf")
"""Score of a place where no hypothesis stands."""
NO_WORD = -1
"""Stands for the word of a beam that no later group has to keep away from."""
_LEAST = torch.finfo(torch.float32).min
_LIKELY = torch.finfo(torch.float32).tiny
"""A token that is not forbidden is never quite impossible: it is drawn before one that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamRules:
    """What a beam search follows.

    Args:
        max_length: Positions of a hypothesis, its prompt included.
        prompt: Positions that were given.
        early_stopping: True ends a source when num_beams hypotheses are finished, False when the best running one can
            hardly win any more, "never" when it cannot.
        grouped: These are the beams of one group of several.
    """

    num_beams: int
    vocab_size: int
    max_length: int
    prompt: int
    eos: tuple[int, ...]
    pad: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    sample: bool = False
    grouped: bool = False

    @property
    def candidates(self) -> int:
        """Continuations looked at per step: enough that num_beams of them do not end."""
        return max(2, 1 + len(self.eos)) * self.num_beams


@dataclass(frozen=True, slots=True)
class Finished:
    """Finished hypotheses of every live source, best first, and where their tokens came from (if traced).

    Args:
        filled: Places where one stands.
    """

    ids: Int[Tensor, "B N L"]
    scores: Float[Tensor, "B N"]
    lengths: Int[Tensor, "B N"]
    origins: Int[Tensor, "B N O"] | None
    filled: Bool[Tensor, "B N"]


@dataclass(slots=True)
class Step:
    """What a step decided: row r continues row `parents[r]` with `tokens[r]`.

    Args:
        done: Sources whose result no later step can change.
        words: What the beams chose, the length aside; NO_WORD (in groups) where one chose nothing.
    """

    parents: Int[Tensor, " R"]
    tokens: Int[Tensor, " R"]
    done: Bool[Tensor, " B"]
    words: Int[Tensor, "B N"]


@dataclass(slots=True)
class Beams:
    """Running and finished hypotheses of every live source.

    Shapes: ids [B, N, L], scores [B, N], origins [B, N, L - prompt] (the row that each token came from).
    A hypothesis that has ended, or whose every token is forbidden, does not run. Where fewer run than there are beams,
    the best one stands in the places left over, with a score of -inf: whoever looks at rows sees running ones only.
    In a source where none runs, the last ones stand on, with pads behind them.

    Args:
        done: Sources whose result no later step can change.
        sources: How many there were at the start.
        places: Where the live ones stood then; None while none has left.
    """

    rules: BeamRules
    length: int
    running: Int[Tensor, "B N L"]
    scores: Float[Tensor, "B N"]
    finished: Int[Tensor, "B N L"]
    finished_scores: Float[Tensor, "B N"]
    is_finished: Bool[Tensor, "B N"]
    improvable: Bool[Tensor, "B 1"]
    finished_lengths: Int[Tensor, "B N"]
    done: Bool[Tensor, " B"]
    origins: Int[Tensor, "B N O"] | None = None
    finished_origins: Int[Tensor, "B N O"] | None = None
    sources: int = 0
    places: Int[Tensor, " B"] | None = None
    _spare: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @classmethod
    def start(cls, prompt: Int[Tensor, "B P"], rules: BeamRules, *, trace: bool = False) -> "Beams":
        """One hypothesis per source, in beam 0; the other beams exist, but cannot win.

        Args:
            trace: Keep `origins`, which transformers calls beam_indices.
        """
        batch, device = prompt.shape[0], prompt.device
        shape = (batch, rules.num_beams)
        running = torch.full((*shape, rules.max_length), rules.pad, dtype=torch.long, device=device)
        running[:, :, : rules.prompt] = prompt[:, None]
        scores = torch.full(shape, NEVER, device=device)
        scores[:, 0] = 0.0
        lost = torch.full((*shape, rules.max_length - rules.prompt), -1, device=device) if trace else None
        return cls(
            rules=rules,
            length=rules.prompt,
            running=running,
            scores=scores,
            finished=running.clone(),
            finished_scores=torch.full(shape, NEVER, device=device),
            is_finished=torch.zeros(shape, dtype=torch.bool, device=device),
            improvable=torch.ones(batch, 1, dtype=torch.bool, device=device),
            finished_lengths=torch.full(shape, rules.prompt, device=device),
            done=torch.zeros(batch, dtype=torch.bool, device=device),
            origins=lost,
            finished_origins=None if lost is None else lost.clone(),
            sources=batch,
        )

    @property
    def found(self) -> Finished:
        """What has finished so far."""
        lengths, origins = self.finished_lengths, self.finished_origins
        return Finished(self.finished, self.finished_scores, lengths, origins, self.is_finished)

    @property
    def runs(self) -> Bool[Tensor, "B N"]:
        """Places where a hypothesis runs."""
        return (self.scores > FORBIDDEN) & ~self.done[:, None]

    @property
    def rows(self) -> Int[Tensor, "R t"]:
        """Ids of the running hypotheses so far, one row per beam."""
        return self.running[:, :, : self.length].flatten(0, 1)

    def candidates(
        self, scores: Float[Tensor, "R V"], log_total: Float[Tensor, " R"] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best (or sampled) continuations of each source: scores, parent beams and tokens, each [B, C].

        The score of what is forbidden, or continues nothing, is at most FORBIDDEN. One that is NaN comes first.

        Args:
            scores: Log-probabilities of the next word, one row per beam; or, where all beams of a source are equal and
                nothing is drawn, as at the first step, one row per source.
            log_total: If `scores` are raw: what to subtract from each row to make them log-probabilities.
        """
        batch, width = self.scores.shape
        rows, words = scores.shape[0] // batch, scores.shape[1]
        count = min(self.rules.candidates, width * words)
        if self.rules.sample:
            return self._drawn(self._total(scores.view(batch, rows, words)), count, words)
        few = min(count, words)
        best, tokens = top_k(scores, few)
        best = best if log_total is None else best - log_total[:, None]
        best = self._total(best.view(batch, rows, few))
        tokens = tokens.view(batch, rows, few).expand(batch, width, few).flatten(1)
        values, picked = best.topk(count)
        return values, picked // few, tokens.gather(1, picked)

    def _total(self, scores: Float[Tensor, "B n k"]) -> Float[Tensor, "B Nk"]:
        """Scores of hypotheses with one token more; -inf where none runs, whatever is written there."""
        return torch.where(self.scores[:, :, None] > FORBIDDEN, scores + self.scores[:, :, None], NEVER).flatten(1)

    def _drawn(self, total: Float[Tensor, "B NV"], count: int, words: int) -> tuple[Tensor, Tensor, Tensor]:
        top = drawable(total.amax(1, keepdim=True))
        fine = (total > FORBIDDEN) & (top > FORBIDDEN)
        probabilities = torch.where(fine, total.softmax(-1).clamp(min=_LIKELY), (~(top > FORBIDDEN)).float())
        picked = draw(probabilities, count, self.places, self.sources)
        values = torch.where(top.isnan(), top, total.gather(1, picked))
        return values, picked // words, picked % words

    def advance(
        self,
        values: Tensor,
        parents: Tensor,
        tokens: Tensor,
        stops: Tensor | None = None,
        *,
        rank: Tensor | None = None,
    ) -> Step:
        """Take the candidates of one step.

        Args:
            values, parents, tokens: [B, C], best first.
            stops: [B, C], candidates that something besides an end id or the length ends.
            rank: [B, N], the candidates that go on, if they are not simply the best that have not ended.
        """
        ends = is_any_of(tokens, self.rules.eos)
        ends = ends if stops is None else ends | stops
        possible = values > FORBIDDEN
        open_ = values.masked_fill(ends | ~possible, NEVER)
        rank = open_.topk(self.rules.num_beams).indices if rank is None else rank
        self.scores, words = open_.gather(1, rank), tokens.gather(1, rank)
        chosen = words.masked_fill(self.scores == NEVER, NO_WORD) if self.rules.grouped else words
        if self.length + 1 >= self.rules.max_length:
            ends, self.scores = torch.ones_like(ends), torch.full_like(self.scores, NEVER)
        self._finish(values, parents, tokens, ends & possible)
        parents, tokens = self._running(parents.gather(1, rank), words)
        self._continue(parents, tokens)
        self.length += 1
        self._update_improvable()
        self.done = self.done | ~self.improvable[:, 0]
        if self.rules.early_stopping is True:
            self.done = self.done | self.is_finished.all(1)
        offsets = torch.arange(len(parents), device=parents.device)[:, None] * self.rules.num_beams
        return Step((parents + offsets).flatten(), tokens.flatten(), self.done, chosen)

    def _running(self, parents: Int[Tensor, "B N"], tokens: Int[Tensor, "B N"]) -> tuple[Tensor, Tensor]:
        """What goes on, the best first; it stands in the places of what does not, too."""
        runs = self.scores > FORBIDDEN
        if runs.device.type == "cpu" and bool(runs.all()):
            return parents, tokens
        some = runs[:, :1]
        places = torch.arange(parents.shape[1], device=parents.device)
        parents, tokens = (torch.where(runs, held, held[:, :1]) for held in (parents, tokens))
        return torch.where(some, parents, places), torch.where(some, tokens, self.rules.pad)

    def finished_now(self) -> tuple[Int[Tensor, "B N t"], Bool[Tensor, "B N"]]:
        """The finished hypotheses, up to the words of this step, and which of them the last step finished."""
        return self.finished[:, :, : self.length], self.is_finished & (self.finished_lengths == self.length)

    def candidate_rows(self, values: Tensor, parents: Tensor, tokens: Tensor) -> Int[Tensor, "C2 t"]:
        """Ids of every candidate, for criteria that read text; the best one's in the places of forbidden ones."""
        possible, first = values > FORBIDDEN, values.argmax(1, keepdim=True)
        some = possible.gather(1, first)
        parents, tokens = (torch.where(possible, held, held.gather(1, first)) for held in (parents, tokens))
        parents, tokens = torch.where(some, parents, 0), torch.where(some, tokens, self.rules.pad)
        return torch.cat((gather_beams(self.running[:, :, : self.length], parents), tokens[..., None]), 2).flatten(0, 1)

    def _finish(self, values: Tensor, parents: Tensor, tokens: Tensor, ends: Tensor) -> None:
        """Merge what ended into the finished hypotheses. Only the first num_beams candidates may end."""
        count = self.rules.num_beams
        ended = ends[:, :count]
        if ended.device.type == "cpu" and not ended.any():
            return
        scores = values[:, :count] / self._divisor(self.length + 1)
        frozen = ~self.improvable
        if self.rules.early_stopping is True:
            frozen = frozen | self.is_finished.all(1, keepdim=True)
        ended = ended & ~frozen
        scores = torch.where(ended, scores.clamp(min=_LEAST), NEVER)
        merged = torch.cat((self.finished_scores, scores), 1)
        self.finished_scores, picked = merged.topk(count)
        self.is_finished = torch.cat((self.is_finished, ended), 1).gather(1, picked)
        here = parents[:, :count]
        new = gather_beams(self.running, here)
        new[:, :, self.length] = tokens[:, :count]
        self.finished = gather_beams(torch.cat((self.finished, new), 1), picked)
        lengths = torch.full_like(here, self.length + 1)
        self.finished_lengths = torch.cat((self.finished_lengths, lengths), 1).gather(1, picked)
        if self.origins is not None and self.finished_origins is not None:
            traced = self._traced(self.origins, here)
            self.finished_origins = gather_beams(torch.cat((self.finished_origins, traced), 1), picked)

    def _continue(self, parents: Tensor, tokens: Tensor) -> None:
        if self.origins is not None:
            self.origins = self._traced(self.origins, parents)
        spare = self._spare.get("ids")
        if spare is None or spare.shape != self.running.shape:
            spare = torch.full_like(self.running, self.rules.pad)
        filled = self.running[:, :, : self.length]
        torch.gather(filled, 1, parents[..., None].expand_as(filled), out=spare[:, :, : self.length])
        spare[:, :, self.length] = tokens
        self._spare["ids"], self.running = self.running, spare

    def _traced(self, origins: Tensor, parents: Tensor) -> Tensor:
        traced = gather_beams(origins, parents)
        offsets = torch.arange(len(parents), device=parents.device)[:, None] * self.rules.num_beams
        traced[:, :, self.length - self.rules.prompt] = parents + offsets
        return traced

    def _update_improvable(self) -> None:
        """Whether the best running hypothesis may still beat the worst finished one."""
        rules = self.rules
        furthest = rules.early_stopping == "never" and rules.length_penalty > 0.0
        best = self.scores.max(1, keepdim=True).values / self._divisor(rules.max_length if furthest else self.length)
        worst = torch.where(self.is_finished, self.finished_scores.min(1, keepdim=True).values, NEVER)
        self.improvable = self.improvable & (best > worst).any(1, keepdim=True)

    def _divisor(self, length: int) -> float:
        """What scores of such a length are divided by."""
        try:
            return max((length - self.rules.prompt) ** self.rules.length_penalty, sys.float_info.min)
        except OverflowError:
            return sys.float_info.max

    def keep(self, order: list[int]) -> None:
        """Keep these sources, in this order."""
        if self.places is None:
            self.places = torch.arange(len(self.scores), device=self.scores.device)
        for name in (
            "running",
            "scores",
            "finished",
            "finished_scores",
            "is_finished",
            "improvable",
            "finished_lengths",
            "done",
            "origins",
            "finished_origins",
            "places",
        ):
            held = getattr(self, name)
            if held is not None:
                setattr(self, name, held[order])


def gather_beams(held: Tensor, beams: Tensor) -> Tensor:
    """held[b, beams[b, i]] for every i."""
    return held.gather(1, beams[..., None].expand(*beams.shape, held.shape[2]))


def best_of(values: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """The best candidate's score of every source; NaN where scores are not numbers."""
    return drawable(values.amax(1))
