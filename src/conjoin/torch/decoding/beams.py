"""The bookkeeping of beam search: which beams go on, which are finished, when a source is done.

The rules are transformers' (generation/utils.py of 5.23, `_beam_search`), per source, so that a source's result does
not depend on its batch mates. Where a finished hypothesis is padded, we write the pad id; transformers writes the end
id where the pad id is 0.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.torch.decoding.select import draw, is_any_of, top_k

NEVER = -1.0e9
"""Added to scores that must not win."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamRules:
    """What a beam search follows.

    Args:
        max_length: Positions of a hypothesis, its prompt included.
        prompt: Positions that were given.
        early_stopping: True ends a source when num_beams hypotheses are finished, False when the best running one can
            hardly win any more, "never" when it cannot.
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

    @property
    def candidates(self) -> int:
        """Continuations looked at per step: enough that num_beams of them do not end."""
        return max(2, 1 + len(self.eos)) * self.num_beams


@dataclass(frozen=True, slots=True)
class Finished:
    """Finished hypotheses of every live source, best first, and where their tokens came from (if traced)."""

    ids: Int[Tensor, "B N L"]
    scores: Float[Tensor, "B N"]
    lengths: Int[Tensor, "B N"]
    origins: Int[Tensor, "B N O"] | None


@dataclass(slots=True)
class Step:
    """What a step decided: row r continues row `parents[r]` with `tokens[r]`.

    Args:
        done: Sources whose result no later step can change.
    """

    parents: Int[Tensor, " R"]
    tokens: Int[Tensor, " R"]
    done: Bool[Tensor, " B"]


@dataclass(slots=True)
class Beams:
    """Running and finished hypotheses of every live source.

    Shapes: ids [B, N, L], scores [B, N], origins [B, N, L - prompt] (the row that each token came from).

    Args:
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
            origins=lost,
            finished_origins=None if lost is None else lost.clone(),
            sources=batch,
        )

    @property
    def found(self) -> Finished:
        """What has finished so far."""
        return Finished(self.finished, self.finished_scores, self.finished_lengths, self.finished_origins)

    @property
    def rows(self) -> Int[Tensor, "R t"]:
        """Ids of the running hypotheses so far, one row per beam."""
        return self.running[:, :, : self.length].flatten(0, 1)

    def candidates(
        self, scores: Float[Tensor, "R V"], log_total: Float[Tensor, " R"] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best (or sampled) continuations of each source: scores, parent beams and tokens, each [B, C].

        Args:
            scores: Log-probabilities of the next word, one row per beam; or, where all beams of a source are equal and
                nothing is drawn, as at the first step, one row per source.
            log_total: If `scores` are raw: what to subtract from each row to make them log-probabilities.
        """
        batch, width = self.scores.shape
        rows, words = scores.shape[0] // batch, scores.shape[1]
        count = min(self.rules.candidates, width * words)
        if self.rules.sample:
            total = (scores.view(batch, rows, -1) + self.scores[:, :, None]).flatten(1)
            picked = draw(total.softmax(-1), count, self.places, self.sources)
            return total.gather(1, picked), picked // words, picked % words
        few = min(count, words)
        best, tokens = top_k(scores, few)
        best = best if log_total is None else best - log_total[:, None]
        best = (best.view(batch, rows, few) + self.scores[:, :, None]).flatten(1)
        tokens = tokens.view(batch, rows, few).expand(batch, width, few).flatten(1)
        values, picked = best.topk(count)
        return values, picked // few, tokens.gather(1, picked)

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
        if rank is None:
            rank = (values + ends.float() * NEVER).topk(self.rules.num_beams).indices
        if self.length + 1 >= self.rules.max_length:
            ends = torch.ones_like(ends)
        self._finish(values, parents, tokens, ends)
        self.scores = (values + ends.float() * NEVER).gather(1, rank)
        parents, tokens = parents.gather(1, rank), tokens.gather(1, rank)
        self._continue(parents, tokens)
        self.length += 1
        self._update_improvable()
        done = ~self.improvable[:, 0] | ends.all(1)
        if self.rules.early_stopping is True:
            done = done | self.is_finished.all(1)
        offsets = torch.arange(len(parents), device=parents.device)[:, None] * self.rules.num_beams
        return Step((parents + offsets).flatten(), tokens.flatten(), done)

    def candidate_rows(self, parents: Tensor, tokens: Tensor) -> Int[Tensor, "C2 t"]:
        """Ids of every candidate, for criteria that read text."""
        return torch.cat((gather_beams(self.running[:, :, : self.length], parents), tokens[..., None]), 2).flatten(0, 1)

    def _finish(self, values: Tensor, parents: Tensor, tokens: Tensor, ends: Tensor) -> None:
        """Merge what ended into the finished hypotheses. Only the first num_beams candidates may end."""
        count = self.rules.num_beams
        ended = ends[:, :count]
        if ended.device.type == "cpu" and not ended.any():
            return
        generated = self.length + 1 - self.rules.prompt
        scores = values[:, :count] / generated**self.rules.length_penalty
        frozen = ~self.improvable
        if self.rules.early_stopping is True:
            frozen = frozen | self.is_finished.all(1, keepdim=True)
        scores = scores + (frozen | ~ended).float() * NEVER
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
        length = (rules.max_length if furthest else self.length) - rules.prompt
        best = self.scores.max(1, keepdim=True).values / length**rules.length_penalty
        worst = torch.where(self.is_finished, self.finished_scores.min(1, keepdim=True).values, NEVER)
        self.improvable = self.improvable & (best > worst).any(1, keepdim=True)

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
