"""A run on PyTorch: steps (forward, backward, clipping, update, average), evaluations, checkpoints."""

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from conjoin.checkpoint import Staging
from conjoin.torch.cpu.pages import KeptMemory
from conjoin.torch.pair.lora import has_adapters, merge_adapters, merged_parameters
from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.training.data.batching import Batch
from conjoin.training.data.examples import Examples
from conjoin.training.folder.state import TrainerState
from conjoin.training.loop.engine import Losses, Terms, out_of_memory
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.torch.checkpoints import (
    load_weights,
    random_state,
    restore_checkpoint,
    save_checkpoint,
    set_random_state,
)
from conjoin.training.torch.collate import Collator, to_device
from conjoin.training.torch.evaluating import cross_attention, generate, mean_loss, predict_ids
from conjoin.training.torch.objectives import CrossEntropy, Divisors, Objective
from conjoin.training.torch.sharding import reshard, unsynchronised, whole, whole_state, wrap
from conjoin.training.torch.snapshots import Snapshot, put_back, take
from conjoin.training.torch.trained import TrainedModel
from conjoin.training.torch.world import World


@dataclass(frozen=True, slots=True)
class Share:
    """One batch of this process, and the weight of its loss: 0 if it only makes all processes have as many."""

    inputs: dict[str, Tensor]
    weight: float = 1.0


class Tally:
    """Losses of the steps since they were last read, summed on the device, which reading would make wait."""

    def __init__(self, device: torch.device, *, lossy: bool) -> None:
        self._lossy = lossy
        self._norm = torch.zeros(())
        self._start(device)

    def _start(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)  # of finite losses, and their number
        self._steps = 0

    def add(self, loss: Tensor, norm: Tensor) -> bool:
        """Add a step; return False if a CPU finds at once that it is not finite.

        Args:
            loss: Loss of this process's share of the batch.
            norm: Gradient norm; in float16 some overflow, and their steps are left out.
        """
        finite = loss.isfinite() & (norm.isfinite() | self._lossy)
        self._sums += torch.stack((torch.where(finite, loss, 0.0).double(), finite.double()))
        self._norm = norm
        self._steps += 1
        return self._sums.device.type != "cpu" or self._lossy or bool(finite)

    def read(self, world: World) -> Losses:
        """Sum over the processes, and start anew."""
        total, finite = cast("list[float]", world.sum(self._sums).tolist())
        all_finite = finite == self._steps * world.size or (self._lossy and finite > 0)
        losses = Losses(total, self._steps, self._norm.item(), all_finite)
        self._start(world.device)
        return losses


class Engine(TrainedModel):
    """Trains and evaluates a model (conjoin.training.loop.engine.Engine).

    Args:
        total_steps: Number of steps of the run, for its schedules.
        fresh: Names of the parameters that no checkpoint had.
        source_pad: The id that pads sources.
        make_objective: Builds what steps minimise, before the first one; cross-entropy by default.
    """

    def __init__(
        self,
        model: EncoderDecoderModel,
        arguments: TrainingArguments,
        world: World,
        total_steps: int = 1,
        fresh: Sequence[str] = (),
        source_pad: int = 0,
        make_objective: Callable[[], Objective] | None = None,
    ) -> None:
        super().__init__(model, arguments, world, total_steps)
        self._source_pad = source_pad
        self._make_objective = make_objective or (lambda: CrossEntropy(arguments.label_smoothing_factor))
        self._tally = Tally(world.device, lossy=arguments.fp16)
        self._fresh = set(fresh)
        self._wrapped: nn.Module | None = None
        self._only_fresh = False
        self._memory: KeptMemory | None = None  # while a CPU trains
        self.terms = Terms()

    @cached_property
    def objective(self) -> Objective:
        """What steps minimise; built before the first one, since evaluations need none."""
        return self._make_objective()

    def begin(self, step: int) -> None:
        """Prepare a step: which parameters it trains, and its learning rates."""
        _ = self.objective
        only_fresh = step <= self.arguments.fresh_first
        if self._wrapped is None and self.world.device.type == "cpu":
            self._memory = KeptMemory()
        if self._wrapped is None or only_fresh != self._only_fresh:
            for name, parameter in self.parameters.items():
                parameter.requires_grad_(not only_fresh or name in self._fresh)
            self._only_fresh = only_fresh
            self._wrapped = wrap(self.model, self.arguments, self.world)
        self.optimizing.set_rates(self.rates_at(step))
        self.model.train(self.terms.dropout)

    def step(self, number: int, examples: Examples, batches: list[Batch], counted: float) -> bool:
        """Take one step; return False if a CPU finds at once that it is not finite."""
        self.begin(number)
        shares = self._shares(Collator(self.model, examples, self._source_pad), batches)
        divisors = Divisors(counted, sum(len(row) for batch in batches for row in batch))
        with out_of_memory_explained(shares, number, self.model.main_input_name):
            losses = [self._backward(share, divisors, last=share is shares[-1]) for share in shares]
            norm = self._update()
        if self._memory is not None:
            self._memory.limit()
        if self.average is not None:
            self.average.update(number)
        return self._tally.add(torch.stack(losses).sum(), norm)

    def _shares(self, collator: Collator, batches: list[Batch]) -> list[Share]:
        """Return this process's batches of a step; all processes have as many, if need be one of weight 0."""
        size = self.world.size
        mine = [Share(self.objective.inputs(collator, batch)) for batch in batches[self.world.rank :: size]]
        if len(mine) < -(-len(batches) // size):
            mine.append(Share(self.objective.inputs(collator, batches[0]), weight=0.0))
        return mine

    def losses(self) -> Losses:
        """Read the losses of the steps since the last call; every process must call it."""
        return self._tally.read(self.world)

    def rates_at(self, step: int) -> dict[str, float]:
        """Return the learning rate of every part of the model."""
        return self.terms.rates(self.optimizing.rates, step)

    def _backward(self, share: Share, divisors: Divisors, *, last: bool) -> Tensor:
        assert self._wrapped is not None
        inputs = to_device(share.inputs, self.world.device)
        with contextlib.nullcontext() if last else unsynchronised(self._wrapped):
            with self.autocast():
                loss = self.objective.loss(self._wrapped, inputs, divisors)
            loss = loss * share.weight
            if self._memory is not None:
                self._memory.look()
            # DDP and FSDP average gradients over processes; we want their sum.
            self.scaler.scale(loss * self.world.size).backward()
        return loss.detach()

    def _update(self) -> Tensor:
        optimizer = self.optimizing.optimizer
        self.scaler.unscale_(optimizer)
        parameters = [p for p in self.parameters.values() if p.grad is not None]
        limit = self.arguments.max_grad_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return whole(norm.detach())

    @contextmanager
    def evaluation_mode(self) -> Generator[None]:
        """Disable dropout and use averaged weights; random states are restored afterwards."""
        was_training = self.model.training
        self.model.eval()
        average = contextlib.nullcontext() if self.average is None else self.average.applied()
        with average, torch.random.fork_rng(enabled=True):
            try:
                yield
            finally:
                reshard(self.model)
                self.model.train(was_training)

    @contextmanager
    def preserve_random_state(self) -> Generator[None]:
        """Restore every random generator afterwards."""
        before = random_state(self.world)
        try:
            yield
        finally:
            set_random_state(before)

    def mean_loss(self, examples: Examples) -> float:
        """Return the loss per label, without label smoothing."""
        return mean_loss(self, Collator(self.model, examples, self._source_pad))

    def predict(self, examples: Examples, settings: dict[str, Any]) -> list[list[int]]:
        """Generate ids for every example, in order; all processes together."""
        return predict_ids(self, Collator(self.model, examples, self._source_pad), settings)

    def generate(self, examples: Examples, batch: Batch, settings: dict[str, Any]) -> list[list[int]]:
        """Generate ids for one batch in this process."""
        return generate(self, Collator(self.model, examples, self._source_pad), batch, settings)

    def cross_attention(self, batch: Mapping[str, NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Return the cross-attention weights of every layer: [B, H, T, S]."""
        return cross_attention(self.model, batch)

    def save(self, folder: Path, state: TrainerState) -> None:
        """Write the checkpoint of a step."""
        save_checkpoint(self, folder, state)

    def restore(self, folder: Path, step: int) -> None:
        """Go on from a checkpoint."""
        restore_checkpoint(self, folder, step)

    def snapshot(self) -> Snapshot | None:
        """Copy what steps change into main memory; None if a weight is not finite."""
        return take(self)

    def return_to(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot."""
        put_back(self, snapshot)

    def start_again(self, arguments: TrainingArguments, first: Snapshot) -> None:
        """Go back to the first weights, without moments, and train by other arguments from there."""
        self.arguments = arguments
        del self.optimizing
        put_back(self, first)

    def load_weights(self, folder: Path) -> None:
        """Give the model the weights of a saved model."""
        load_weights(self.model, folder)

    def use_final_weights(self) -> None:
        """Give the model its final weights for good."""
        if self.average is not None:
            self.average.apply()
        if self.arguments.lora_merge:
            merge_adapters(self.model)
        self.model.eval()
        if self._memory is not None:
            self._memory.give_back()

    def gather_weights(self) -> Callable[[Staging], None]:
        """Gather the weights, in every process; return a function that writes model and tokenizers."""
        if has_adapters(self.model):
            merged = merged_parameters(self.model) if self.arguments.lora_merge else None
            return lambda staging: self.model.write(staging, merged)
        weights = whole_state(self.model, self.world)
        return lambda staging: self.model.write(staging, weights)


@contextmanager
def out_of_memory_explained(shares: Sequence[Share], step: int, source: str) -> Generator[None]:
    """Turn a framework's out-of-memory error into ours.

    Args:
        source: Name of the encoder's input.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in text:
            raise
        sources, targets = ([tuple(s.inputs[name].shape) for s in shares] for name in (source, "labels"))
        raise out_of_memory(step, sources, targets) from error
