"""AdamW's parameter groups: a learning rate for each part of the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from conjoin.errors import TrainingError
from conjoin.training.loop.schedules import Factor, group_of, group_rate
from conjoin.training.settings.arguments import GROUPS, TrainingArguments


def parameter_groups(parameters: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: for each part, matrices, which decay, apart from norms and biases, which do not."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault((group_of(name), parameter.dim() > 1), []).append(parameter)
    return [
        {"name": part, "params": groups[part, decays], "weight_decay": weight_decay if decays else 0.0}
        for part in GROUPS
        for decays in (True, False)
        if (part, decays) in groups
    ]


@dataclass(frozen=True, slots=True)
class Optimizing:
    """The optimizer, and its learning rates by step.

    One AdamW with groups computes what one AdamW per group would: Adam treats every parameter by itself.
    """

    optimizer: torch.optim.Optimizer
    rates: Mapping[str, Factor]

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Set the learning rate of every part."""
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["name"]]


def build_optimizing(
    parameters: Mapping[str, nn.Parameter], arguments: TrainingArguments, total_steps: int
) -> Optimizing:
    """Build AdamW over the trained parameters.

    Raises:
        TrainingError: there are none.
    """
    groups = parameter_groups(parameters, arguments.weight_decay)
    if not groups:
        raise TrainingError(
            "Every parameter is frozen; there is nothing to train.",
            hint="leave freeze out (--freeze), or call model.unfreeze().",
        )
    optimizer = torch.optim.AdamW(
        groups,
        lr=arguments.learning_rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        eps=arguments.adam_epsilon,
        fused=True,
    )
    optimizer.register_step_post_hook(_count_versions)
    names = {group["name"] for group in groups}
    return Optimizing(optimizer, {name: group_rate(arguments, name, total_steps) for name in GROUPS if name in names})


def _count_versions(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Count up the versions of parameters, by which copies of them are known to be old: the fused step does not."""
    for group in optimizer.param_groups:
        for each in group["params"]:
            if not hasattr(each, "to_local"):  # a shard, which no kernel reads
                torch.autograd.graph.increment_version(each)
