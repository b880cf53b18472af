"""What the halves share, and what becomes of it when somebody puts a module around one of two that share a tensor."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from conjoin import spec
from conjoin.join import shared_names

_MARK = "shares_a_tensor"


class Brick(nn.Module):
    """A module whose children may be replaced by others.

    An adapter around a child that shares its tensors (peft puts itself there) is merged into them later: from then on
    that child has tensors of its own, so that the other half is not changed with it.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        child = vars(self).get("_modules", {}).get(name)
        if child is not None and _MARK in vars(child) and _stands_around(value, child):
            own_tensors(child)
        super().__setattr__(name, value)


def _stands_around(module: Any, child: nn.Module) -> bool:
    return isinstance(module, nn.Module) and module is not child and any(each is child for each in module.modules())


def own_tensors(module: nn.Module) -> None:
    """Give a module that shares tensors copies of its own; others are left alone."""
    if vars(module).pop(_MARK, None) is None:
        return
    for name, old in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(old.detach().clone(), requires_grad=old.requires_grad))


def tie(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Make `name` the same parameter as `parameter`."""
    where, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(where), leaf, parameter)


def mark_shared(model: nn.Module, pair: spec.PairSpec) -> None:
    """Note in both halves which modules share a tensor."""
    for name in shared_names(pair):
        where = name.rpartition(".")[0]
        for half in ("encoder", "decoder"):
            vars(model.get_submodule(f"{half}.{where}"))[_MARK] = True


def still_shared(pair: spec.PairSpec, state: Mapping[str, Tensor]) -> list[str]:
    """Names, within a stack, that are declared shared and hold one tensor under both halves' names."""
    return [name for name in shared_names(pair) if _is_one(state[f"encoder.{name}"], state[f"decoder.{name}"])]


def _is_one(one: Tensor, other: Tensor) -> bool:
    """Whether two names hold one tensor; what was gathered from shards is one where the numbers are equal."""
    if one is other or one.is_meta or other.is_meta:
        return True
    if isinstance(one, nn.Parameter) and isinstance(other, nn.Parameter):
        return one.data_ptr() == other.data_ptr() and one.shape == other.shape
    return one.shape == other.shape and torch.equal(one, other)
