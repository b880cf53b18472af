"""Tensors that both halves share, and their copies when an adapter wraps one of two modules that share a tensor."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from conjoin import spec
from conjoin.join import shared_names

_MARK = "shares_a_tensor"


class Brick(nn.Module):
    """A module that unshares the tensors of a child when an adapter replaces and wraps the child.

    Adapters, such as peft's, are later merged into the tensors of the child. If these were still shared, merging would
    change the other half too.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        child = vars(self).get("_modules", {}).get(name)
        if child is not None and _MARK in vars(child) and _wraps(value, child):
            own_tensors(child)
        super().__setattr__(name, value)


def _wraps(module: Any, child: nn.Module) -> bool:
    return isinstance(module, nn.Module) and module is not child and any(each is child for each in module.modules())


def own_tensors(module: nn.Module) -> None:
    """Replace the tensors of a module that shares them by copies; other modules are unchanged."""
    if vars(module).pop(_MARK, None) is None:
        return
    for name, old in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(old.detach().clone(), requires_grad=old.requires_grad))


def tie(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Make `name` the same parameter as `parameter`."""
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, parameter)


def mark_shared(model: nn.Module, pair: spec.PairSpec) -> None:
    """Mark the modules of both halves that share a tensor."""
    for name in shared_names(pair):
        path = name.rpartition(".")[0]
        for half in ("encoder", "decoder"):
            vars(model.get_submodule(f"{half}.{path}"))[_MARK] = True


def still_shared(pair: spec.PairSpec, state: Mapping[str, Tensor]) -> list[str]:
    """Return the names within a stack that the spec shares and that are still one tensor in both halves."""
    return [name for name in shared_names(pair) if _is_same(state[f"encoder.{name}"], state[f"decoder.{name}"])]


def _is_same(a: Tensor, b: Tensor) -> bool:
    """True if two tensors are one; those that were gathered from shards are compared by value."""
    if a is b or a.is_meta or b.is_meta:
        return True
    if isinstance(a, nn.Parameter) and isinstance(b, nn.Parameter):
        return a.data_ptr() == b.data_ptr() and a.shape == b.shape
    return a.shape == b.shape and torch.equal(a, b)
