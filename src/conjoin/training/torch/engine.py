"""One optimizer step: forward and backward over its batches, clipping, update, average."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from conjoin.errors import TrainingError
from conjoin.torch.model import EncoderDecoderModel
from conjoin.training.arguments import TrainingArguments
from conjoin.training.torch.averaging import Average
from conjoin.training.torch.collate import to_device
from conjoin.training.torch.groups import Optimizing, build_optimizing
from conjoin.training.torch.sharding import reshard, shard, unsynchronised, whole, wrap
from conjoin.training.torch.world import World


@dataclass(frozen=True, slots=True)
class Share:
    """One batch of this process, and the weight of its loss: 0 for one that only keeps the others company."""

    inputs: dict[str, Tensor]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class StepResult:
    """On the device still: reading it there and then would make the device wait.

    Args:
        loss: Of this process's share of the batch.
        grad_norm: Before clipping.
    """

    loss: Tensor
    grad_norm: Tensor


class Engine:
    """A model and what trains it."""

    def __init__(
        self, model: EncoderDecoderModel, arguments: TrainingArguments, world: World, total_steps: int, fresh: list[str]
    ) -> None:
        self.model = model
        self.arguments = arguments
        self.world = world
        if arguments.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        if arguments.fsdp == "full":
            shard(model, world)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.total_steps = total_steps
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=arguments.fp16)
        self.average = Average(self.trained, arguments.ema_decay) if arguments.ema_decay else None
        self._fresh = set(fresh)
        self._wrapped: nn.Module | None = None
        self._only_fresh = False

    @cached_property
    def optimizing(self) -> Optimizing:
        """The optimizer; made when first asked for, since evaluations need none.

        Raises:
            TrainingError: every parameter is frozen.
        """
        return build_optimizing(self.trained, self.arguments, self.total_steps)

    def begin(self, step: int) -> None:
        """Get ready for the step, 1 for the first: which parameters it trains, and its learning rates."""
        only_fresh = step <= self.arguments.fresh_first
        if self._wrapped is None or only_fresh != self._only_fresh:
            for name, parameter in self.trained.items():
                parameter.requires_grad_(not only_fresh or name in self._fresh)
            self._only_fresh = only_fresh
            self._wrapped = wrap(self.model, self.arguments, self.world)
        self.optimizing.set_rates(step)
        self.model.train()

    def step(self, number: int, shares: Sequence[Share], counted: int) -> StepResult:
        """Take one step.

        Args:
            shares: This process's batches.
            counted: Labels in the whole step, over all batches and processes; its loss is their mean.

        Raises:
            TrainingError: out of memory, with what to change.
        """
        self.begin(number)
        with out_of_memory_explained(shares, number):
            losses = [self._backward(share, counted, last=share is shares[-1]) for share in shares]
            norm = self._update()
        if self.average is not None:
            self.average.update(number)
        return StepResult(torch.stack(losses).sum(), norm)

    def _backward(self, share: Share, counted: int, *, last: bool) -> Tensor:
        assert self._wrapped is not None
        inputs = to_device(share.inputs, self.world.device)
        with contextlib.nullcontext() if last else unsynchronised(self._wrapped):
            with self.autocast():
                loss = self._wrapped(
                    **inputs,
                    num_items_in_batch=counted,
                    smoothing=self.arguments.label_smoothing_factor,
                    output_logits=False,
                    use_cache=False,
                ).loss
            loss = loss * share.weight
            # Wrappers average gradients over processes; the sum over all of them is meant.
            self.scaler.scale(loss * self.world.size).backward()
        return loss.detach()

    def _update(self) -> Tensor:
        optimizer = self.optimizing.optimizer
        self.scaler.unscale_(optimizer)
        parameters = [p for p in self.trained.values() if p.grad is not None]
        limit = self.arguments.max_grad_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return whole(norm.detach())

    def autocast(self) -> AbstractContextManager[Any]:
        """The number format of forward passes."""
        dtype = torch.bfloat16 if self.arguments.bf16 else torch.float16 if self.arguments.fp16 else None
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.world.device.type, dtype=dtype)

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """The weights that evaluations and the final model have: averaged ones where there are some."""
        with contextlib.nullcontext() if self.average is None else self.average.applied():
            try:
                yield
            finally:
                reshard(self.model)


@contextmanager
def out_of_memory_explained(shares: Sequence[Share], step: int) -> Iterator[None]:
    """Turn a framework's out-of-memory error into ours."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in text:
            raise
        source, target = (max(tuple(s.inputs[name].shape) for s in shares) for name in ("input_ids", "labels"))
        raise TrainingError(
            f"Out of memory at step {step}, with sources of {source} and targets of {target} (rows, tokens).",
            hint="lower --tokens-per-batch (or --per-device-train-batch-size) and raise "
            "--gradient-accumulation-steps by as much; or --gradient-checkpointing, or --bf16. "
            "--resume goes on from the last checkpoint.",
        ) from error
