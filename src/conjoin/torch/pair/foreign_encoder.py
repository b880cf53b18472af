"""An encoder that is any module: how it is called, and its states."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from conjoin import spec
from conjoin.errors import ShapeError
from conjoin.families import PretrainedConfig
from conjoin.generation.prompt import encoder_states
from conjoin.torch.model.outputs import EncoderOutput

Mask = Callable[[Any, Tensor], Tensor]
"""(the encoder's input, its states) -> which states are real, [B, S]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a foreign encoder is called.

    Args:
        width: Size M of its states.
        input: Name of its input in batches, and in calls of the joined model.
        mask: What tells which states are real; None: all are.
    """

    width: int
    input: str
    mask: Mask | None = None


class ForeignEncoder(nn.Module):
    """Any module as the half that reads the source."""

    def __init__(self, module: nn.Module, kind: spec.StackSpec, config: PretrainedConfig) -> None:
        super().__init__()
        self.module = module
        self.spec = kind
        self.config = config

    def forward(self, input_ids: Any = None, *_: Any, inputs_embeds: Any = None, **__: Any) -> EncoderOutput:
        """Return the states of the module's input, `inputs_embeds`.

        A module may return states [B, S, M], a map [B, M, H, W], one vector [B, M], or what transformers' models do.

        Raises:
            ShapeError: there is no input, but ids; or its output has another shape.
        """
        if inputs_embeds is None:
            raise ShapeError(f"{self.spec.family}: a module of the caller's as encoder reads no ids and no texts.")
        output = self.module(inputs_embeds)
        states = output if isinstance(output, Tensor) else encoder_states(output)
        width = self.spec.output_size
        if states.dim() == 4 and states.shape[1] == width:
            states = states.flatten(2).transpose(1, 2)
        elif states.dim() == 2:
            states = states[:, None]
        if states.dim() != 3 or states.shape[-1] != width:
            raise ShapeError(
                f"{self.spec.family}: its output has shape {tuple(states.shape)}; expected (batch, length, {width}), a "
                f"map (batch, {width}, height, width) or (batch, {width}).",
                hint="encoder_width= is the size of one state.",
            )
        return EncoderOutput(states)
