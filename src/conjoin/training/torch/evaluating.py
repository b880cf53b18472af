"""Loss and predictions over examples, shared among the processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from conjoin.training.arrays import IGNORED
from conjoin.training.batching import Batch, Batching, ByRows, ByTokens
from conjoin.training.examples import Examples, Rows
from conjoin.training.torch.collate import Collator, to_device
from conjoin.training.torch.engine import Engine


@dataclass(frozen=True, slots=True)
class EvalPrediction:
    """What `compute_metrics` gets (transformers' class of the same name).

    Args:
        predictions: [n, T] ids, filled up with the pad id.
        label_ids: [n, T] labels, filled up with -100.
    """

    predictions: np.ndarray
    label_ids: np.ndarray


@torch.inference_mode()
def mean_loss(engine: Engine, collator: Collator) -> float:
    """Loss per counted label, without label smoothing."""
    world, labels = engine.world, collator.examples.labels.lengths
    total = torch.zeros(2, dtype=torch.float64, device=world.device)
    for batch in _mine(engine, _batches(engine, collator.examples)):
        with engine.autocast():
            inputs = to_device(collator(batch), world.device)
            loss = engine.model(**inputs, num_items_in_batch=1, output_logits=False, use_cache=False).loss
        total += torch.tensor([0.0, labels[[row[0] for row in batch]].sum()], device=world.device)
        total[0] += loss.double()
    loss_sum, count = world.sum(total).tolist()
    return loss_sum / count


def predict_ids(engine: Engine, collator: Collator, settings: dict[str, Any]) -> list[list[int]]:
    """Generated ids of every example, in their order, without start id and padding."""
    found: dict[int, list[int]] = {}
    for batch in _mine(engine, _batches(engine, collator.examples)):
        ids = generate(engine, collator, batch, settings)
        found |= dict(zip((row[0] for row in batch), ids, strict=True))
    every: dict[int, list[int]] = {}
    for part in engine.world.gather(found):
        every |= part
    return [every[index] for index in range(len(collator.examples))]


@torch.inference_mode()
def generate(engine: Engine, collator: Collator, batch: Batch, settings: dict[str, Any]) -> list[list[int]]:
    """Generated ids of one batch."""
    inputs = to_device(collator(batch, shifted=False), engine.world.device)
    with engine.autocast():
        ids = engine.model.generate(inputs["input_ids"], attention_mask=inputs.get("attention_mask"), **settings)
    pad = engine.model.config.pad_token_id
    return [_without_padding(row[1:], pad) for row in cast("Tensor", ids).tolist()]


def _without_padding(ids: list[int], pad: int | None) -> list[int]:
    end = len(ids)
    while end > 1 and ids[end - 1] == pad and ids[end - 2] == pad:
        end -= 1
    return ids[: end - 1] if end and ids[end - 1] == pad else ids[:end]


def _batches(engine: Engine, examples: Examples) -> list[Batch]:
    """Batches of examples, the longest first, so that memory runs out at once or never."""
    arguments = engine.arguments
    lengths = examples.lengths
    order = np.lexsort((-lengths[:, 1], -lengths[:, 0])).tolist()
    budget = arguments.tokens_per_batch
    batching: Batching = ByRows(arguments.per_device_eval_batch_size) if budget is None else ByTokens(budget)
    return batching.cut(lengths, order)


def _mine(engine: Engine, batches: list[Batch]) -> Iterator[Batch]:
    """This process's batches; all of them where weights are sharded, since then all must compute together."""
    together = engine.arguments.fsdp != "none"
    yield from batches if together else batches[engine.world.rank :: engine.world.size]


def filled(rows: list[list[int]] | Rows, pad: int = IGNORED) -> np.ndarray:
    """Rows of ids as one array."""
    kept = [list(rows[index]) for index in range(len(rows))]
    width = max((len(row) for row in kept), default=0)
    return np.array([row + [pad] * (width - len(row)) for row in kept], np.int64).reshape(len(kept), width)
