"""Loss and predictions over examples, shared among the processes."""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.training.data.batching import Batch
from conjoin.training.data.examples import Examples
from conjoin.training.loop.evaluator import evaluation_batches, without_padding
from conjoin.training.torch.collate import Collator, batch_loss, to_device
from conjoin.training.torch.trained import TrainedModel


@torch.inference_mode()
def mean_loss(trained: TrainedModel, collator: Collator) -> float:
    """Return the loss per label, without label smoothing."""
    world = trained.world
    total = torch.zeros(2, dtype=torch.float64, device=world.device)
    for batch in _mine(trained, collator.examples):
        with trained.autocast():
            loss = batch_loss(trained.model, to_device(collator(batch), world.device), 1)
        counted = collator.examples.counted(row[0] for row in batch)
        total += torch.tensor([0.0, counted], dtype=torch.float64, device=world.device)
        total[0] += loss.double()
    loss_sum, count = cast("list[float]", world.sum(total).tolist())
    return loss_sum / (count or 1.0)


def predict_ids(trained: TrainedModel, collator: Collator, settings: dict[str, Any]) -> list[list[int]]:
    """Generate ids for every example, in order, without start id and padding."""
    own: dict[int, list[int]] = {}
    for batch in _mine(trained, collator.examples):
        ids = generate(trained, collator, batch, settings)
        own |= dict(zip((row[0] for row in batch), ids, strict=True))
    every: dict[int, list[int]] = {}
    for part in trained.world.gather(own):
        every |= part
    return [every[index] for index in range(len(collator.examples))]


@torch.inference_mode()
def generate(trained: TrainedModel, collator: Collator, batch: Batch, settings: dict[str, Any]) -> list[list[int]]:
    """Generate ids for one batch."""
    inputs = to_device(collator.sources(batch), trained.world.device)
    with trained.autocast():
        ids = trained.model.generate(**inputs, **settings)
    rows = cast("list[list[int]]", cast("Tensor", ids).tolist())
    return without_padding(rows, trained.model.config.pad_token_id)


def _mine(trained: TrainedModel, examples: Examples) -> Iterator[Batch]:
    """Yield this process's batches; all batches if weights are sharded, since then all must compute together."""
    batches, together = evaluation_batches(examples, trained.arguments), trained.arguments.fsdp != "none"
    first, step = (0, 1) if together else (trained.world.rank, trained.world.size)
    yield from (batches[number] for number in range(first, len(batches), step))


@torch.inference_mode()
def cross_attention(model: EncoderDecoderModel, batch: Mapping[str, NDArray[np.int64]]) -> list[NDArray[np.float32]]:
    """Return the cross-attention weights of every layer: [B, H, T, S]."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        inputs = {name: torch.from_numpy(array).to(model.device) for name, array in batch.items()}
        output: Any = model(**inputs, output_attentions=True)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return [layer.float().cpu().numpy() for layer in output.cross_attentions or ()]
