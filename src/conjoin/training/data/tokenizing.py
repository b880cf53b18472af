"""Pairs of texts become ids, part by part, in this process or in several others."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from conjoin.texts.pairs import PART, Pairs
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.data.examples import Examples, Rows
from conjoin.training.data.store import Parts, in_memory
from conjoin.training.data.workers import Workers

Progress = Callable[[int], None]
"""Told how many more pairs are done."""


@dataclass(frozen=True, slots=True)
class Room:
    """Longest source and target, special tokens included; None if nothing limits them."""

    source: int | None
    target: int | None


class PairsInMemory:
    """Reads pairs that are in memory already."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self.name = pairs.name
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Pairs]:
        """Yield the pairs, `PART` at a time."""
        pairs = self._pairs
        for start in range(0, len(pairs), PART):
            own = slice(start, start + PART)
            weights = None if pairs.weights is None else pairs.weights[own]
            yield Pairs(self.name, pairs.sources[own], pairs.targets[own], pairs.lines[own], weights)


class TokenizedPairs:
    """Examples made of pairs of texts (`store.Parts`).

    Args:
        workers: Processes that tokenize; with 1, this one does, with all threads of the tokenizers.
    """

    def __init__(
        self,
        reader: Parts[Pairs],
        tokenizer: Tokenizer | TokenizerPair,
        room: Room,
        *,
        workers: int = 1,
        progress: Callable[[str], Any] | None = None,
    ) -> None:
        self._reader, self._tokenize = reader, TokenizePart(tokenizer, room)
        self._workers, self._progress = workers, progress or _silent
        self.name = reader.name
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Examples]:
        """Yield examples, with their texts.

        Raises:
            TokenizerError: the tokenizer cannot make labels.
        """
        with self._progress(f"tokenizing {self.name}") as advance:
            for part in self._tokenized():
                yield part
                advance(len(part))
        self.notes = self._reader.notes

    def _tokenized(self) -> Iterable[Examples]:
        if self._workers == 1:
            return map(self._tokenize, self._reader)
        return Workers(self._tokenize, self._workers).map(self._reader)


@contextmanager
def _silent(description: str) -> Generator[Progress]:
    yield lambda count: None


@dataclass(frozen=True, slots=True)
class TokenizePart:
    """Tokenizes pairs with these tokenizers, up to these lengths; other processes get a copy."""

    tokenizer: Tokenizer | TokenizerPair
    room: Room

    def __call__(self, pairs: Pairs) -> Examples:
        """Return the examples of pairs."""
        encoded = _tokenize(self.tokenizer, list(pairs.sources), list(pairs.targets), self.room)
        sources, labels = Rows.of(encoded["input_ids"]), Rows.of(encoded["labels"])
        full = np.zeros(len(sources), bool)
        for rows, limit in ((sources, self.room.source), (labels, self.room.target)):
            full |= rows.lengths >= limit if limit is not None else False
        return Examples(sources, labels, pairs.name, pairs.lines, pairs, int(full.sum()), weights=pairs.weights)


def tokenize_pairs(
    pairs: Pairs,
    tokenizer: Tokenizer | TokenizerPair,
    room: Room,
    progress: Callable[[str], Any] | None = None,
) -> Examples:
    """Tokenize all pairs once, in memory.

    Args:
        progress: Returns a context that shows progress under a name, and is told how many more pairs are done.

    Raises:
        TokenizerError: the tokenizer cannot make labels.
    """
    return in_memory(TokenizedPairs(PairsInMemory(pairs), tokenizer, room, progress=progress), texts=pairs)


def _tokenize(tokenizer: Any, sources: list[str], targets: list[str], room: Room) -> dict[str, Any]:
    """Tokenize sources and targets in two calls, since one would apply the source's limit to the targets."""
    encoded = tokenizer(sources, truncation=room.source is not None, max_length=room.source, verbose=False)
    return {"input_ids": encoded["input_ids"], "labels": target_ids(tokenizer, targets, room)}


def target_ids(tokenizer: Any, targets: list[str], room: Room) -> list[list[int]]:
    """Tokenize targets alone."""
    limit = {"truncation": room.target is not None, "max_length": room.target, "verbose": False}
    return tokenizer(text_target=targets, **limit)["input_ids"]
