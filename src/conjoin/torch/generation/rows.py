"""Generated tokens of a batch whose rows end at different steps."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from conjoin.torch.generation.loop import Limits
from conjoin.torch.generation.select import is_any_of


class Rows:
    """Tokens of every row, and which rows have ended.

    Args:
        copies: Number of rows per source, next to each other.

    Attributes:
        count: Number of rows at the start.
        places: Index at the start of each row that is still in the batch; None while all are.
    """

    def __init__(self, prompt: Int[Tensor, "R P"], limits: Limits, copies: int = 1) -> None:
        rows, device = len(prompt), prompt.device
        self.limits = limits
        self.copies = copies
        self.count = rows
        self.length = limits.prompt
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)
        self._tokens = torch.full((rows, limits.max_length), limits.pad, dtype=torch.long, device=device)
        self._tokens[:, : limits.prompt] = prompt
        self._lengths = torch.full((rows,), limits.prompt, device=device)
        self._all = (self._tokens, self._lengths)
        self.places: Tensor | None = None

    @property
    def ids(self) -> Int[Tensor, "R t"]:
        """Ids of the rows in the batch so far."""
        return self._tokens[:, : self.length]

    @property
    def steps(self) -> int:
        """Number of tokens after the prompt."""
        return self.length - self.limits.prompt

    @property
    def at_limit(self) -> bool:
        """True if the rows have reached the maximum length."""
        return self.length >= self.limits.max_length

    @property
    def all_ended(self) -> bool:
        """True if all rows have ended."""
        return bool(self.ended.all())

    def add(self, tokens: Int[Tensor, " R"]) -> Int[Tensor, " R"]:
        """Append the next token to every row, a pad to ended ones; return the tokens appended."""
        tokens = torch.where(self.ended, self.limits.pad, tokens)
        self._tokens[:, self.length] = tokens
        self._lengths += ~self.ended
        self.length += 1
        return tokens

    def end(self, tokens: Int[Tensor, " R"], stopped: Bool[Tensor, " R"] | None) -> None:
        """Mark rows as ended whose last token is an end id, or that a stopping criterion stopped."""
        self.ended = self.ended | is_any_of(tokens, self.limits.eos)
        if stopped is not None:
            self.ended = self.ended | stopped

    def sources(self) -> Int[Tensor, " R"]:
        """Return the source of each row in the batch."""
        places = torch.arange(self.count, device=self.ended.device) if self.places is None else self.places
        return places // self.copies

    def alive(self) -> list[int]:
        """Return the sources that have a row which has not ended."""
        return (~self.ended.view(-1, self.copies).all(1)).nonzero().squeeze(1).tolist()

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep these rows in the batch, in this order, and store the tokens of the others."""
        self._store()
        self.places = rows if self.places is None else self.places[rows]
        self._tokens, self._lengths, self.ended = self._tokens[rows], self._lengths[rows], self.ended[rows]

    def result(self) -> Int[Tensor, "All t"]:
        """Return the tokens of all rows, also of those that left the batch, padded to the longest."""
        self._store()
        tokens, lengths = self._all
        return tokens[:, : int(lengths.max())]

    def _store(self) -> None:
        if self.places is not None:
            self._all[0][self.places] = self._tokens
            self._all[1][self.places] = self._lengths
