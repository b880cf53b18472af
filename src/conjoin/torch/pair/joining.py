"""Joining halves in memory: the new model uses their parameters without copying them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from conjoin.errors import ConfigError, JoinError
from conjoin.families import PretrainedConfig, Role
from conjoin.join import InMemory, JoinReport
from conjoin.pretrained.sources import Source
from conjoin.torch.model.sharing import tie
from conjoin.torch.pair.halves import Decoder, Encoder, Half


def read_half(role: Role, half: Any) -> tuple[PretrainedConfig, Mapping[str, nn.Parameter]]:
    """Return config and parameters of a half in memory, the parameters by canonical name.

    Raises:
        JoinError: the object is not a half of that role.
    """
    expected = Encoder if role == "encoder" else Decoder
    if not isinstance(half, expected):
        raise JoinError(
            f"{role}_model is a {type(half).__name__}; expected conjoin's {expected.__name__}.",
            hint=f"load it with conjoin.torch.{expected.__name__}.from_pretrained(...), or give its folder.",
        )
    return half.config, {f"{role}.{name}": p for name, p in half.named_parameters(remove_duplicate=False)}


def source_of(half: Half) -> Source:
    """Return a half in memory as a source of a join."""
    config, parameters = read_half(half.role, half)
    return Source(half.role, config, parameters=parameters)


def adopt_parameters(model: nn.Module, sources: Sequence[Source], plan: JoinReport) -> None:
    """Tie the model's parameters to those of halves in memory.

    Raises:
        ConfigError: the shape of a parameter differs from the pair's config.
    """
    for source in sources:
        for name, parameter in source.parameters.items():
            if not isinstance(plan.origins.get(name), InMemory):
                continue
            expected = plan.parameters[name].shape
            if tuple(parameter.shape) != expected:
                raise ConfigError(
                    f"{name}: the {source.role} has shape {tuple(parameter.shape)}, the config says {expected}."
                )
            tie(model, name, parameter)


def materialise_rest(model: nn.Module, dtype: torch.dtype, device: torch.device | str) -> None:
    """Allocate the parameters that are still on the meta device."""
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if parameter.is_meta:
            empty = torch.empty(parameter.shape, dtype=dtype, device=device)
            tie(model, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
