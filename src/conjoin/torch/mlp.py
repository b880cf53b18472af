"""Feed-forward bricks and activations."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin import spec
from conjoin.torch.dropout import dropout
from conjoin.torch.linear import Linear


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


class PlainMLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, kind: spec.PlainMLP, hidden_size: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[kind.activation]
        self.activation_dropout = kind.activation_dropout
        self.up = Linear(hidden_size, kind.intermediate_size, bias=kind.up_bias)
        self.down = Linear(kind.intermediate_size, hidden_size, bias=kind.down_bias)

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """Map every vector on its own."""
        inner = dropout(self.activation(self.up(x)), self.activation_dropout, self.training)
        return self.down(inner)


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, kind: spec.GatedMLP, hidden_size: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[kind.activation]
        self.activation_dropout = kind.activation_dropout
        self.gate = Linear(hidden_size, kind.intermediate_size, bias=kind.up_bias)
        self.up = Linear(hidden_size, kind.intermediate_size, bias=kind.up_bias)
        self.down = Linear(kind.intermediate_size, hidden_size, bias=kind.down_bias)

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """Map every vector on its own."""
        inner = dropout(self.activation(self.gate(x)) * self.up(x), self.activation_dropout, self.training)
        return self.down(inner)


def build_mlp(kind: spec.MLP, hidden_size: int) -> nn.Module:
    """The feed-forward brick that a spec describes."""
    match kind:
        case spec.PlainMLP():
            return PlainMLP(kind, hidden_size)
        case spec.GatedMLP():
            return GatedMLP(kind, hidden_size)
