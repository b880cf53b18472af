"""Train one model on several processes: DistributedDataParallel, or FSDP2's fully_shard."""

import contextlib
from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel

from conjoin.errors import ConfigError
from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.torch.pair.pretrained import plain_state
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.torch.world import World


def wrap(model: EncoderDecoderModel, arguments: TrainingArguments, world: World) -> nn.Module:
    """Return the module to call in training; call this again whenever the set of trained parameters changes."""
    module: nn.Module = model
    if world.many and arguments.fsdp == "none":
        devices = [world.device.index] if world.device.type == "cuda" else None
        module = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    if arguments.torch_compile:
        module.compile(dynamic=True)
    return module


@contextlib.contextmanager
def _postponed(model: FSDPModule) -> Generator[None]:
    """Postpone FSDP2's synchronisation of gradients inside the context."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def unsynchronised(wrapped: nn.Module) -> AbstractContextManager[Any]:
    """Return a context that does not synchronise gradients, for all batches of a step but the last."""
    if isinstance(wrapped, DistributedDataParallel):
        return wrapped.no_sync()
    if isinstance(wrapped, FSDPModule):
        return _postponed(wrapped)
    return contextlib.nullcontext()


def shard(model: EncoderDecoderModel, world: World) -> None:
    """Shard the parameters over the processes: every block is a group, and all other parameters are one.

    Raises:
        ConfigError: there is one process only, or both halves share blocks, which cannot be in two groups.
    """
    if isinstance(model, FSDPModule):
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if model.spec.share == "all":
        raise ConfigError('share = "all" and fsdp: a block cannot be gathered for both halves.', hint="leave fsdp out.")
    if not torch.distributed.is_initialized():
        raise ConfigError("fsdp needs several processes.", hint="torchrun --nproc-per-node 2 -m conjoin train ...")
    for parameter in model.parameters():  # every process has drawn its own fresh parameters
        torch.distributed.broadcast(parameter.data, src=0)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for stack in (model.encoder, model.decoder):
        for block in stack.blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "generate")


def reshard(model: nn.Module) -> None:
    """Free the parameters that a forward pass has gathered, after which no backward pass follows."""
    if isinstance(model, FSDPModule):
        model.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor, gathered if it is sharded; every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(model: EncoderDecoderModel, world: World) -> dict[str, Tensor]:
    """Gather all parameters by canonical name on the first process, one by one; the others get an empty dict."""
    state: dict[str, Tensor] = {}
    for name, parameter in plain_state(model).items():
        gathered = whole(parameter.detach())
        if world.first:
            state[name] = gathered if gathered is parameter else gathered.cpu()
    return state


def rows_of(tensor: DTensor) -> tuple[int, int]:
    """Return the range of rows that this process holds, split as torch.chunk does: the last parts are shorter."""
    mesh, count = tensor.device_mesh, tensor.shape[0]
    part = -(-count // mesh.size())
    start = min(mesh.get_local_rank() * part, count)
    return start, min(start + part, count)


def copy_into(target: Tensor, source: Tensor) -> None:
    """Copy a full tensor into a parameter, which may be sharded by rows."""
    if isinstance(target, DTensor):
        assert target.placements == (Shard(0),)
        start, end = rows_of(target)
        target.to_local().copy_(source[start:end])
        return
    target.copy_(source)
