"""A step of a run, kept in memory, to which the run can go back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from conjoin.training.torch.trained import TrainedModel

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that steps change, but for random states, by the names of parameters.

    Args:
        moments: AdamW's state of each parameter; none for one that had no update yet.
        average: The moving average, or nothing.
        buffers: What layers count beside parameters, as batch norms of a caller's encoder do.
    """

    weights: Tensors
    moments: dict[str, Tensors]
    average: Tensors
    buffers: Tensors


@torch.no_grad()
def take(trained: TrainedModel) -> Snapshot | None:
    """Copy a step; None if a weight is not finite any more. Whole tensors go to the CPU, shards stay where they are."""
    parameters = {name: parameter.detach() for name, parameter in trained.parameters.items()}
    if not all(bool(_whole_is_finite(tensor)) for tensor in parameters.values()):
        return None
    states = trained.optimizing.optimizer.state
    return Snapshot(
        weights={name: _copy(tensor) for name, tensor in parameters.items()},
        moments={
            name: {key: _copy(value) for key, value in states[parameter].items()}
            for name, parameter in trained.parameters.items()
            if parameter in states
        },
        average={} if trained.average is None else {name: _copy(x) for name, x in trained.average.shadow.items()},
        buffers={name: _copy(buffer) for name, buffer in trained.model.named_buffers()},
    )


def _whole_is_finite(tensor: Tensor) -> Tensor:
    finite = tensor.isfinite().all()
    return finite.full_tensor() if hasattr(finite, "full_tensor") else finite  # pyright: ignore


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone() if hasattr(tensor, "full_tensor") else tensor.to("cpu", copy=True)


@torch.no_grad()
def put_back(trained: TrainedModel, snapshot: Snapshot) -> None:
    """Copy a snapshot into the model, its optimizer and its average."""
    states = trained.optimizing.optimizer.state
    states.clear()
    for name, parameter in trained.parameters.items():
        parameter.copy_(snapshot.weights[name])
        if (moments := snapshot.moments.get(name)) is not None:
            like = {"step": torch.empty((), device=parameter.device)}
            states[parameter] = {
                key: like.get(key, torch.empty_like(parameter)).copy_(value) for key, value in moments.items()
            }
    for name, buffer in trained.model.named_buffers():
        buffer.copy_(snapshot.buffers[name])
    if trained.average is not None:
        for name, shadow in trained.average.shadow.items():
            shadow.copy_(snapshot.average[name])
