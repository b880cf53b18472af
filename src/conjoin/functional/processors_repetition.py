"""Processors that look at which tokens and runs of tokens the row or its source holds."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from conjoin.errors import GenerationError
from conjoin.functional.ops import Array, Ops, Processor


def repetition_penalty(ops: Ops, penalty: float, first: Int[Array, "R 1"] | None) -> Processor:
    """Lower the scores of tokens that the row holds already (Keskar et al. 2019, arXiv:1909.05858).

    Args:
        first: Where the prompt's padding on the left ends.
    """

    def process(ids: Array, length: Any, scores: Array) -> Array:
        counted = _written(ops, ids, length)
        if first is not None:
            real = ops.arange(ops.shape(ids)[1])[None] >= first
            counted = real if counted is None else counted & real
        return _penalised(ops, scores, ids, counted, penalty)

    return process


def encoder_repetition_penalty(
    ops: Ops, penalty: float, source: Int[Array, "R S"], mask: Bool[Array, "R S"] | None
) -> Processor:
    """Raise the scores of tokens that the source holds."""

    def process(ids: Array, length: Any, scores: Array) -> Array:
        counted = _inside(ops, source, mask, ops.shape(scores)[1])
        return _penalised(ops, scores, source, counted, 1.0 / penalty)

    return process


def no_repeat_ngram_size(ops: Ops, size: int) -> Processor:
    """Let no run of `size` tokens occur twice in a row."""

    def process(ids: Array, length: Any, scores: Array) -> Array:
        return _forbid_followers(ops, scores, ids, _written(ops, ids, length), ids, length, size)

    return process


def encoder_no_repeat_ngram_size(
    ops: Ops, size: int, source: Int[Array, "R S"], mask: Bool[Array, "R S"] | None
) -> Processor:
    """Let no run of `size` tokens of the source occur in the row."""

    def process(ids: Array, length: Any, scores: Array) -> Array:
        counted = _inside(ops, source, mask, ops.shape(scores)[1])
        # What does not count breaks every run that it stands in: -1 equals no token.
        held = ops.where(counted, source, -1)
        return _forbid_followers(ops, scores, held, counted, ids, length, size)

    return process


def bad_words_ids(ops: Ops, runs: Sequence[tuple[int, ...]]) -> Processor:
    """Forbid runs of tokens."""
    return sequence_bias(ops, [(run, -math.inf) for run in runs])


def sequence_bias(ops: Ops, biases: Sequence[tuple[tuple[int, ...], float]]) -> Processor:
    """Add a bias to the token that would complete a run of tokens."""

    @lru_cache(maxsize=4)
    def tables(vocab_size: int) -> _BiasTables:
        return _BiasTables.of(biases, vocab_size)

    def process(ids: Array, length: Any, scores: Array) -> Array:
        rows, vocab_size = ops.shape(scores)
        table = tables(vocab_size)
        if table.alone is not None:
            scores = scores + ops.constant(table.alone, scores.dtype)
        if not table.runs:
            return scores
        shape = (rows, table.ends.shape[1])
        added = ops.broadcast(ops.constant(table.alone_at_ends, scores.dtype), shape)
        for runs in table.runs:
            added = _add_runs(ops, added, ids, length, runs)
        return ops.add_at(scores, ops.broadcast(ops.constant(table.ends, "int32"), shape), added)

    return process


def check_biased_ids(biases: Sequence[tuple[tuple[int, ...], float]], vocab_size: int) -> None:
    """Check that the ids of biased runs are in the vocabulary.

    Raises:
        GenerationError: an id is outside the vocabulary.
    """
    if outside := sorted({i for run, _ in biases for i in run if i >= vocab_size}):
        raise GenerationError(f"Biased or forbidden ids {outside} are outside the vocabulary of {vocab_size}.")


class _Runs(NamedTuple):
    """Runs of one length: all of their tokens but the last, where that one stands in `ends`, and their biases."""

    prefixes: Int[np.ndarray, "1 n size-1"]
    places: Int[np.ndarray, "1 n"]
    biases: Float[np.ndarray, "1 n"]


class _BiasTables(NamedTuple):
    """Biases as arrays: of tokens alone, and of runs by their length. `ends` are the last tokens of runs.

    Biases of tokens alone that are also such ends stand apart, so that every score is added to once.
    """

    alone: Float[np.ndarray, "1 V"] | None
    ends: Int[np.ndarray, "1 E"]
    alone_at_ends: Float[np.ndarray, "1 E"]
    runs: list[_Runs]

    @classmethod
    def of(cls, biases: Sequence[tuple[tuple[int, ...], float]], vocab_size: int) -> "_BiasTables":
        """Build the tables.

        Raises:
            GenerationError: an id is outside the vocabulary.
        """
        check_biased_ids(biases, vocab_size)
        alone = np.zeros((1, vocab_size))
        by_length: dict[int, list[tuple[tuple[int, ...], float]]] = {}
        for run, bias in biases:
            if len(run) == 1:
                alone[0, run[0]] = bias
            else:
                by_length.setdefault(len(run), []).append((run, bias))
        ends = sorted({run[-1] for group in by_length.values() for run, _ in group})
        runs = [
            _Runs(
                np.array([[run[:-1] for run, _ in group]], np.int32),
                np.array([[ends.index(run[-1]) for run, _ in group]], np.int32),
                np.array([[bias for _, bias in group]]),
            )
            for _, group in sorted(by_length.items())
        ]
        alone_at_ends = alone[:, ends]
        alone[:, ends] = 0.0
        return cls(alone if alone.any() else None, np.array([ends], np.int32), alone_at_ends, runs)


def _add_runs(ops: Ops, added: Float[Array, "R E"], ids: Array, length: Any, runs: _Runs) -> Float[Array, "R E"]:
    """Add the biases of the runs of one length that the rows are about to complete."""
    known = runs.prefixes.shape[2]
    if known > ops.shape(ids)[1]:
        return added
    last = ops.slice_at(ids, length - known, known, 1)
    begun = ops.all(last[:, None] == ops.constant(runs.prefixes, "int32"), -1)
    if not isinstance(length, int):
        begun = begun & (length >= known)
    places = ops.broadcast(ops.constant(runs.places, "int32"), ops.shape(begun))
    return ops.add_at(added, places, ops.where(begun, ops.constant(runs.biases, added.dtype), 0.0))


def _written(ops: Ops, ids: Int[Array, "R L"], length: Any) -> Bool[Array, "R L"] | None:
    """True where a token is written; None where all are."""
    if isinstance(length, int) and length == ops.shape(ids)[1]:
        return None
    return (ops.arange(ops.shape(ids)[1])[None] < length) & (ids >= 0)  # rows that fill a batch hold -1


def _inside(ops: Ops, ids: Array, mask: Array | None, vocab_size: int) -> Bool[Array, "R S"]:
    inside = (ids >= 0) & (ids < vocab_size)
    return inside if mask is None else inside & ops.cast(mask, "bool")


def _penalised(
    ops: Ops, scores: Float[Array, "R V"], ids: Int[Array, "R n"], counted: Bool[Array, "R n"] | None, penalty: Any
) -> Float[Array, "R V"]:
    """Divide the positive scores of the ids that count by the penalty, and multiply the negative ones."""
    if counted is not None:
        # A counted token of the same row stands in for each that does not count: written twice, it gets the same score
        # twice, so no mask of the vocabulary is needed. A row without any gets the penalty 1, which changes nothing.
        some = ops.any(counted, 1, keepdims=True)
        place = ops.argmax(ops.cast(counted, "int32"))[:, None]
        ids = ops.where(counted, ids, ops.where(some, ops.gather(ids, place, 1), 0))
        penalty = ops.where(some, penalty, 1.0)
    own = ops.gather(scores, ids, 1)
    return ops.put_at(scores, ids, ops.cast(ops.where(own < 0, own * penalty, own / penalty), scores.dtype))


def _forbid_followers(
    ops: Ops,
    scores: Float[Array, "R V"],
    held: Int[Array, "R n"],
    counted: Bool[Array, "R n"] | None,
    ids: Int[Array, "R L"],
    length: Any,
    size: int,
) -> Float[Array, "R V"]:
    """-inf at every token that follows, somewhere in `held`, the last size - 1 tokens of the row."""
    windows, known = ops.shape(held)[1] - size + 1, size - 1
    if windows < 1 or known > ops.shape(ids)[1]:
        return scores
    followers = held[:, known:]
    matches = ops.full(ops.shape(followers), True, "bool") if counted is None else counted[:, known:]
    last = ops.slice_at(ids, length - known, known, 1) if known else ids
    for offset in range(known):
        matches = matches & (held[:, offset : offset + windows] == last[:, offset : offset + 1])
    if not isinstance(length, int):
        matches = matches & (length >= known)
    # The minimum leaves a score alone where +inf meets it, so that one token may be both matched and not.
    limits = ops.cast(ops.where(matches, -math.inf, math.inf), scores.dtype)
    return ops.min_at(scores, followers if counted is None else ops.maximum(followers, 0), limits)
