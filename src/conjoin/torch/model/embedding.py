"""The embedding: ids to vectors."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from conjoin import spec
from conjoin.errors import ShapeError
from conjoin.torch.cpu.dropout import dropout
from conjoin.torch.cpu.linear import Linear
from conjoin.torch.model.norm import build_norm
from conjoin.torch.model.sharing import Brick


class Embedding(Brick):
    """Tokens * scale + positions + token types, then norm, dropout and projection; the spec may lack some of them."""

    def __init__(self, kind: spec.Embedding, hidden_size: int) -> None:
        super().__init__()
        self.kind = kind
        early = kind.projection is not None and kind.projection.when == "words"
        inner = hidden_size if early else kind.size
        self.words = _table(kind.vocab_size, kind.size)
        self.replacement = None if kind.replaced is None else nn.Parameter(torch.empty(kind.size))
        self.positions = _table(kind.position_rows, inner) if kind.position_rows else None
        if self.positions is not None and isinstance(kind.position, spec.Sinusoidal):
            self.positions.weight.requires_grad_(False)
        self.token_types = _table(kind.type_rows, kind.size) if kind.type_rows else None
        self.tasks = _table(kind.tasks, kind.size) if kind.tasks else None
        self.norm = build_norm(kind.norm, inner) if kind.norm else None
        self.projection = (
            Linear(kind.size, hidden_size, bias=kind.projection.bias) if kind.projection is not None else None
        )

    def forward(
        self,
        words: Float[Tensor, "R T C"],
        positions: Int[Tensor, "R T"],
        token_type_ids: Int[Tensor, "R T"] | None,
    ) -> Float[Tensor, "R T D"]:
        """Add positions and token types to token embeddings, and apply norm, dropout and projection.

        Args:
            words: Token embeddings from `look_up`, or the user's `inputs_embeds`.
            positions: Rows of the position table; ignored if there is no table.
        """
        kind, x = self.kind, words
        if self.token_types is not None:
            types = self.token_types.weight[0] if token_type_ids is None else self.token_types(token_type_ids)
            x = x + types
        elif token_type_ids is not None:
            kind.require_types()
            x = x + self.words(token_type_ids)
        if self.tasks is not None:
            x = x + self.tasks.weight[0]
        if self.projection is not None and kind.projection is not None and kind.projection.when == "words":
            x = self.projection(x)
        if self.norm is not None and kind.norm_of == "words":
            x = self.norm(x)
        if self.positions is not None:
            x = x + self.positions(positions)
        if self.norm is not None and kind.norm_of == "sum":
            x = self.norm(x)
        x = dropout(x, kind.dropout, self.training)
        if self.projection is not None and kind.projection is not None and kind.projection.when == "sum":
            x = self.projection(x)
        return x

    def check_ids(self, input_ids: Int[Tensor, "R T"]) -> None:
        """Check that all ids are rows of the table.

        Raises:
            ShapeError: they are not.
        """
        least, most = (int(token) for token in input_ids.aminmax())
        rows = min(
            self.kind.vocab_size, getattr(self.words, "num_embeddings", self.kind.vocab_size)
        )  # a replaced table
        if least < 0 or most >= rows:
            raise ShapeError(
                f"ids of words go from {least} to {most}; expected 0 to {rows - 1}.",
                hint="the tokenizer is another model's, or has new words: model.resize_token_embeddings(len(...)).",
            )

    def check_types(self, token_type_ids: Int[Tensor, "R T"] | None) -> None:
        """Check that token types are rows of their table.

        Raises:
            ShapeError: they are not, or this half has no token types.
        """
        if token_type_ids is None:
            return
        self.kind.require_types()
        least, most = (int(each) for each in token_type_ids.aminmax())
        if least < 0 or most >= self.kind.type_rows:
            raise ShapeError(f"token_type_ids go from {least} to {most}; expected 0 to {self.kind.type_rows - 1}.")

    def table(self) -> Float[Tensor, "V C"]:
        """Return the token embeddings before scaling, including the effect of an adapter around `words`."""
        words = self.words
        if type(words) is nn.Embedding:
            return words.weight
        return words(torch.arange(self.kind.vocab_size, device=words.weight.device))

    def look_up(self, input_ids: Int[Tensor, "R T"]) -> Float[Tensor, "R T C"]:
        """Return scaled token embeddings.

        Raises:
            ShapeError: on a CPU, if ids are outside the table.
        """
        try:
            embeds = self.words(input_ids)
        except IndexError:
            self.check_ids(input_ids)
            raise
        if self.kind.scale != 1.0:
            embeds = embeds * (embeds.new_tensor(self.kind.scale) if self.kind.round_scale else self.kind.scale)
        if self.replacement is None:
            return embeds
        return torch.where((input_ids == self.kind.replaced)[..., None], self.replacement, embeds)


def _table(rows: int, size: int) -> nn.Embedding:
    """Return a table without values. PyTorch's initialisation on the meta device loads its compiler: two seconds."""
    return nn.Embedding(rows, size, _weight=torch.empty(rows, size))
