"""Candidates of pairs, ordered by how good they are: what a model learns to rank."""

import hashlib
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.errors import ConfigError
from conjoin.evaluation.utilities import Utility, utility_matrix
from conjoin.texts.predictions import CandidatePairs
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.data.batching import Batch
from conjoin.training.data.examples import Examples, Rows
from conjoin.training.terminal import track

CHUNK = 1000
"""Pairs whose candidates are tokenized in one call."""


@dataclass(frozen=True)
class RankedExamples(Examples):
    """Pairs with candidates.

    Args:
        candidates: Labels of all candidates: those of the first pair, best first, then those of the next.
        edges: Index in `candidates` at which those of each pair start, then their number: [n + 1].
        utilities: Of every candidate, in percent; those of a pair are in descending order.
    """

    candidates: Rows = field(default_factory=lambda: Rows.of([]))
    edges: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    utilities: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def candidates_of(self, batch: Batch) -> tuple[list[NDArray[np.int32]], list[int], list[float]]:
        """Return the labels of all candidates of a batch, the row of each in it, and its utility."""
        labels: list[NDArray[np.int32]] = []
        rows: list[int] = []
        utilities: list[float] = []
        for row, (index,) in enumerate(batch):
            for place in range(int(self.edges[index]), int(self.edges[index + 1])):
                labels.append(self.candidates[place])
                rows.append(row)
                utilities.append(float(self.utilities[place]))
        return labels, rows, utilities


def with_candidates(
    examples: Examples,
    pairs: CandidatePairs,
    tokenizer: Tokenizer | TokenizerPair | None,
    utility: Utility,
    limit: int | None,
    *,
    shown: bool,
) -> RankedExamples:
    """Tokenize the candidates of pairs, and order those of each by how good they are where its target is the reference.

    Equal texts, and texts whose ids are equal once they are truncated, are one candidate.

    Args:
        limit: Longest candidate, special tokens included.

    Raises:
        ConfigError: there is no tokenizer.
        MissingBackend: what computes the utility is not installed.
    """
    if tokenizer is None:
        raise ConfigError(f"{pairs.name} holds texts, and there is no tokenizer.")
    encode: Any = partial(tokenizer, truncation=limit is not None, max_length=limit, verbose=False)
    ids: list[list[int]] = []
    utilities: list[float] = []
    counts: list[int] = []
    for start in track(range(0, len(pairs), CHUNK), description="ranking candidates", shown=shown):
        chunk = range(start, min(start + CHUNK, len(pairs)))
        ranked = [_ranked(pairs.candidates[index], pairs.targets[index], utility) for index in chunk]
        encoded = iter(encode(text_target=[text for each in ranked for text, _ in each])["input_ids"])
        for each in ranked:
            own: dict[tuple[int, ...], float] = {}
            for _, value in each:
                own.setdefault(tuple(next(encoded)), value)
            ids += map(list, own)
            utilities += own.values()
            counts.append(len(own))
    edges = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    candidates = Rows.of(ids)
    sizes = np.diff(candidates.starts[edges])  # of all candidates of a pair, which one step reads
    given = {each.name: getattr(examples, each.name) for each in fields(examples)}
    given["measured"] = examples.lengths + np.stack((np.zeros_like(sizes), sizes), 1).astype(examples.lengths.dtype)
    given["digest"] = _digest(examples, candidates, edges)
    return RankedExamples(**given, candidates=candidates, edges=edges, utilities=np.array(utilities, float))


def _digest(examples: Examples, candidates: Rows, edges: NDArray[np.int64]) -> str:
    """Return a hash of pairs and candidates, which a resumed run compares."""
    digest = hashlib.sha256(examples.fingerprint().encode())
    for array in (candidates.ids, candidates.starts, edges):
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _ranked(candidates: list[str], target: str, utility: Utility) -> list[tuple[str, float]]:
    """Return different candidates with their utilities, best first."""
    texts = list(dict.fromkeys(candidates))
    values = utility_matrix([*texts, target], utility)[:-1, -1]
    return sorted(zip(texts, map(float, values), strict=True), key=lambda pair: -pair[1])
