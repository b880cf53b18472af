"""Tokenized pairs in two flat arrays: a million pairs take the memory of their ids and nothing else."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from conjoin.texts.pairs import Pairs
from conjoin.training.data.batching import Batch
from conjoin.training.data.lengths import BLOCK, Lengths, blocks

IGNORED = -100
"""Label of a position that does not count, in every backend's loss."""
Read = Callable[[Iterable[int]], Mapping[str, Any]]
"""Numbers of rows -> what the encoder reads of them, [B, ...] each, by the names of forward's arguments."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of ids of different lengths.

    Args:
        ids: The ids of all rows, one after another.
        starts: Index at which each row starts, then the end of the last row.
        extent: The lowest and the highest id, of labels without -100; None if it is not known yet.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    extent: tuple[int, int] | None = None

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

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of ids in every row."""
        return np.diff(self.starts)

    def sizes(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """Return the number of ids in these rows."""
        at = np.asarray(rows, np.int64)
        return self.starts[at + 1] - self.starts[at]

    def range(self, *, labels: bool = False) -> tuple[int, int]:
        """Return the lowest and the highest id, of labels without -100; zeros without ids."""
        return (extent_of(self.ids, labels=labels) or (0, 0)) if self.extent is None else self.extent

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.ids[self.starts[row] : self.starts[row + 1]]

    def take(self, rows: Iterable[int]) -> "Rows":
        """Return the rows with these indices, in their order."""
        arrays = [self[row] for row in rows]
        return Rows.joined(np.concatenate(arrays) if arrays else self.ids[:0], arrays)


def extent_of(ids: NDArray[np.int32], *, labels: bool = False) -> tuple[int, int] | None:
    """Return the lowest and the highest id; labels of -100 are left out; None without ids."""
    counted = (part[part != IGNORED] if labels else part for part in blocks(ids))
    extents = [(int(part.min()), int(part.max())) for part in counted if len(part)]
    return (min(low for low, _ in extents), max(high for _, high in extents)) if extents else None


@dataclass(frozen=True)
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
        digest, measured: `fingerprint()` and `lengths`, if they are known already.
        read: Reads the sources of a batch, where they are arrays; each row of `sources` is the number of its row then.
    """

    sources: Rows
    labels: Rows
    name: str = "the data"
    lines: Sequence[int] | NDArray[np.int64] | None = None
    texts: Pairs | None = None
    cut: int = 0
    columns: Mapping[str, Rows] = field(default_factory=dict[str, Rows])
    weights: NDArray[np.float64] | None = None
    masks_made: bool = True
    digest: str | None = None
    measured: Lengths | None = None
    read: Read | None = None

    def __len__(self) -> int:
        return len(self.sources)

    @cached_property
    def lengths(self) -> Lengths:
        """Number of source ids and of labels of every pair, [n, 2]."""
        if self.measured is not None:
            return self.measured
        lengths = np.empty((len(self), 2), np.int32)
        for side, rows in enumerate((self.sources, self.labels)):
            for at in range(0, len(self), BLOCK):
                lengths[at : at + BLOCK, side] = np.diff(rows.starts[at : at + BLOCK + 1])
        return lengths

    @property
    def longest_target(self) -> int:
        """Number of labels of the longest target."""
        starts = self.labels.starts
        return max((int(np.diff(starts[at : at + BLOCK + 1]).max()) for at in range(0, len(self), BLOCK)), default=0)

    def drawn(self, epoch: int, batches: Sequence[Batch]) -> tuple["Examples", list[Batch]]:
        """Return the examples of batches of an epoch, and the batches with their numbers among these."""
        return self, list(batches)

    def beginning(self, most: int) -> "Examples":
        """Return at least this many of the first examples, if there are so many."""
        return self

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

    def spread(self, most: int) -> "Examples":
        """Return at most so many pairs, spread over all of them."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(int)).tolist()
        return self._recombined(rows, rows)

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
            read=self.read,
        )

    def fingerprint(self) -> str:
        """Return a hash of all ids and weights, which a resumed run compares."""
        if self.digest is not None:
            return self.digest
        digest = hashlib.sha256()
        for rows in (self.sources, self.labels):
            digest.update(_bytes_of(rows.starts))
            digest.update(_bytes_of(rows.ids))
        for name in sorted(self.columns):
            digest.update(name.encode())
            digest.update(_bytes_of(self.columns[name].ids))
        if self.weights is not None:
            digest.update(_bytes_of(self.weights))
        if not self.masks_made:
            digest.update(b"masks given")
        return digest.hexdigest()[:16]

    def where(self, rows: Iterable[int]) -> str:
        """Describe rows for a message, by line or row number."""
        numbers = (int(self.lines[row]) if self.lines is not None else self._number(row) + 1 for row in rows)
        return place_of(self.name, "row" if self.lines is None else "line", numbers)

    def _number(self, row: int) -> int:
        """Return the number of a row in the data that it was read from."""
        return row if self.read is None else int(self.sources[row][0])


def place_of(name: str, unit: str, numbers: Iterable[int]) -> str:
    """Describe a place in data for a message: its numbers, in order, as far as they fit."""
    ordered = sorted(numbers)
    shown = ", ".join(map(str, ordered[:8])) + (" ..." if len(ordered) > 8 else "")
    return f"{name}, {unit}{'' if len(ordered) == 1 else 's'} {shown}"


def _bytes_of(values: NDArray[Any]) -> memoryview:
    """Return the bytes of an array, not copied."""
    return memoryview(cast(Any, np.ascontiguousarray(values)))
