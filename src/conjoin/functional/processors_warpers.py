"""Processors that shape the distribution before a token is drawn. What is dropped gets -inf."""

import math
from collections.abc import Callable

from jaxtyping import Bool, Float

from conjoin.functional.ops import Array, Ops
from conjoin.generation import ProcessorSpec
from conjoin.generation import plan as p

Processor = Callable[[Array, Array, Array], Array]

_LOWEST = -3.4028234663852886e38
_MOST = 100
"""Tokens that top_h looks at, as in transformers."""


def warper(ops: Ops, spec: ProcessorSpec) -> Processor:
    """The processor of a plan's entry."""
    if isinstance(spec, p.Temperature):
        temperature = spec.temperature
        return lambda ids, length, scores: scores / temperature

    def process(ids: Array, length: Array, scores: Array) -> Array:
        return ops.where(_dropped(ops, spec, scores), -math.inf, scores)

    return process


def _dropped(ops: Ops, spec: ProcessorSpec, scores: Float[Array, "R V"]) -> Bool[Array, "R V"]:
    match spec:
        case p.TopK(k=k, keep=keep):
            return _below_best(ops, scores, max(k, keep))
        case p.TopP(p=mass, keep=keep):
            return _top_p(ops, scores, mass, keep)
        case p.MinP(p=share, keep=keep):
            probabilities = ops.softmax(scores)
            low = probabilities < share * ops.max(probabilities, -1, keepdims=True)
            return low & _below_best(ops, scores, keep)
        case p.TypicalP(p=mass, keep=keep):
            return _typical(ops, scores, mass, keep)
        case p.Epsilon(cutoff=cutoff, keep=keep):
            return (ops.softmax(scores) < cutoff) & _below_best(ops, scores, keep)
        case p.Eta(cutoff=cutoff, keep=keep):
            relative = math.sqrt(cutoff) * ops.exp(-_entropy(ops, scores))
            return (ops.softmax(scores) < ops.minimum(relative, cutoff)) & _below_best(ops, scores, keep)
        case p.TopH(share=share):
            return _top_h(ops, scores, share)
    raise AssertionError(spec)


def _below_best(ops: Ops, scores: Array, keep: int) -> Bool[Array, "R V"]:
    """True below the `keep` best scores."""
    best, _ = ops.top_k(scores, min(keep, ops.shape(scores)[1]))
    return scores < best[:, -1:]


def _scattered(ops: Ops, index: Array, chosen: Array, size: int) -> Bool[Array, "R V"]:
    """True at the words where a ranking says so."""
    zeros = ops.full((ops.shape(index)[0], size), 0.0, "float32")
    return ops.add_at(zeros, index, ops.cast(chosen, "float32")) > 0


def _top_p(ops: Ops, scores: Array, mass: float, keep: int) -> Bool[Array, "R V"]:
    words = ops.shape(scores)[1]
    low, index = ops.top_k(-scores, words)
    dropped = ops.cumsum(ops.softmax(-low), 1) <= 1.0 - mass
    return _scattered(ops, index, dropped & (ops.arange(words) < words - keep)[None], words)


def _typical(ops: Ops, scores: Array, mass: float, keep: int) -> Bool[Array, "R V"]:
    words = ops.shape(scores)[1]
    surprise = -ops.log_softmax(scores)
    possible = surprise <= -_LOWEST
    expected = ops.sum(ops.where(possible, surprise * ops.exp(-surprise), 0.0), -1, keepdims=True)
    distance = ops.where(possible, abs(surprise - expected), -_LOWEST)
    near, index = ops.top_k(-distance, words)
    reached = ops.cumsum(ops.softmax(ops.gather(scores, index, 1)), 1) < mass
    last = ops.minimum(ops.sum(ops.cast(reached, "int32"), 1, keepdims=True), words - 1)
    dropped = -near > -ops.gather(near, last, 1)
    return _scattered(ops, index, dropped & (ops.arange(words) >= keep)[None], words)


def _top_h(ops: Ops, scores: Array, share: float) -> Bool[Array, "R V"]:
    words = ops.shape(scores)[1]
    best, index = ops.top_k(scores, min(_MOST, words))
    logs = ops.log_softmax(best)
    terms = ops.where(logs >= _LOWEST, -ops.exp(logs) * logs, 0.0)
    spent = ops.cumsum(terms, 1)
    few = ops.arange(ops.shape(best)[1])[None]
    kept = ((spent <= _entropy(ops, best) * share) & (logs >= _LOWEST)) | (few == 0)
    return ~_scattered(ops, index, kept, words)


def _entropy(ops: Ops, scores: Array) -> Float[Array, "R 1"]:
    logs = ops.log_softmax(scores)
    terms = ops.where(logs >= _LOWEST, logs * ops.exp(logs), 0.0)
    return -ops.sum(terms, -1, keepdims=True)
