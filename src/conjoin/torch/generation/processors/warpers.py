"""Processors that shape the distribution before a token is drawn."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.torch.generation.processors.calling import RowwiseProcessor

_FEW = 8
"""Where at most one token in so many is left, the others are not sorted (CPU)."""


class TemperatureLogitsWarper(RowwiseProcessor):
    """Divide scores: below 1 sharpens, above 1 flattens."""

    def __init__(self, temperature: float) -> None:
        if not temperature > 0:
            raise GenerationError(f"temperature = {temperature!r}: expected a number above 0; 0 is do_sample=False.")
        self.temperature = float(temperature)

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        return scores / self.temperature


class _Filter(RowwiseProcessor):
    """Drops tokens by giving them `filter_value`."""

    def __init__(self, filter_value: float, min_tokens_to_keep: int) -> None:
        if min_tokens_to_keep < 1:
            raise GenerationError(f"min_tokens_to_keep = {min_tokens_to_keep!r}: expected at least 1.")
        self.filter_value = filter_value
        self.keep = min_tokens_to_keep

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        return scores.masked_fill(self.dropped(scores), self.filter_value)

    def dropped(self, scores: Float[Tensor, "R V"]) -> Bool[Tensor, "R V"]:
        """True at the tokens to drop."""
        raise NotImplementedError

    def _below_best(self, scores: Float[Tensor, "R V"]) -> Bool[Tensor, "R V"]:
        """True below the `keep` best scores."""
        return scores < scores.topk(min(self.keep, scores.shape[1])).values[:, -1:]


class TopKLogitsWarper(_Filter):
    """Keep the k likeliest tokens, and those that tie with the last of them."""

    def __init__(self, top_k: int, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        if top_k < 1:
            raise GenerationError(f"top_k = {top_k!r}: expected at least 1.")
        super().__init__(filter_value, max(top_k, min_tokens_to_keep))

    def dropped(self, scores: Float[Tensor, "R V"]) -> Bool[Tensor, "R V"]:
        return self._below_best(scores)


class TopPLogitsWarper(_Filter):
    """Keep the likeliest tokens that together reach p (Holtzman et al. 2019, arXiv:1904.09751)."""

    def __init__(self, top_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        if not 0 <= top_p <= 1:
            raise GenerationError(f"top_p = {top_p!r}: expected a number in [0, 1].")
        super().__init__(filter_value, min_tokens_to_keep)
        self.top_p = float(top_p)

    def dropped(self, scores: Float[Tensor, "R V"]) -> Bool[Tensor, "R V"]:
        values, index = _ascending(scores)
        dropped = values.softmax(-1).cumsum(-1) <= 1 - self.top_p
        dropped[:, -self.keep :] = False
        return torch.ones_like(scores, dtype=torch.bool).scatter_(1, index, dropped)


class MinPLogitsWarper(_Filter):
    """Keep tokens of at least p times the best one's probability (Nguyen et al. 2024, arXiv:2407.01082)."""

    def __init__(self, min_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        if not 0 <= min_p <= 1:
            raise GenerationError(f"min_p = {min_p!r}: expected a number in [0, 1].")
        super().__init__(filter_value, min_tokens_to_keep)
        self.min_p = min_p

    def dropped(self, scores: Float[Tensor, "R V"]) -> Bool[Tensor, "R V"]:
        probabilities = scores.softmax(-1)
        dropped = probabilities < self.min_p * probabilities.amax(-1, keepdim=True)
        best = probabilities.topk(min(self.keep, scores.shape[1])).indices
        return dropped.scatter_(1, best, False)


class TypicalLogitsWarper(_Filter):
    """Keep the tokens nearest to the expected surprise that together reach `mass` (arXiv:2202.00666)."""

    def __init__(self, mass: float = 0.9, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        if not 0 < mass < 1:
            raise GenerationError(f"typical_p = {mass!r}: expected a number in (0, 1).")
        super().__init__(filter_value, min_tokens_to_keep)
        self.mass = float(mass)

    def dropped(self, scores: Float[Tensor, "R V"]) -> Bool[Tensor, "R V"]:
        surprise = -scores.log_softmax(-1)
        expected = (surprise * (-surprise).exp()).nansum(-1, keepdim=True)
        distance, index = (surprise - expected).abs().sort()
        reached = scores.gather(1, index).softmax(-1).cumsum(-1) < self.mass
        last = reached.sum(1, keepdim=True).clamp_(max=scores.shape[1] - 1)
        dropped = distance > distance.gather(1, last)
        dropped[:, : self.keep] = False
        return torch.empty_like(dropped).scatter_(1, index, dropped)


class EpsilonLogitsWarper(_Filter):
    """Keep tokens above a probability (Hewitt et al. 2022, arXiv:2210.15191)."""

    def __init__(self, epsilon: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.epsilon = _cutoff("epsilon_cutoff", epsilon)

    def dropped(self, scores: Float[Tensor, "R V"]) -> Bool[Tensor, "R V"]:
        return (scores.softmax(-1) < self.epsilon) & self._below_best(scores)


class EtaLogitsWarper(_Filter):
    """Keep tokens above a probability that falls as entropy grows (Hewitt et al. 2022, arXiv:2210.15191)."""

    def __init__(
        self,
        epsilon: float,
        filter_value: float = -math.inf,
        min_tokens_to_keep: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.epsilon = _cutoff("eta_cutoff", epsilon)

    def dropped(self, scores: Float[Tensor, "R V"]) -> Bool[Tensor, "R V"]:
        relative = math.sqrt(self.epsilon) * (-_entropy(scores)).exp()
        return (scores.softmax(-1) < relative.clamp(max=self.epsilon)) & self._below_best(scores)


class TopHLogitsWarper(_Filter):
    """Keep the likeliest tokens within a share of the entropy (Potraghloo et al. 2025, arXiv:2509.02510).

    Only the 100 likeliest are looked at, as in transformers.
    """

    most = 100

    def __init__(self, top_h: float, filter_value: float = -math.inf) -> None:
        if not 0 < top_h <= 1:
            raise GenerationError(f"top_h = {top_h!r}: expected a number in (0, 1].")
        super().__init__(filter_value, 1)
        self.top_h = top_h

    def dropped(self, scores: Float[Tensor, "R V"]) -> Bool[Tensor, "R V"]:
        best, index = scores.topk(min(self.most, scores.shape[1]))
        probabilities = _normalised(best).softmax(-1)
        spent = (-probabilities * probabilities.log()).cumsum(-1)
        dropped = ~(spent <= _entropy(best) * self.top_h)  # nan, behind the last possible token, is dropped too
        dropped[:, 0] = False
        return torch.ones_like(scores, dtype=torch.bool).scatter_(1, index, dropped)


def _ascending(scores: Float[Tensor, "R V"]) -> tuple[Float[Tensor, "R n"], Int[Tensor, "R n"]]:
    """Scores and tokens, least first; after a top-k filter on a CPU only those that are left.

    What was dropped has probability 0, so leaving it out changes no sum. On a GPU asking how many are left would
    cost more than sorting.
    """
    if scores.device.type == "cpu":
        left = int((scores > -torch.inf).sum(1).max())
        if 0 < left <= scores.shape[1] // _FEW:
            values, index = scores.topk(left)
            return values.flip(1), index.flip(1)
    return scores.sort()


def _normalised(scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
    """log_softmax, rounded as torch.distributions.Categorical rounds it, whose entropy transformers compares with."""
    return scores - scores.logsumexp(-1, keepdim=True)


def _entropy(scores: Float[Tensor, "R V"]) -> Float[Tensor, "R 1"]:
    logs = _normalised(scores)
    return -(logs.clamp(min=torch.finfo(logs.dtype).min) * logs.softmax(-1)).sum(-1, keepdim=True)


def _cutoff(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise GenerationError(f"{name} = {value!r}: expected a number in (0, 1).")
    return float(value)
