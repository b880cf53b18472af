"""Tokens of a batch whose rows end one by one."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from conjoin.torch.generation.loop import Limits
from conjoin.torch.generation.select import is_any_of


class Rows:
    """What every row has written, and which rows go on.

    Args:
        copies: Rows per source, side by side.

    Attributes:
        count: Rows at the start.
        places: Where the rows that are in the batch stood then; None while none has left.
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
        """Ids so far of the rows that are in the batch."""
        return self._tokens[:, : self.length]

    @property
    def steps(self) -> int:
        """Tokens written behind the prompt."""
        return self.length - self.limits.prompt

    @property
    def at_limit(self) -> bool:
        """Whether no token fits any more."""
        return self.length >= self.limits.max_length

    @property
    def all_ended(self) -> bool:
        """Whether no row goes on."""
        return bool(self.ended.all())

    def add(self, tokens: Int[Tensor, " R"]) -> Int[Tensor, " R"]:
        """Write the next token of every row; returns what was written: ended rows get pads."""
        tokens = torch.where(self.ended, self.limits.pad, tokens)
        self._tokens[:, self.length] = tokens
        self._lengths += ~self.ended
        self.length += 1
        return tokens

    def end(self, tokens: Int[Tensor, " R"], stopped: Bool[Tensor, " R"] | None) -> None:
        """Let rows end whose last token is an end id, or that something else stops."""
        self.ended = self.ended | is_any_of(tokens, self.limits.eos)
        if stopped is not None:
            self.ended = self.ended | stopped

    def sources(self) -> Int[Tensor, " R"]:
        """The source of each row that is in the batch."""
        places = torch.arange(self.count, device=self.ended.device) if self.places is None else self.places
        return places // self.copies

    def alive(self) -> list[int]:
        """Sources that have a row that goes on."""
        return (~self.ended.view(-1, self.copies).all(1)).nonzero().squeeze(1).tolist()

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep these rows in the batch, in this order; what the others wrote is put aside."""
        self._put_aside()
        self.places = rows if self.places is None else self.places[rows]
        self._tokens, self._lengths, self.ended = self._tokens[rows], self._lengths[rows], self.ended[rows]

    def result(self) -> Int[Tensor, "All t"]:
        """What all rows wrote, those that left too, padded to the longest."""
        self._put_aside()
        tokens, lengths = self._all
        return tokens[:, : int(lengths.max())]

    def _put_aside(self) -> None:
        if self.places is not None:
            self._all[0][self.places] = self._tokens
            self._all[1][self.places] = self._lengths
