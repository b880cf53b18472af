"""Building a model and writing its parameters: nothing is allocated twice, and no model is left half written."""

import warnings
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from conjoin import spec
from conjoin.checkpoint import TensorInfo
from conjoin.errors import ConfigError
from conjoin.join import Computed, CopiedFresh, Drawn, JoinReport, Tied, sinusoids
from conjoin.pretrained.copies import copies
from conjoin.torch.cpu.pages import weight_memory
from conjoin.torch.model.sharing import tie

Model = TypeVar("Model", bound=nn.Module)

_BITS = {
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
"""Dtypes that numpy lacks, so that checkpoints return them as bits."""


def to_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return a floating torch dtype by its name; a dtype is returned as it is.

    Raises:
        ConfigError: there is no floating dtype of that name.
    """
    result = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(result, torch.dtype) or not result.is_floating_point:
        raise ConfigError(f"dtype = {dtype!r}; expected one of float32, bfloat16, float16, float64.")
    return result


def stored_dtype(infos: Mapping[str, TensorInfo]) -> torch.dtype:
    """Return the widest floating dtype among a checkpoint's tensors; float32 if that has 8 bits or there is none."""
    dtypes = {getattr(torch, info.dtype) for info in infos.values()} or {torch.float32}
    floating = sorted((d for d in dtypes if d.is_floating_point), key=lambda d: d.itemsize)
    return floating[-1] if floating and floating[-1].itemsize > 1 else torch.float32


def materialise(model: Model, dtype: torch.dtype, device: torch.device | str | None) -> Model:
    """Allocate the storage of a model on the meta device, without initialising it."""
    if torch.device(device or "cpu").type != "cpu":
        return model.to(dtype).to_empty(device=device)

    def allocated(tensor: Tensor) -> Tensor:
        return weight_memory(tensor.shape, tensor.dtype)

    return cast(Any, model.to(dtype))._apply(allocated)


def fill(model: nn.Module, plan: JoinReport, *, prefix: str = "") -> None:
    """Write every parameter of a materialised model as the plan says.

    Args:
        prefix: Prefix of the plan's names that the module's own names lack ("decoder.").

    Raises:
        WeightError: tensors with NaN or infinite numbers, all of them named.
    """
    parameters = {prefix + name: p for name, p in model.named_parameters(remove_duplicate=False)}
    with torch.no_grad():
        for name, part, _ in copies(plan, as_tensor):
            parameters[name].copy_(part)
        for name in plan.names(Drawn):
            _draw(parameters[name], plan.parameters[name])
        for name in plan.names(Computed):
            parameters[name].copy_(torch.from_numpy(sinusoids(plan.parameters[name])))
        for name in plan.names(CopiedFresh):
            origin = plan.origins[name]
            assert isinstance(origin, CopiedFresh)
            same = plan.origins[origin.of]
            parameters[name].copy_(parameters[same.to if isinstance(same, Tied) else origin.of])
    for name in plan.names(Tied):
        origin = plan.origins[name]
        assert isinstance(origin, Tied)
        tie(model, name.removeprefix(prefix), parameters[origin.to])


def as_tensor(array: object, dtype: str) -> Tensor:
    """Return a torch view of a memory-mapped array; do not write to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tensor = torch.from_numpy(array)  # pyright: ignore[reportArgumentType]
    return tensor.view(_BITS[dtype]) if dtype in _BITS else tensor


def _draw(parameter: Tensor, kind: spec.Parameter) -> None:
    if kind.std:
        parameter.normal_(kind.start, kind.std)
    else:
        parameter.fill_(kind.start)
