"""The LM head: hidden states to logits over the vocabulary."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from conjoin import spec
from conjoin.torch.cpu.cross_entropy import VocabProjection, cross_entropy_sum
from conjoin.torch.cpu.linear import Linear, linear
from conjoin.torch.cpu.row_counts import compiles_for_rows, with_filler
from conjoin.torch.model.loss import token_loss
from conjoin.torch.model.mlp import ACTIVATIONS
from conjoin.torch.model.norm import build_norm


class Head(nn.Module):
    """Projection, transform, vocabulary matrix, bias and soft cap; those that the spec lacks are left out."""

    def __init__(self, kind: spec.Head, hidden_size: int) -> None:
        super().__init__()
        self.kind = kind
        transform = kind.transform
        self.projection = Linear(hidden_size, kind.size, bias=False) if kind.projection else None
        self.dense = Linear(hidden_size, kind.size, bias=transform.bias) if transform else None
        self.norm = build_norm(transform.norm, kind.size) if transform else None
        self.vocab: nn.Module | None
        self.vocab = None if kind.tied else Linear(kind.size, kind.vocab_size, bias=False)
        fixed = kind.bias == "fixed"
        self.bias = nn.Parameter(torch.empty(kind.vocab_size), requires_grad=not fixed) if kind.bias else None

    def forward(self, x: Float[Tensor, "*lead D"], words: Float[Tensor, "V C"]) -> Float[Tensor, "*lead V"]:
        """Return the logits.

        Args:
            words: The token embedding, which is the vocabulary matrix of a tied head.
        """
        kind, x = self.kind, self._transformed(x)
        if self.vocab is None or isinstance(self.vocab, Linear):
            logits = linear(x, words if self.vocab is None else self.vocab.weight, self.bias)
        else:  # quantised to 8 bits
            logits = self.vocab(x) if self.bias is None else self.vocab(x) + self.bias
        return logits if kind.softcap is None else torch.tanh(logits / kind.softcap) * kind.softcap

    def beside_parameters(self) -> list[nn.Parameter]:
        """Return the vocabulary matrix of a quantised tied head: a copy of the token embedding."""
        return [self.vocab.get_parameter("weight")] if self.kind.tied and self.vocab is not None else []

    def _transformed(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead C"]:
        """Return the input of the vocabulary matrix."""
        kind = self.kind
        if self.projection is not None:
            x = self.projection(x)
        if self.dense is not None and self.norm is not None and kind.transform is not None:
            x = self.norm(ACTIVATIONS[kind.transform.activation](self.dense(x)))
        if kind.scale != 1.0:
            x = x * kind.scale
        return x

    def loss(
        self,
        x: Float[Tensor, "N D"],
        words: Float[Tensor, "V C"],
        labels: Int[Tensor, " N"],
        *,
        num_items: Tensor | int | None = None,
        label_smoothing: float = 0.0,
    ) -> Float[Tensor, ""]:
        """Return the `token_loss` of labels that all count, without keeping the logits if the head can do without."""
        if self.vocab is None or isinstance(self.vocab, Linear):
            vocabulary = VocabProjection(
                words if self.vocab is None else self.vocab.weight, self.bias, self.kind.softcap
            )
            if vocabulary.can_be_chunked:
                x = with_filler(x) if compiles_for_rows(x) else x
                total = cross_entropy_sum(self._transformed(x), vocabulary, labels, label_smoothing)
                return total / (max(1, len(labels)) if num_items is None else num_items)
        return token_loss(self(x, words), labels, num_items=num_items, label_smoothing=label_smoothing)
