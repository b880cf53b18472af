"""Several processes over one model: DistributedDataParallel, or FSDP2's fully_shard."""

import contextlib
from contextlib import AbstractContextManager
from typing import Any, cast

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from conjoin.torch.model import EncoderDecoderModel
from conjoin.training.arguments import TrainingArguments
from conjoin.training.torch.world import World


def wrap(model: EncoderDecoderModel, arguments: TrainingArguments, world: World) -> nn.Module:
    """The module to call in training. Wrapped anew whenever other parameters are trained."""
    called: nn.Module = model
    if world.many and arguments.fsdp == "none":
        devices = [world.device.index] if world.device.type == "cuda" else None
        called = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    if arguments.torch_compile:
        called.compile()
    return called


def unsynchronised(wrapped: nn.Module) -> AbstractContextManager[Any]:
    """Gradients of all but the last batch of a step stay where they are."""
    if isinstance(wrapped, DistributedDataParallel):
        return wrapped.no_sync()
    return contextlib.nullcontext()


def shard(model: EncoderDecoderModel, world: World) -> None:
    """Spread every block's parameters over the processes (FSDP2)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for stack in (model.encoder, model.decoder):
        for block in cast("nn.ModuleList", stack.blocks):
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
