"""Vectors to scores over the vocabulary."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conjoin import spec
from conjoin.torch.linear import Linear, linear
from conjoin.torch.mlp import ACTIVATIONS
from conjoin.torch.norm import build_norm


class Head(nn.Module):
    """Projection, transform, vocabulary matrix, bias and soft cap, as far as the spec has them."""

    def __init__(self, kind: spec.Head, hidden_size: int) -> None:
        super().__init__()
        self.kind = kind
        transform = kind.transform
        self.projection = Linear(hidden_size, kind.size, bias=False) if kind.projection else None
        self.dense = Linear(hidden_size, kind.size, bias=transform.bias) if transform else None
        self.norm = build_norm(transform.norm, kind.size) if transform else None
        self.vocab = None if kind.tied else Linear(kind.size, kind.vocab_size, bias=False)
        fixed = kind.bias == "fixed"
        self.bias = nn.Parameter(torch.empty(kind.vocab_size), requires_grad=not fixed) if kind.bias else None

    def forward(self, x: Float[Tensor, "*lead D"], words: Float[Tensor, "V C"]) -> Float[Tensor, "*lead V"]:
        """Scores of every word.

        Args:
            words: The word table, read where the head is tied.
        """
        kind = self.kind
        if self.projection is not None:
            x = self.projection(x)
        if self.dense is not None and self.norm is not None and kind.transform is not None:
            x = self.norm(ACTIVATIONS[kind.transform.activation](self.dense(x)))
        if kind.scale != 1.0:
            x = x * kind.scale
        logits = linear(x, words if self.vocab is None else self.vocab.weight, self.bias)
        return logits if kind.softcap is None else torch.tanh(logits / kind.softcap) * kind.softcap
