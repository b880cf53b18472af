"""Evaluations, framework-free: which batches, and what is made of the ids that a model writes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conjoin.training.data.batching import Batch, Batching, ByRows, ByTokens
from conjoin.training.data.examples import IGNORED, Examples, Rows
from conjoin.training.settings.arguments import TrainingArguments


@dataclass(frozen=True, slots=True)
class EvalPrediction:
    """What `compute_metrics` gets (transformers' class of the same name).

    Args:
        predictions: [n, T] ids, filled up with the pad id.
        label_ids: [n, T] labels, filled up with -100.
    """

    predictions: np.ndarray
    label_ids: np.ndarray


def evaluation_batches(examples: Examples, arguments: TrainingArguments) -> list[Batch]:
    """Batches of examples, the longest first, so that memory runs out at once or never."""
    lengths, budget = examples.lengths, arguments.tokens_per_batch
    order = np.lexsort((-lengths[:, 1], -lengths[:, 0])).tolist()
    batching: Batching = ByRows(arguments.per_device_eval_batch_size) if budget is None else ByTokens(budget)
    return batching.cut(lengths, order)


def generated(rows: Sequence[Sequence[int]], pad: int | None) -> list[list[int]]:
    """What was written: without the start id and the padding behind the end."""
    return [_without_padding(list(row[1:]), pad) for row in rows]


def _without_padding(ids: list[int], pad: int | None) -> list[int]:
    end = len(ids)
    while end > 1 and ids[end - 1] == pad and ids[end - 2] == pad:
        end -= 1
    return ids[: end - 1] if end and ids[end - 1] == pad else ids[:end]


def filled(rows: list[list[int]] | Rows, pad: int = IGNORED) -> np.ndarray:
    """Rows of ids as one array."""
    kept = [list(rows[index]) for index in range(len(rows))]
    width = max((len(row) for row in kept), default=0)
    return np.array([row + [pad] * (width - len(row)) for row in kept], np.int64).reshape(len(kept), width)
