"""Processors that shape the distribution before a token is drawn.

What is dropped gets the score `fill`. `keep` tokens at least are kept.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from conjoin.functional.ops import Array, Ops, Processor

_FIRST = np.array([0], np.int32)
_TOP_H_TOKENS = 100
"""The likeliest tokens, which alone top_h looks at, as in transformers."""


def temperature(ops: Ops, temperature: float) -> Processor:
    """Divide scores: below 1 sharpens, above 1 flattens."""
    return lambda ids, length, scores: scores / temperature


def top_k(ops: Ops, k: int, keep: int = 1, fill: float = -math.inf) -> Processor:
    """Keep the k likeliest tokens, and those that tie with the last of them."""
    return _filter(ops, fill, lambda scores: _below_best(ops, scores, max(k, keep)))


def top_p(ops: Ops, p: float, keep: int = 1, fill: float = -math.inf) -> Processor:
    """Keep the likeliest tokens that together reach p (Holtzman et al. 2019, arXiv:1904.09751)."""

    def dropped(scores: Array) -> Array:
        values, index = ops.sort(scores, only_possible=True)
        count = ops.shape(values)[1]
        low = (ops.cumsum(ops.softmax(values), 1) <= 1.0 - p) & (ops.arange(count) < count - keep)[None]
        return ops.put_at(ops.full(ops.shape(scores), True, "bool"), index, low)

    return _filter(ops, fill, dropped)


def min_p(ops: Ops, p: float, keep: int = 1, fill: float = -math.inf) -> Processor:
    """Keep tokens of at least p times the best one's probability (Nguyen et al. 2024, arXiv:2407.01082)."""

    def dropped(scores: Array) -> Array:
        probabilities = ops.softmax(scores)
        low = probabilities < p * ops.max(probabilities, -1, keepdims=True)
        _, best = ops.top_k(probabilities, min(keep, ops.shape(scores)[1]))
        return ops.put_at(low, best, False)

    return _filter(ops, fill, dropped)


def typical_p(ops: Ops, mass: float, keep: int = 1, fill: float = -math.inf) -> Processor:
    """Keep the tokens nearest to the expected surprise that together reach `mass` (arXiv:2202.00666)."""

    def dropped(scores: Array) -> Array:
        vocab_size = ops.shape(scores)[1]
        surprise = -ops.log_softmax(scores)
        terms = ops.where(surprise < math.inf, surprise * ops.exp(-surprise), 0.0)
        distance, index = ops.sort(abs(surprise - ops.sum(terms, -1, keepdims=True)))
        reached = ops.cumsum(ops.softmax(ops.gather(scores, index, 1)), 1) < mass
        last = ops.minimum(ops.sum(ops.cast(reached, "int32"), 1, keepdims=True), vocab_size - 1)
        far = (distance > ops.gather(distance, last, 1)) & (ops.arange(vocab_size) >= keep)[None]
        return ops.put_at(far, index, far)

    return _filter(ops, fill, dropped)


def epsilon_cutoff(ops: Ops, cutoff: float, keep: int = 1, fill: float = -math.inf) -> Processor:
    """Keep tokens above a probability (Hewitt et al. 2022, arXiv:2210.15191)."""
    return _filter(ops, fill, lambda scores: (ops.softmax(scores) < cutoff) & _below_best(ops, scores, keep))


def eta_cutoff(ops: Ops, cutoff: float, keep: int = 1, fill: float = -math.inf) -> Processor:
    """Keep tokens above a probability that falls as entropy grows (Hewitt et al. 2022, arXiv:2210.15191)."""

    def dropped(scores: Array) -> Array:
        relative = math.sqrt(cutoff) * ops.exp(-_entropy(ops, scores))
        return (ops.softmax(scores) < ops.minimum(relative, cutoff)) & _below_best(ops, scores, keep)

    return _filter(ops, fill, dropped)


def top_h(ops: Ops, share: float, fill: float = -math.inf) -> Processor:
    """Keep the likeliest tokens within a share of the entropy (Potraghloo et al. 2025, arXiv:2509.02510)."""

    def dropped(scores: Array) -> Array:
        best, index = ops.top_k(scores, min(_TOP_H_TOKENS, ops.shape(scores)[1]))
        probabilities = ops.softmax(_normalised(ops, best))
        possible = probabilities > 0
        spent = ops.cumsum(ops.where(possible, -probabilities * ops.log(probabilities), 0.0), 1)
        kept = ops.fill_columns(possible & (spent <= _entropy(ops, best) * share), _FIRST, True)
        return ops.put_at(ops.full(ops.shape(scores), True, "bool"), index, ~kept)

    return _filter(ops, fill, dropped)


def _filter(ops: Ops, fill: float, dropped: Callable[[Float[Array, "R V"]], Bool[Array, "R V"]]) -> Processor:
    return lambda ids, length, scores: ops.where(dropped(scores), fill, scores)


def _below_best(ops: Ops, scores: Float[Array, "R V"], keep: int) -> Bool[Array, "R V"]:
    """True below the `keep` best scores."""
    best, _ = ops.top_k(scores, min(keep, ops.shape(scores)[1]))
    return scores < best[:, -1:]


def _normalised(ops: Ops, scores: Float[Array, "R V"]) -> Float[Array, "R V"]:
    """log_softmax, rounded as torch.distributions.Categorical rounds it, whose entropy transformers compares with."""
    return scores - ops.logsumexp(scores)


def _entropy(ops: Ops, scores: Float[Array, "R V"]) -> Float[Array, "R 1"]:
    logs = _normalised(ops, scores)
    return -ops.sum(ops.nan_to_num(logs) * ops.softmax(logs), -1, keepdims=True)
