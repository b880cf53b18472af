"""The processes of a run: torchrun's or accelerate's environment, one process without it."""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """This process and the other processes of a run.

    Args:
        rank, size: Its number, and the number of processes.
        device: Its device.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True for the one process that writes files and prints."""
        return self.rank == 0

    @property
    def many(self) -> bool:
        """True if there are other processes."""
        return self.size > 1

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.many:
            distributed.all_reduce(value)
        return value

    def gather(self, value: T) -> list[T]:
        """Return every process's value, by rank."""
        if not self.many:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: T) -> T:
        """Return the first process's value."""
        if not self.many:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def on_first(self, work: Callable[[], object]) -> None:
        """Run `work` in the first process while the others wait; if it fails, all processes raise its error."""
        failure: Exception | None = None
        if self.first:
            try:
                work()
            except Exception as error:
                failure = error
        failure = self.from_first(failure)
        if failure is not None:
            raise failure


def join_world(*, use_cpu: bool) -> World:
    """Return the world of this process; start `torch.distributed` if a launcher asks for it and nobody has."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() and not use_cpu else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave_world)
    if not distributed.is_initialized():
        return World(0, 1, device)
    return World(distributed.get_rank(), distributed.get_world_size(), device)


def _leave_world() -> None:
    """End the threads of `torch.distributed`: a process that ends before they do may abort, with its work done."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
