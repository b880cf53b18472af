"""What every model class of this backend can do: know its config, device and size, freeze parts, be saved."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from conjoin.errors import ConfigError
from conjoin.families import PretrainedConfig


class Pretrained(nn.Module):
    """A module with a config, in Hugging Face's manner."""

    config: PretrainedConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the parameters are stored as."""
        return next(self.parameters()).dtype

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Numbers in the model, shared ones once; in 8 bits as many as before: units are no parameters.

        Args:
            exclude_embeddings: Without the tables that ids are looked up in.
        """
        left_out = (
            {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)} if exclude_embeddings else set()
        )
        for module in self.modules():
            beside = getattr(module, "beside_parameters", None)
            left_out |= {id(p) for p in beside()} if beside else set()
        return sum(
            p.numel() for p in self.parameters() if (p.requires_grad or not only_trainable) and id(p) not in left_out
        )

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: dict[str, object] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations.

        Args:
            gradient_checkpointing_kwargs: Of `torch.utils.checkpoint`, which is never re-entrant here; without effect.
            every_n_layers: Recompute one block of so many.

        Raises:
            ConfigError: every_n_layers is below 1, or activations shall be moved to another memory.
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
        """`gradient_checkpointing_enable`, as transformers calls it from 5.23 on."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers, offload)

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        for stack in self._stacks():
            stack.checkpoint_every = 0

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether any stack recomputes its blocks."""
        return any(stack.checkpoint_every for stack in self._stacks())

    def _stacks(self) -> Iterator[Any]:
        return (module for module in self.modules() if hasattr(module, "checkpoint_every"))


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """Canonical name -> parameter, shared ones under every name."""
    return dict(module.named_parameters(remove_duplicate=False))
