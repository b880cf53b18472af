"""Feed-forward bricks and activations."""

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin import spec
from conjoin.torch.cpu.dropout import dropout
from conjoin.torch.cpu.linear import Linear, linear
from conjoin.torch.cpu.pointwise import gated, gates_in_training
from conjoin.torch.model.sharing import Brick


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[spec.Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
    "quick_gelu": _quick_gelu,
    "tanh": torch.tanh,
}


class PlainMLP(Brick):
    """down(activation(up(x)))."""

    def __init__(self, kind: spec.PlainMLP, hidden_size: int, *, wide: bool = False) -> None:
        super().__init__()
        self.wide = wide
        self.activation = ACTIVATIONS[kind.activation]
        self.activation_dropout = kind.activation_dropout
        self.up = Linear(hidden_size, kind.intermediate_size, bias=kind.up_bias)
        self.down = Linear(kind.intermediate_size, hidden_size, bias=kind.down_bias)

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """Map every vector on its own."""
        inner = _widened(self.activation(self.up(x)), self.wide)
        return _down(self.down, dropout(inner, self.activation_dropout, self.training))


class GatedMLP(Brick):
    """down(activation(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, kind: spec.GatedMLP, hidden_size: int, *, wide: bool = False) -> None:
        super().__init__()
        self.kind, self.wide = kind, wide
        self.activation_dropout = kind.activation_dropout
        self.gate = Linear(hidden_size, kind.intermediate_size, bias=kind.up_bias)
        self.up = Linear(hidden_size, kind.intermediate_size, bias=kind.up_bias)
        self.down = Linear(kind.intermediate_size, hidden_size, bias=kind.down_bias)

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """Map every vector on its own."""
        gate, up = self.gate(x), self.up(x)
        if gates_in_training(self.kind.activation, gate, up):
            inner = gated(self.kind.activation, gate, up, self._by_operators)
        else:
            inner = self._by_operators(gate, up)
        return _down(self.down, dropout(inner, self.activation_dropout, self.training))

    def _by_operators(self, gate: Float[Tensor, "*lead F"], up: Float[Tensor, "*lead F"]) -> Float[Tensor, "*lead F"]:
        return _widened(ACTIVATIONS[self.kind.activation](gate), self.wide) * up


def _widened(x: Float[Tensor, "*lead F"], wide: bool) -> Float[Tensor, "*lead F"]:
    return x.float() if wide and x.dtype == torch.float16 else x


def _down(layer: nn.Module, inner: Float[Tensor, "*lead F"]) -> Float[Tensor, "*lead D"]:
    """What the last layer makes of numbers that float16 may not hold."""
    if inner.dtype == torch.float32 and type(layer) is Linear and layer.weight.dtype == torch.float16:
        bias = cast("Tensor | None", layer.bias)
        return linear(inner, layer.weight.float(), None if bias is None else bias.float())
    return layer(inner)


def build_mlp(kind: spec.MLP, hidden_size: int, *, wide: bool = False) -> nn.Module:
    """The feed-forward brick that a spec describes.

    Args:
        wide: As `spec.Block.wide_in_float16`.
    """
    match kind:
        case spec.PlainMLP():
            return PlainMLP(kind, hidden_size, wide=wide)
        case spec.GatedMLP():
            return GatedMLP(kind, hidden_size, wide=wide)
