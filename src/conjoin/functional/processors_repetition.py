"""Processors that look at which tokens and runs of tokens the row or its source holds."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from conjoin.functional.ops import Array, Ops

Processor = Callable[[Array, Array, Array], Array]


def repetition_penalty(ops: Ops, penalty: float, first: Int[Array, "R 1"] | None) -> Processor:
    """Lower the scores of tokens that the row holds already (Keskar et al. 2019, arXiv:1909.05858).

    Args:
        first: Where the prompt's padding on the left ends.
    """

    def process(ids: Array, length: Array, scores: Array) -> Array:
        where = ops.arange(ops.shape(ids)[1])[None]
        counted = where < length
        counted = counted if first is None else counted & (where >= first)
        return _penalised(ops, scores, _held(ops, scores, ids, counted), penalty)

    return process


def source_penalty(ops: Ops, penalty: float, source: Int[Array, "R S"], mask: Bool[Array, "R S"] | None) -> Processor:
    """Raise the scores of tokens that the source holds."""

    def process(ids: Array, length: Array, scores: Array) -> Array:
        counted = _inside(ops, source, mask, ops.shape(scores)[1])
        return _penalised(ops, scores, _held(ops, scores, source, counted), 1.0 / penalty)

    return process


def no_repeat_ngram(ops: Ops, size: int) -> Processor:
    """Let no run of `size` tokens occur twice in a row."""

    def process(ids: Array, length: Array, scores: Array) -> Array:
        written = ops.arange(ops.shape(ids)[1])[None] < length
        return _forbid_followers(ops, scores, ids, written, ids, length, size)

    return process


def no_source_ngram(ops: Ops, size: int, source: Int[Array, "R S"], mask: Bool[Array, "R S"] | None) -> Processor:
    """Let no run of `size` tokens of the source occur in the row."""

    def process(ids: Array, length: Array, scores: Array) -> Array:
        counted = _inside(ops, source, mask, ops.shape(scores)[1])
        # What does not count breaks every run that it stands in: -1 equals no token.
        held = ops.where(counted, source, -1)
        return _forbid_followers(ops, scores, held, counted, ids, length, size)

    return process


def sequence_bias(ops: Ops, biases: Sequence[tuple[tuple[int, ...], float]]) -> Processor:
    """Add a bias to the token that would complete a run of tokens."""
    single = [(run[0], bias) for run, bias in biases if len(run) == 1]
    runs = [(run, bias) for run, bias in biases if len(run) > 1]
    by_length = {length: [pair for pair in runs if len(pair[0]) == length] for length in {len(run) for run, _ in runs}}

    def process(ids: Array, length: Array, scores: Array) -> Array:
        alone = np.zeros(ops.shape(scores)[1], np.float32)
        for token, bias in single:
            alone[token] = bias
        added = ops.broadcast(ops.constant(alone)[None], ops.shape(scores))
        for size, group in sorted(by_length.items()):
            if size - 1 <= ops.shape(ids)[1]:
                added = _add_runs(ops, added, ids, length, size, group)
        return scores + added

    return process


def _add_runs(
    ops: Ops, added: Array, ids: Array, length: Array, size: int, group: list[tuple[tuple[int, ...], float]]
) -> Array:
    """Biases of the runs of one length that the rows are about to complete, added."""
    rows = ops.shape(ids)[0]
    prefixes = ops.constant([run[:-1] for run, _ in group], "int32")
    ends = ops.broadcast(ops.constant([run[-1] for run, _ in group], "int32")[None], (rows, len(group)))
    last = ops.slice_at(ids, length - (size - 1), size - 1, 1)
    begun = ops.all(last[:, None] == prefixes[None], -1) & (length >= size - 1)
    return ops.add_at(added, ends, ops.where(begun, ops.constant([bias for _, bias in group], "float32")[None], 0.0))


def _held(ops: Ops, scores: Array, ids: Array, counted: Array) -> Bool[Array, "R V"]:
    """Which words are among the ids that count."""
    words = ops.shape(scores)[1]
    ones = ops.where(counted, ops.full(ops.shape(ids), 1.0, "float32"), 0.0)
    inside = ops.minimum(ops.maximum(ids, 0), words - 1)
    return ops.add_at(ops.full(ops.shape(scores), 0.0, "float32"), inside, ones) > 0


def _penalised(ops: Ops, scores: Array, held: Bool[Array, "R V"], penalty: float) -> Float[Array, "R V"]:
    return ops.where(held, ops.where(scores < 0, scores * penalty, scores / penalty), scores)


def _inside(ops: Ops, ids: Array, mask: Array | None, vocab_size: int) -> Bool[Array, "R S"]:
    inside = (ids >= 0) & (ids < vocab_size)
    return inside if mask is None else inside & mask


def _forbid_followers(
    ops: Ops, scores: Array, held: Array, counted: Array, ids: Array, length: Array, size: int
) -> Float[Array, "R V"]:
    """-inf at every token that follows, somewhere in `held`, the last size - 1 tokens of the row."""
    windows = ops.shape(held)[1] - size + 1
    if windows < 1 or size - 1 > ops.shape(ids)[1]:
        return scores
    matches = counted[:, size - 1 :] & (length >= size - 1)
    if size > 1:
        last = ops.slice_at(ids, length - (size - 1), size - 1, 1)
        for offset in range(size - 1):
            matches = matches & (held[:, offset : offset + windows] == last[:, offset : offset + 1])
    banned = _held(ops, scores, held[:, size - 1 :], matches)
    return ops.where(banned, -float("inf"), scores)
