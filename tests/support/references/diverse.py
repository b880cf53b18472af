"""Diverse beam search, group by group (Vijayakumar et al. 2016, arXiv:1610.02424)."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from references.plain import Score

Hypothesis = tuple[float, list[int]]


@dataclass(kw_only=True)
class Group:
    """The beams of one group."""

    size: int
    longest: int
    eos: list[int]
    length_penalty: float
    early_stopping: bool | Literal["never"]
    start: list[int]
    running: list[Hypothesis] = field(default_factory=list)
    finished: list[Hypothesis] = field(default_factory=list)
    done: bool = False

    def step(self, score: Score, taken: Counter[int], penalty: float, known: list[list[int]]) -> list[int]:
        """Extend the beams by one word, keeping away from what was taken; returns the words of those that go on.

        Args:
            known: What earlier groups finished.
        """
        grown = [
            (total + log_prob - penalty * taken[word], [*ids, word])
            for total, ids in self.running or [(0.0, self.start)]
            for word, log_prob in enumerate(score(ids))
            if [*ids, word] not in known
        ]
        best = sorted(grown, reverse=True)[: max(2, 1 + len(self.eos)) * self.size]
        last = len(best[0][1]) >= self.longest
        fresh = [(self.worth(total, ids), ids) for total, ids in best[: self.size] if last or ids[-1] in self.eos]
        self.finished = sorted(self.finished + fresh, reverse=True)[: self.size]
        self.running = [(total, ids) for total, ids in best if ids[-1] not in self.eos][: self.size]
        self.done = last or self.is_done()
        return [ids[-1] for _, ids in self.running]

    def worth(self, total: float, ids: list[int]) -> float:
        """A finished hypothesis' score."""
        return total / (len(ids) - len(self.start)) ** self.length_penalty

    def is_done(self) -> bool:
        """Whether nothing that is still running can win."""
        if not self.running:
            return True
        if len(self.finished) < self.size:
            return False
        length = len(self.running[0][1]) - len(self.start)
        if self.early_stopping == "never" and self.length_penalty > 0:
            length = self.longest - len(self.start)
        best = max(total for total, _ in self.running) / length**self.length_penalty
        return self.early_stopping is True or best <= self.finished[-1][0]


def diverse_beams(
    score: Score,
    start: list[int],
    *,
    num_beams: int,
    num_beam_groups: int,
    diversity_penalty: float,
    max_new_tokens: int,
    eos: list[int],
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
) -> list[Hypothesis]:
    """All groups' finished hypotheses, best first."""
    groups = [
        Group(
            size=num_beams // num_beam_groups,
            longest=len(start) + max_new_tokens,
            eos=eos,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            start=start,
        )
        for _ in range(num_beam_groups)
    ]
    for _ in range(max_new_tokens):
        taken: Counter[int] = Counter()
        for number, group in enumerate(groups):
            known = [ids for earlier in groups[:number] for _, ids in earlier.finished]
            words = [] if group.done else group.step(score, taken, diversity_penalty, known)
            taken.update(words)
    return sorted((found for group in groups for found in group.finished), key=lambda found: -found[0])
