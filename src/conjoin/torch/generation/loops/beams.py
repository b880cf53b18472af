"""The state of beam search: which beams run, which are finished, when a source is done.

The rules are transformers' (generation/utils.py of 5.23, `_beam_search`), per source, so that a source's result does
not depend on the rest of the batch. Finished hypotheses are padded with the pad id; transformers pads with the end id
if the pad id is 0.
"""

import sys
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.generation import FORBIDDEN
from conjoin.torch.cpu.native.beams import BeamTensors, NativeBeams
from conjoin.torch.cpu.native.select import selects
from conjoin.torch.generation.select import Generators, draw, drawable, is_any_of, top_k

NEVER = -float("inf")
"""Score of a beam without a hypothesis."""
NO_WORD = -1
"""Marks a beam that chose no token which later groups should avoid."""
_LEAST = torch.finfo(torch.float32).min
_LIKELY = torch.finfo(torch.float32).tiny
"""Least probability of a token that is not forbidden, so that it is drawn before one that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamRules:
    """Settings of a beam search.

    Args:
        max_length: Maximum length of a hypothesis, its prompt included.
        prompt: Length of the prompt.
        early_stopping: True ends a source when num_beams hypotheses are finished, False when the best running one is
            unlikely to win, "never" when it cannot.
        grouped: True if these are the beams of one group of several.
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
        """Number of continuations per step: enough that num_beams of them do not end."""
        return max(2, 1 + len(self.eos)) * self.num_beams

    @property
    def native(self) -> NativeBeams:
        """The same search in kernels."""
        return NativeBeams(
            num_beams=self.num_beams,
            candidates=self.candidates,
            prompt=self.prompt,
            max_length=self.max_length,
            pad=self.pad,
            eos=self.eos,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """Finished hypotheses of every live source, best first, and where their tokens came from (if traced).

    Args:
        filled: True where there is a hypothesis.
    """

    ids: Int[Tensor, "B N L"]
    scores: Float[Tensor, "B N"]
    lengths: Int[Tensor, "B N"]
    origins: Int[Tensor, "B N O"] | None
    filled: Bool[Tensor, "B N"]


@dataclass(slots=True)
class Step:
    """Result of a step: row r continues row `parents[r]` with `tokens[r]`.

    Args:
        done: Sources whose result no later step can change.
        words: Tokens that the beams chose, before the length limit; in groups, NO_WORD if a beam chose none.
    """

    parents: Int[Tensor, " R"]
    tokens: Int[Tensor, " R"]
    done: Bool[Tensor, " B"]
    words: Int[Tensor, "B N"]


@dataclass(slots=True)
class Beams:
    """Running and finished hypotheses of every live source.

    Shapes: ids [B, N, L], scores [B, N], origins [B, N, L - prompt] (the row that each token came from).
    A hypothesis that has ended, or whose tokens are all forbidden, does not run. If fewer run than there are beams, the
    best one fills the other beams with a score of -inf, so that rows hold running hypotheses only. In a source where
    none runs, the last hypotheses stay and are padded.

    Args:
        done: Sources whose result no later step can change.
        sources: Number of sources at the start.
        places: Index at the start of each live source; None while all are live.
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
    _native: NativeBeams = field(init=False)

    def __post_init__(self) -> None:
        self._native = self.rules.native

    @classmethod
    def start(cls, prompt: Int[Tensor, "B P"], rules: BeamRules, *, trace: bool = False) -> "Beams":
        """Start with one hypothesis per source, in beam 0; the other beams exist, but cannot win.

        Args:
            trace: True collects `origins`, which transformers calls beam_indices.
        """
        batch, device = prompt.shape[0], prompt.device
        shape = (batch, rules.num_beams)
        running = torch.full((*shape, rules.max_length), rules.pad, dtype=torch.long, device=device)
        running[:, :, : rules.prompt] = prompt[:, None]
        scores = torch.full(shape, NEVER, device=device)
        scores[:, 0] = 0.0
        origins = torch.full((*shape, rules.max_length - rules.prompt), -1, device=device) if trace else None
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
            origins=origins,
            finished_origins=None if origins is None else origins.clone(),
            sources=batch,
        )

    @property
    def found(self) -> Finished:
        """The finished hypotheses so far."""
        lengths, origins = self.finished_lengths, self.finished_origins
        return Finished(self.finished, self.finished_scores, lengths, origins, self.is_finished)

    @property
    def runs(self) -> Bool[Tensor, "B N"]:
        """True for beams whose hypothesis runs."""
        return (self.scores > FORBIDDEN) & ~self.done[:, None]

    @property
    def rows(self) -> Int[Tensor, "R t"]:
        """Ids of the running hypotheses so far, one row per beam."""
        return self.running[:, :, : self.length].flatten(0, 1)

    def candidates(
        self, scores: Float[Tensor, "R V"], *, raw: bool = False, generator: Generators = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best (or sampled) continuations of each source: scores, parent beams and tokens, each [B, C].

        Forbidden continuations, and those of beams that do not run, score at most FORBIDDEN. NaN comes first.

        Args:
            scores: Log-probabilities of the next token, one row per beam; or one row per source, if its beams are equal
                and nothing is sampled, as at the first step.
            raw: True if they are not log-probabilities yet; not where tokens are sampled.
            generator: What samples.
        """
        if selects(scores) and selects(self.scores) and not self.rules.sample:
            return self._native.candidates(self._tensors(), self.length, scores, raw=raw)
        batch, width = self.scores.shape
        rows, vocab_size = scores.shape[0] // batch, scores.shape[1]
        count = min(self.rules.candidates, width * vocab_size)
        if self.rules.sample:
            return self._drawn(self._total(scores.view(batch, rows, vocab_size)), count, vocab_size, generator)
        few = min(count, vocab_size)
        best, tokens = top_k(scores, few)
        best = best - scores.logsumexp(-1, keepdim=True) if raw else best
        best = self._total(best.view(batch, rows, few))
        tokens = tokens.view(batch, rows, few).expand(batch, width, few).flatten(1)
        values, picked = best.topk(count)
        return values, picked // few, tokens.gather(1, picked)

    def _total(self, scores: Float[Tensor, "B n k"]) -> Float[Tensor, "B Nk"]:
        """Return the scores of hypotheses with one more token; -inf for beams that do not run."""
        return torch.where(self.scores[:, :, None] > FORBIDDEN, scores + self.scores[:, :, None], NEVER).flatten(1)

    def _drawn(
        self, total: Float[Tensor, "B NV"], count: int, vocab_size: int, generator: Generators
    ) -> tuple[Tensor, Tensor, Tensor]:
        top = drawable(total.amax(1, keepdim=True))
        allowed = (total > FORBIDDEN) & (top > FORBIDDEN)
        probabilities = torch.where(allowed, total.softmax(-1).clamp(min=_LIKELY), (~(top > FORBIDDEN)).float())
        picked = draw(probabilities, count, self.places, self.sources, generator)
        values = torch.where(top.isnan(), top, total.gather(1, picked))
        return values, picked // vocab_size, picked % vocab_size

    def advance(
        self,
        values: Tensor,
        parents: Tensor,
        tokens: Tensor,
        stops: Tensor | None = None,
        *,
        rank: Tensor | None = None,
    ) -> Step:
        """Extend, finish and drop hypotheses by the candidates of one step.

        Args:
            values, parents, tokens: [B, C], best first.
            stops: [B, C], True for candidates that a stopping criterion ends.
            rank: [B, N], the candidates that go on; None for the best that do not end.
        """
        if selects(values) and selects(self.scores):
            return self._advance_natively(values, parents, tokens, stops, rank)
        ends = is_any_of(tokens, self.rules.eos)
        ends = ends if stops is None else ends | stops
        possible = values > FORBIDDEN
        open_ = values.masked_fill(ends | ~possible, NEVER)
        rank = open_.topk(self.rules.num_beams).indices if rank is None else rank
        self.scores, next_tokens = open_.gather(1, rank), tokens.gather(1, rank)
        chosen = next_tokens.masked_fill(self.scores == NEVER, NO_WORD) if self.rules.grouped else next_tokens
        if self.length + 1 >= self.rules.max_length:
            ends, self.scores = torch.ones_like(ends), torch.full_like(self.scores, NEVER)
        self._finish(values, parents, tokens, ends & possible)
        parents, tokens = self._running(parents.gather(1, rank), next_tokens)
        self._continue(parents, tokens)
        self.length += 1
        self._update_improvable()
        self.done = self.done | ~self.improvable[:, 0]
        if self.rules.early_stopping is True:
            self.done = self.done | self.is_finished.all(1)
        offsets = torch.arange(len(parents), device=parents.device)[:, None] * self.rules.num_beams
        return Step((parents + offsets).flatten(), tokens.flatten(), self.done, chosen)

    def _advance_natively(
        self, values: Tensor, parents: Tensor, tokens: Tensor, stops: Tensor | None, rank: Tensor | None
    ) -> Step:
        tensors = self._tensors()
        parents, tokens, words = self._native.advance(tensors, self.length, values, parents, tokens, stops, rank)
        self._spare["ids"], self.running = self.running, tensors.spare_ids
        if self.origins is not None and tensors.spare_origins is not None:
            self._spare["origins"], self.origins = self.origins, tensors.spare_origins
        self.length += 1
        return Step(parents.flatten(), tokens.flatten(), self.done, words)

    def _tensors(self) -> BeamTensors:
        return BeamTensors(
            self.running,
            self._spare_of("ids", self.running, self.rules.pad),
            self.origins,
            None if self.origins is None else self._spare_of("origins", self.origins, -1),
            self.scores,
            self.finished,
            self.finished_origins,
            self.finished_scores,
            self.finished_lengths,
            self.is_finished,
            self.improvable,
            self.done,
        )

    def _spare_of(self, name: str, held: Tensor, fill: int) -> Tensor:
        """Return memory for the next ids or origins."""
        spare = self._spare.get(name)
        if spare is None or spare.shape != held.shape:
            spare = self._spare[name] = torch.full_like(held, fill)
        return spare

    def _running(self, parents: Int[Tensor, "B N"], tokens: Int[Tensor, "B N"]) -> tuple[Tensor, Tensor]:
        """Return parents and tokens of running hypotheses; the best one also fills beams that do not run."""
        runs = self.scores > FORBIDDEN
        if runs.device.type == "cpu" and bool(runs.all()):
            return parents, tokens
        any_runs = runs[:, :1]
        places = torch.arange(parents.shape[1], device=parents.device)
        parents, tokens = (torch.where(runs, held, held[:, :1]) for held in (parents, tokens))
        return torch.where(any_runs, parents, places), torch.where(any_runs, tokens, self.rules.pad)

    def finished_now(self) -> tuple[Int[Tensor, "B N t"], Bool[Tensor, "B N"]]:
        """Return the finished hypotheses up to this step's tokens, and which of them this step finished."""
        return self.finished[:, :, : self.length], self.is_finished & (self.finished_lengths == self.length)

    def candidate_rows(self, values: Tensor, parents: Tensor, tokens: Tensor) -> Int[Tensor, "C2 t"]:
        """Return the ids of every candidate for stopping criteria; the best one replaces forbidden ones."""
        possible, first = values > FORBIDDEN, values.argmax(1, keepdim=True)
        any_possible = possible.gather(1, first)
        parents, tokens = (torch.where(possible, held, held.gather(1, first)) for held in (parents, tokens))
        parents, tokens = torch.where(any_possible, parents, 0), torch.where(any_possible, tokens, self.rules.pad)
        return torch.cat((gather_beams(self.running[:, :, : self.length], parents), tokens[..., None]), 2).flatten(0, 1)

    def _finish(self, values: Tensor, parents: Tensor, tokens: Tensor, ends: Tensor) -> None:
        """Merge ended candidates into the finished hypotheses; only the first num_beams candidates may end."""
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
        spare = self._spare_of("ids", self.running, self.rules.pad)
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
        """Update whether the best running hypothesis may still beat the worst finished one."""
        rules = self.rules
        furthest = rules.early_stopping == "never" and rules.length_penalty > 0.0
        best = self.scores.max(1, keepdim=True).values / self._divisor(rules.max_length if furthest else self.length)
        worst = torch.where(self.is_finished, self.finished_scores.min(1, keepdim=True).values, NEVER)
        self.improvable = self.improvable & (best > worst).any(1, keepdim=True)

    def _divisor(self, length: int) -> float:
        """Return the number that scores of hypotheses of a length are divided by."""
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
    """Return held[b, beams[b, i]] for every i."""
    return held.gather(1, beams[..., None].expand(*beams.shape, held.shape[2]))


def best_of(values: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """Return the score of every source's best candidate; NaN if its scores are NaN or infinite."""
    return drawable(values.amax(1))
