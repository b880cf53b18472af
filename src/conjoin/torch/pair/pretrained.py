"""The base class of models in PyTorch: config, device, dtype, number of parameters, gradient checkpointing."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from conjoin.errors import ConfigError
from conjoin.families import PretrainedConfig


class Pretrained(nn.Module):
    """A module with a config and the attributes that transformers' models have."""

    config: PretrainedConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(self.parameters()).dtype

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Return the number of parameters, shared ones counted once. Scales of a quantised model do not count.

        Args:
            exclude_embeddings: Do not count embedding tables.
        """
        excluded: set[int] = set()
        if exclude_embeddings:
            excluded |= {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        for module in self.modules():
            added = getattr(module, "beside_parameters", None)
            excluded |= {id(p) for p in added()} if added else set[int]()
        return sum(
            p.numel() for p in self.parameters() if (p.requires_grad or not only_trainable) and id(p) not in excluded
        )

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: dict[str, object] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations.

        Args:
            gradient_checkpointing_kwargs: Arguments of `torch.utils.checkpoint`; ignored, as it is never re-entrant
                here.
            every_n_layers: Recompute one block out of this many.

        Raises:
            ConfigError: every_n_layers is below 1, or `offload` is True, which is not supported.
        """
        if offload or every_n_layers < 1:
            raise ConfigError(
                f"Gradient checkpointing with every_n_layers={every_n_layers}, offload={offload}: expected 1 or more, "
                "and activations that stay on their device."
            )
        for stack in self._stacks():
            stack.checkpoint_every = every_n_layers

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, object] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Call `gradient_checkpointing_enable`; this is its name in transformers from 5.23 on."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers, offload)

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations instead of recomputing them."""
        for stack in self._stacks():
            stack.checkpoint_every = 0

    @property
    def is_gradient_checkpointing(self) -> bool:
        """True if any stack recomputes its blocks."""
        return any(stack.checkpoint_every for stack in self._stacks())

    def _stacks(self) -> Iterator[Any]:
        return (module for module in self.modules() if hasattr(module, "checkpoint_every"))


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters by canonical name, shared ones under every name."""
    return dict(module.named_parameters(remove_duplicate=False))
