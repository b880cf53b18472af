"""A moving average of the weights (Polyak & Juditsky 1992), often better than the last weights."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of parameters.

    The decay starts low and rises to `decay` as (1 + n) / (10 + n), so that the first weights soon lose influence.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.shadow = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the current weights to the average; `step` counts from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for shadow, live in zip(self.shadow.values(), self._live(), strict=True):
            shadow.lerp_(live, 1 - decay)

    def _live(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self._parameters.values()]

    @contextmanager
    def applied(self) -> Generator[None]:
        """Use the averaged weights inside the context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def apply(self) -> None:
        """Copy the averaged weights into the model."""
        for live, shadow in zip(self._live(), self.shadow.values(), strict=True):
            live.copy_(shadow)

    @torch.no_grad()
    def _swap(self) -> None:
        for live, shadow in zip(self._live(), self.shadow.values(), strict=True):
            before = live.clone()
            live.copy_(shadow)
            shadow.copy_(before)
