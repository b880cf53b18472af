"""Tokenized pairs in two flat arrays: a million pairs take the memory of their ids and nothing else."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from conjoin.texts.pairs import Pairs
from conjoin.tokenizer import Tokenizer, TokenizerPair

CHUNK = 1000
"""Texts tokenized in one call: enough for all threads of the tokenizer, few enough to show progress."""
IGNORED = -100
"""Label of a position that does not count, in every backend's loss."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of ids of different lengths.

    Args:
        ids: The ids of all rows, one after another.
        starts: Index at which each row starts, then the end of the last row.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Self:
        """Join lists of ids."""
        lists = list(rows)
        return cls.joined(np.fromiter(chain.from_iterable(lists), np.int32), lists)

    @classmethod
    def joined(cls, ids: NDArray[Any], rows: Sequence[Sequence[int] | NDArray[Any]]) -> Self:
        """Build rows from concatenated ids and the separate rows, whose lengths are read."""
        sizes = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        return cls(ids.astype(np.int32, copy=False), np.concatenate((np.zeros(1, np.int64), sizes.cumsum())))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Concatenate several `Rows`."""
        sizes = np.concatenate([part.lengths for part in parts])
        return cls(
            np.concatenate([part.ids for part in parts]), np.concatenate((np.zeros(1, np.int64), sizes.cumsum()))
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of ids in every row."""
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.ids[self.starts[row] : self.starts[row + 1]]

    def take(self, rows: Iterable[int]) -> "Rows":
        """Return the rows with these indices, in their order."""
        arrays = [self[row] for row in rows]
        return Rows.joined(np.concatenate(arrays) if arrays else self.ids[:0], arrays)


@dataclass(frozen=True, slots=True)
class Examples:
    """Pairs ready to be put into batches.

    Args:
        labels: Tokens that the decoder must predict, the end token included; -100 where nothing is learnt.
        lines: Line number of every pair in its file, for messages; None without a file.
        texts: The pairs before tokenization, which samples show; None if the rows came tokenized.
        cut: Number of pairs that were truncated.
        columns: Other arguments of forward by name: masks with holes, token types, the user's decoder inputs.
            Each is as long as the sources, or as the labels if its name begins with "decoder_".
        weights: How many times each pair's labels count in the loss; None if all count once.
        masks_made: True if forward masks the decoder inputs whose label is -100, because the user gave neither
            decoder inputs nor a mask.
    """

    sources: Rows
    labels: Rows
    name: str = "the data"
    lines: Sequence[int] | None = None
    texts: Pairs | None = None
    cut: int = 0
    columns: Mapping[str, Rows] = field(default_factory=dict[str, Rows])
    weights: NDArray[np.float64] | None = None
    masks_made: bool = True

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of source ids and of labels of every pair, [n, 2]."""
        return np.stack((self.sources.lengths, self.labels.lengths), 1)

    def counted(self, rows: Iterable[int]) -> int | float:
        """Return the weighted number of labels in these rows that are not ignored."""
        counts = ((row, int(np.count_nonzero(self.labels[row] != IGNORED))) for row in rows)
        if self.weights is None:
            return sum(count for _, count in counts)
        return float(sum(count * self.weights[row] for row, count in counts))

    def column_names(self, *, target: bool) -> list[str]:
        """Return the columns that belong to the labels, or to the sources."""
        return [name for name in self.columns if name.startswith("decoder_") == target]

    def exchanged(self, most: int) -> tuple["Examples", "Examples"]:
        """Return the first pairs, and the same labels combined with the sources of other pairs."""
        count = min(most, len(self))
        indices, shifted = list(range(count)), np.roll(np.arange(count), count // 2).tolist()
        return self._recombined(indices, indices), self._recombined(shifted, indices)

    def _recombined(self, sources: list[int], targets: list[int]) -> "Examples":
        """Return examples that pair these sources with these targets."""
        columns = {name: self.columns[name].take(sources) for name in self.column_names(target=False)}
        columns |= {name: self.columns[name].take(targets) for name in self.column_names(target=True)}
        return Examples(
            self.sources.take(sources),
            self.labels.take(targets),
            columns=columns,
            weights=None if self.weights is None else self.weights[targets],
            masks_made=self.masks_made,
        )

    def fingerprint(self) -> str:
        """Return a hash of all ids and weights, which a resumed run compares."""
        digest = hashlib.sha256()
        for rows in (self.sources, self.labels):
            digest.update(rows.starts.tobytes())
            digest.update(rows.ids.tobytes())
        for name in sorted(self.columns):
            digest.update(name.encode())
            digest.update(self.columns[name].ids.tobytes())
        if self.weights is not None:
            digest.update(self.weights.tobytes())
        if not self.masks_made:
            digest.update(b"masks given")
        return digest.hexdigest()[:16]

    def where(self, rows: Iterable[int]) -> str:
        """Describe rows for a message, by line or row number."""
        numbers = sorted(self.lines[row] if self.lines is not None else row + 1 for row in rows)
        shown = ", ".join(map(str, numbers[:8])) + (" ..." if len(numbers) > 8 else "")
        unit = "row" if self.lines is None else "line"
        return f"{self.name}, {unit}{'' if len(numbers) == 1 else 's'} {shown}"


@dataclass(frozen=True, slots=True)
class Room:
    """Longest source and target, special tokens included; None if nothing limits them."""

    source: int | None
    target: int | None


def tokenize_pairs(pairs: Pairs, tokenizer: Tokenizer | TokenizerPair, room: Room, progress: Any = iter) -> Examples:
    """Tokenize all pairs once.

    Args:
        progress: Wraps the iterator over chunks, to show progress.

    Raises:
        TokenizerError: the tokenizer cannot make labels.
    """
    parts: list[tuple[Rows, Rows]] = []
    for start in progress(range(0, len(pairs), CHUNK)):
        chunk = slice(start, start + CHUNK)
        encoded = _tokenize(tokenizer, pairs.sources[chunk], pairs.targets[chunk], room)
        parts.append((Rows.of(encoded["input_ids"]), Rows.of(encoded["labels"])))
    sources, labels = Rows.join([s for s, _ in parts]), Rows.join([t for _, t in parts])
    full = np.zeros(len(sources), bool)
    for rows, limit in ((sources, room.source), (labels, room.target)):
        full |= rows.lengths >= limit if limit is not None else False
    return Examples(sources, labels, pairs.name, pairs.lines, pairs, int(full.sum()), weights=pairs.weights)


def _tokenize(tokenizer: Any, sources: list[str], targets: list[str], room: Room) -> dict[str, Any]:
    """Tokenize sources and targets in two calls, since one would apply the source's limit to the targets."""
    encoded = tokenizer(sources, truncation=room.source is not None, max_length=room.source, verbose=False)
    limit = {"truncation": room.target is not None, "max_length": room.target, "verbose": False}
    return {"input_ids": encoded["input_ids"], "labels": tokenizer(text_target=targets, **limit)["input_ids"]}
