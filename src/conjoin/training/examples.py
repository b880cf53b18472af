"""Tokenized pairs, held in two flat arrays: a million pairs cost their ids and nothing else."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from conjoin.errors import DataError
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.reading import Pairs

CHUNK = 1000
"""Texts tokenized at once: enough for all threads of the tokenizer, few enough to show progress."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of ids of different lengths.

    Args:
        ids: All of them, one after another.
        starts: Where each begins, and the end of the last.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Self:
        """Join lists of ids."""
        kept = list(rows)
        sizes = np.fromiter((len(row) for row in kept), np.int64, len(kept))
        starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
        ids = np.fromiter(chain.from_iterable(kept), np.int32, int(starts[-1]))
        return cls(ids, starts)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """One after another."""
        sizes = np.concatenate([part.lengths for part in parts])
        return cls(
            np.concatenate([part.ids for part in parts]), np.concatenate((np.zeros(1, np.int64), sizes.cumsum()))
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Ids per row."""
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.ids[self.starts[row] : self.starts[row + 1]]

    def take(self, rows: Iterable[int]) -> "Rows":
        """Some of them, in this order."""
        return Rows.of(self[row].tolist() for row in rows)


@dataclass(frozen=True, slots=True)
class Examples:
    """Pairs ready to be put into batches.

    Args:
        labels: What the decoder must say, its end included.
        lines: Where each stands in the file it came from, for messages; None if they came without one.
        texts: The pairs they were made of, where there are some: samples show them.
        cut: How many were shortened.
    """

    sources: Rows
    labels: Rows
    name: str = "the data"
    lines: Sequence[int] | None = None
    texts: Pairs | None = None
    cut: int = 0

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[n, 2]: ids of source and labels."""
        return np.stack((self.sources.lengths, self.labels.lengths), 1)

    def exchanged(self, most: int) -> tuple["Examples", "Examples"]:
        """The first pairs, and their labels with the sources of other pairs among them."""
        count = min(most, len(self))
        labels, order = self.labels.take(range(count)), np.roll(np.arange(count), count // 2).tolist()
        return Examples(self.sources.take(range(count)), labels), Examples(self.sources.take(order), labels)

    def fingerprint(self) -> str:
        """Changes with any id; a resumed run compares it."""
        digest = hashlib.sha256()
        for rows in (self.sources, self.labels):
            digest.update(rows.starts.tobytes())
            digest.update(rows.ids.tobytes())
        return digest.hexdigest()[:16]

    def where(self, rows: Iterable[int]) -> str:
        """How a message names some of them."""
        numbers = sorted(self.lines[row] if self.lines is not None else row + 1 for row in rows)
        shown = ", ".join(map(str, numbers[:8])) + (" ..." if len(numbers) > 8 else "")
        return f"{self.name}, line {shown}" if len(numbers) == 1 else f"{self.name}, lines {shown}"


@dataclass(frozen=True, slots=True)
class Room:
    """Longest source and target, ends included; None where nothing limits them."""

    source: int | None
    target: int | None


def tokenize_pairs(pairs: Pairs, tokenizer: Tokenizer | TokenizerPair, room: Room, progress: Any = iter) -> Examples:
    """Tokenize all pairs once.

    Args:
        progress: Wraps the iterator over chunks, to show how far it is.

    Raises:
        TokenizerError: the tokenizer cannot make labels.
    """
    parts: list[tuple[Rows, Rows]] = []
    for start in progress(range(0, len(pairs), CHUNK)):
        chunk = slice(start, start + CHUNK)
        made = _tokenize(tokenizer, pairs.sources[chunk], pairs.targets[chunk], room)
        parts.append((Rows.of(made["input_ids"]), Rows.of(made["labels"])))
    sources, labels = Rows.join([s for s, _ in parts]), Rows.join([t for _, t in parts])
    full = np.zeros(len(sources), bool)
    for rows, limit in ((sources, room.source), (labels, room.target)):
        full |= rows.lengths >= limit if limit is not None else False
    return Examples(sources, labels, pairs.name, pairs.lines, pairs, int(full.sum()))


def _tokenize(tokenizer: Any, sources: list[str], targets: list[str], room: Room) -> dict[str, Any]:
    """Source and target are limited apart: one call for both would pass the source's limit on to the target."""
    read = tokenizer(sources, truncation=room.source is not None, max_length=room.source, verbose=False)
    wish = {"truncation": room.target is not None, "max_length": room.target, "verbose": False}
    return {"input_ids": read["input_ids"], "labels": tokenizer(text_target=targets, **wish)["input_ids"]}


def from_ids(rows: Iterable[Any], name: str) -> Examples:
    """Examples from rows that are tokenized already: mappings with `input_ids` and `labels`.

    Labels of -100 at the end are padding and left out; pads of the source go by its attention_mask.

    Raises:
        DataError: a row has no ids or no counted label.
    """
    sources: list[list[int]] = []
    labels: list[list[int]] = []
    for number, row in enumerate(rows, 1):
        ids, mask = _ids(row["input_ids"]), _ids(row["attention_mask"]) if "attention_mask" in row else None
        ids = ids if mask is None else [token for token, real in zip(ids, mask, strict=True) if real]
        kept = [token for token in _ids(row["labels"]) if token != -100]
        if not ids or not kept:
            raise DataError(f"{name}, row {number}: {'labels are' if ids else 'input_ids are'} empty.")
        sources.append(ids)
        labels.append(kept)
    if not sources:
        raise DataError(f"{name} is empty; expected at least one pair.")
    return Examples(Rows.of(sources), Rows.of(labels), name)


def _ids(value: Any) -> list[int]:
    return value.tolist() if hasattr(value, "tolist") else list(value)
