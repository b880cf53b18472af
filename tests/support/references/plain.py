"""What a model thinks of one hypothesis, by one full pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Score = Callable[[list[int]], list[float]]


@dataclass
class Reading:
    """A model that reads one source."""

    model: Any
    ids: Tensor
    mask: Tensor

    def __call__(self, hypothesis: list[int]) -> list[float]:
        """Log-probabilities of the word after the hypothesis."""
        return self.run([hypothesis]).logits[0, -1].log_softmax(-1).tolist()

    def states(self, hypotheses: list[list[int]]) -> Tensor:
        """The decoder's last hidden states of hypotheses of one length, [n, t, D]."""
        return self.run(hypotheses).decoder_hidden_states[-1]

    def total(self, start: list[int], hypothesis: list[int]) -> float:
        """Log-probability of the words behind the start."""
        log_probs = self.run([hypothesis]).logits[0].log_softmax(-1)
        return sum(float(log_probs[place - 1, hypothesis[place]]) for place in range(len(start), len(hypothesis)))

    @torch.no_grad()
    def run(self, hypotheses: list[list[int]]) -> Any:
        """One full pass over hypotheses of one length."""
        return self.model(self.ids, self.mask, torch.tensor(hypotheses), use_cache=False, output_hidden_states=True)


def readings(model: Any, ids: Tensor, mask: Tensor) -> list[Reading]:
    """One reading per source, its padding cut off."""
    return [
        Reading(model, row[real][None], real[real].long()[None]) for row, real in zip(ids, mask.bool(), strict=True)
    ]
