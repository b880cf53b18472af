"""A model with everything that a run trains it with: parameters, optimizer, average, loss scale."""

import contextlib
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch

from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.torch.averaging import Average
from conjoin.training.torch.groups import Optimizing, build_optimizing
from conjoin.training.torch.sharding import shard
from conjoin.training.torch.world import World


class TrainedModel:
    """What steps change, evaluations use and checkpoints keep.

    Args:
        total_steps: Number of steps of the run, for its schedules.

    Attributes:
        parameters: The parameters that are trained, by name.
    """

    def __init__(
        self, model: EncoderDecoderModel, arguments: TrainingArguments, world: World, total_steps: int
    ) -> None:
        self.model, self.arguments, self.world, self.total_steps = model, arguments, world, total_steps
        if arguments.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        if arguments.fsdp == "full":
            shard(model, world)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=arguments.fp16)
        self.average = Average(self.parameters, arguments.ema_decay) if arguments.ema_decay else None

    @cached_property
    def optimizing(self) -> Optimizing:
        """The optimizer; built when it is first used, since evaluations need none.

        Raises:
            TrainingError: every parameter is frozen.
        """
        return build_optimizing(self.parameters, self.arguments, self.total_steps)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of forward passes that sets their number format."""
        dtype = torch.bfloat16 if self.arguments.bf16 else torch.float16 if self.arguments.fp16 else None
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.world.device.type, dtype=dtype)
