"""Utilities: how good one of a few texts is where another one of them is the reference, for all pairs at once.

n-grams of each text are counted once, so that hundreds of pairs take milliseconds. Utilities are in percent, and those
of the libraries that metrics use (tests compare them): sentence-level chrF and BLEU of sacrebleu, ROUGE of rouge-score.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from conjoin.errors import ConfigError, MissingBackend

Utility = Literal["chrf", "bleu", "rouge", "rouge1", "rouge2", "rougeL"]
"""rouge is the mean of ROUGE-1, 2 and L, as in BRIO."""
UTILITIES: tuple[Utility, ...] = get_args(Utility)
Matrix = Float[np.ndarray, "n n"]
_COLUMNS = 4096
"""n-grams that are compared in one product of matrices, to bound memory."""


def utility_matrix(texts: Sequence[str], utility: Utility) -> Float[np.ndarray, "n n"]:
    """Return the utility of every text (row) where each text (column) is the reference, in percent.

    Example:
        utility_matrix(["a cat sat", "a cat ran"], "rouge1")  # [[100., 66.67], [66.67, 100.]]

    Raises:
        ConfigError: there is no such utility.
        MissingBackend: sacrebleu (for BLEU) or rouge-score (for ROUGE) is not installed.
    """
    if utility not in UTILITIES:
        raise ConfigError(f"No utility is called {utility!r}.\nExpected one of: {', '.join(UTILITIES)}.")
    return _COMPUTE[utility](texts)


@dataclass(frozen=True, slots=True)
class _Overlap:
    """n-grams of one order.

    Args:
        counts: Number of n-grams of every text.
        matches: Number of n-grams that each two texts share; one that both have twice counts twice.
    """

    counts: Float[np.ndarray, " n"]
    matches: Matrix


def _overlaps(sequences: Sequence[Sequence[Hashable]], most: int) -> list[_Overlap]:
    """Return the overlaps of sequences in n-grams of order 1 to `most`."""
    sizes = [len(sequence) for sequence in sequences]
    owners = np.repeat(np.arange(len(sequences)), sizes)
    numbers: dict[Hashable, int] = {}
    symbols = np.array([numbers.setdefault(each, len(numbers)) for seq in sequences for each in seq], np.int64)
    starts, grams = np.arange(len(symbols)), symbols
    overlaps = [_overlap(owners, grams, len(sequences))]
    for order in range(1, most):
        keep = starts + order < len(symbols)
        keep[keep] = owners[starts[keep] + order] == owners[starts[keep]]
        starts = starts[keep]
        longer = grams[keep] * (len(numbers) + 1) + symbols[starts + order]
        grams = np.unique(longer, return_inverse=True)[1].reshape(-1)
        overlaps.append(_overlap(owners[starts], grams, len(sequences)))
    return overlaps


def _overlap(owners: Int[np.ndarray, " g"], grams: Int[np.ndarray, " g"], num_texts: int) -> _Overlap:
    """Count shared n-grams: the k-th occurrence of one in a text matches the k-th in another."""
    counts = np.bincount(owners, minlength=num_texts).astype(float)
    order = np.lexsort((grams, owners))
    owners, grams = owners[order], grams[order]
    begins = np.ones(len(grams), bool)
    begins[1:] = (grams[1:] != grams[:-1]) | (owners[1:] != owners[:-1])
    places = np.arange(len(grams))
    occurrence = places - np.maximum.accumulate(np.where(begins, places, 0))
    key = grams * (int(occurrence.max(initial=0)) + 1) + occurrence
    _, columns, texts_with = np.unique(key, return_inverse=True, return_counts=True)
    columns = columns.reshape(-1)
    shared = texts_with > 1  # n-grams of one text alone match nothing
    renumbered = np.cumsum(shared) - 1
    keep = shared[columns] if len(columns) else np.zeros(0, bool)
    owners, columns = owners[keep], renumbered[columns[keep]]
    matches = np.zeros((num_texts, num_texts))
    for start in range(0, int(shared.sum()), _COLUMNS):
        inside = (columns >= start) & (columns < start + _COLUMNS)
        block = np.zeros((num_texts, _COLUMNS), np.float32)
        block[owners[inside], columns[inside] - start] = 1
        matches += block @ block.T
    np.fill_diagonal(matches, counts)
    return _Overlap(counts, matches)


def _chrf(texts: Sequence[str]) -> Matrix:
    """chrF (Popović 2015): letters in n-grams of 1 to 6, without white space, recall twice as important."""
    factor = 4.0
    precision, recall, orders = (np.zeros((len(texts), len(texts))) for _ in range(3))
    for overlap in _overlaps(["".join(text.split()) for text in texts], 6):
        hypothesis, reference = overlap.counts[:, None], overlap.counts[None, :]
        counted = (hypothesis > 0) & (reference > 0)
        precision += np.where(counted, overlap.matches / np.maximum(hypothesis, 1), 0)
        recall += np.where(counted, overlap.matches / np.maximum(reference, 1), 0)
        orders += counted
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    return 100 * _ratio((1 + factor) * precision * recall, factor * precision + recall)


def _bleu(texts: Sequence[str]) -> Matrix:
    """BLEU of a sentence: exponential smoothing (method 3 of Chen & Cherry 2014), up to the longest n-gram there is."""
    try:
        from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    except ImportError:
        raise MissingBackend("bleu needs sacrebleu: pip install 'conjoin[train]'") from None
    tokenize: Callable[[str], str] = Tokenizer13a()
    overlaps = _overlaps([tokenize(text.rstrip()).split() for text in texts], 4)
    shape = (len(texts), len(texts))
    logs, orders, smoothing, any_match = np.zeros(shape), np.zeros(shape), np.ones(shape), np.zeros(shape, bool)
    for overlap in overlaps:
        total, match = np.broadcast_to(overlap.counts[:, None], shape), overlap.matches
        exists, missed = total > 0, (total > 0) & (match == 0)
        smoothing = np.where(missed, smoothing * 2, smoothing)
        shares = np.where(missed, 1 / smoothing, match) / np.maximum(total, 1)
        logs += np.log(shares, where=exists, out=np.zeros(shape))
        orders += exists
        any_match |= match > 0
    lengths = overlaps[0].counts
    longer = lengths[None, :] / np.maximum(lengths[:, None], 1)
    brevity = np.minimum(1 - longer, 0)
    return np.where(any_match, 100 * np.exp(brevity + logs / np.maximum(orders, 1)), 0)


def _rouge(names: Sequence[str], texts: Sequence[str]) -> Matrix:
    """Return the mean F-measure of several kinds of ROUGE, with Porter's stemmer as in the metrics."""
    try:
        from rouge_score.tokenizers import DefaultTokenizer
    except ImportError:
        raise MissingBackend("ROUGE needs rouge-score: pip install 'conjoin[train]'") from None
    tokenizer: Any = DefaultTokenizer(use_stemmer=True)
    tokens: list[list[str]] = [tokenizer.tokenize(text) for text in texts]
    overlaps = _overlaps(tokens, 2)
    kinds = {
        "rouge1": lambda: overlaps[0],
        "rouge2": lambda: overlaps[1],
        "rougeL": lambda: _Overlap(overlaps[0].counts, _common_subsequences(tokens)),
    }
    scores = [_f_measure(kinds[name]()) for name in names]
    return 100 * sum(scores, np.zeros((len(texts), len(texts)))) / len(scores)


def _f_measure(overlap: _Overlap) -> Matrix:
    precision = overlap.matches / np.maximum(overlap.counts, 1)[:, None]
    recall = overlap.matches / np.maximum(overlap.counts, 1)[None, :]
    return _ratio(2 * precision * recall, precision + recall)


def _ratio(above: Matrix, below: Matrix) -> Matrix:
    return np.divide(above, below, where=below > 0, out=np.zeros_like(above))


def _common_subsequences(sequences: Sequence[Sequence[str]]) -> Matrix:
    """Return the length of the longest common subsequence of each two sequences.

    One bit for each token of the first sequence, and a few operations on all of them for each token of the second
    (Hyyrö 2004, "Bit-parallel LCS-length computation revisited").
    """
    lengths = np.zeros((len(sequences), len(sequences)))
    for row, sequence in enumerate(sequences):
        places: dict[str, int] = {}
        for place, token in enumerate(sequence):
            places[token] = places.get(token, 0) | 1 << place
        every = (1 << len(sequence)) - 1
        for column in range(row, len(sequences)):
            unmatched = every
            for token in sequences[column]:
                common = unmatched & places.get(token, 0)
                unmatched = (unmatched + common | unmatched - common) & every
            lengths[row, column] = lengths[column, row] = len(sequence) - unmatched.bit_count()
    return lengths


_COMPUTE: Mapping[Utility, Callable[[Sequence[str]], Matrix]] = {
    "chrf": _chrf,
    "bleu": _bleu,
    "rouge": lambda texts: _rouge(("rouge1", "rouge2", "rougeL"), texts),
    "rouge1": lambda texts: _rouge(("rouge1",), texts),
    "rouge2": lambda texts: _rouge(("rouge2",), texts),
    "rougeL": lambda texts: _rouge(("rougeL",), texts),
}
