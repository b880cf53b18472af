"""Rows whose sources are arrays, such as pictures: the caller's data set computes them when a step asks for them.

Targets are few ids and stay in memory, so that all that counts, weighs, exchanges and shows pairs of texts works on
them as it is; only what the encoder reads is an array.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from conjoin.errors import DataError, quoted, warn
from conjoin.texts.columns import WEIGHT, weight_of
from conjoin.texts.pairs import Pairs
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.data.batching import Batch, renumbered
from conjoin.training.data.corpus import Corpus
from conjoin.training.data.datasets import Making, check_vocabulary, require_tokenizer, room_of
from conjoin.training.data.examples import IGNORED, Examples, Read, Rows, place_of
from conjoin.training.data.lengths import Lengths
from conjoin.training.data.store import LABELS
from conjoin.training.data.tokenized import BESIDE_LABELS
from conjoin.training.data.tokenizing import target_ids
from conjoin.training.terminal import track


@dataclass(frozen=True, slots=True, kw_only=True)
class Collation:
    """How rows become a batch.

    Args:
        input: What the encoder reads; every batch must have it.
        collate: Makes arguments of forward of rows, `labels` [B, T] among them.
        is_callers: True if that is a function of the caller's, whose rows may have any columns.
    """

    input: str
    collate: Callable[[list[Any]], Mapping[str, Any]]
    is_callers: bool


@dataclass(frozen=True, slots=True)
class _Part:
    """A batch as it was collated.

    Args:
        numbers: Those of its rows.
        sources: What the encoder reads, [B, ...] each.
        targets: Labels, and decoder inputs and masks if it has them: one array per row, without padding.
    """

    numbers: tuple[int, ...]
    sources: Mapping[str, Any]
    targets: Mapping[str, list[NDArray[Any]]]
    weights: list[float | None]


class InputRows:
    """Rows of a map-style data set; the trainer uses them as it uses examples.

    Every batch of a step is computed once, when the step begins, in the order of the run. A data set that draws random
    numbers, to augment pictures, draws them from the generators that checkpoints keep.

    Raises:
        DataError: the data set, or its first row, cannot be used.
    """

    def __init__(self, rows: Any, name: str, making: Making, collation: Collation) -> None:
        self.name = name
        self._rows, self._making, self._collation = rows, making, collation
        self._tokenizer = _with_ends(making.tokenizer)
        self._require_rows()
        self.drawn(0, [[[0]]])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def lengths(self) -> Lengths:
        """Zeros, [n, 2]: nobody knows before the rows are computed."""
        return np.broadcast_to(np.zeros(1, np.int32), (len(self), 2))

    def fingerprint(self) -> str:
        """Return the number of rows: what they hold may differ each time, as that of augmented pictures does."""
        return f"{len(self)} rows"

    def where(self, rows: Iterable[int]) -> str:
        """Describe rows for a message."""
        return place_of(self.name, "row", (row + 1 for row in rows))

    def drawn(self, epoch: int, batches: Sequence[Batch]) -> tuple[Examples, list[Batch]]:
        """Compute batches; return them as examples, and the batches with their numbers among these."""
        parts = [self._part([index for row in batch for index in row]) for batch in batches]
        sources = {part.numbers: part.sources for part in parts}
        return self._examples(parts, lambda numbers: sources[tuple(numbers)]), renumbered(batches)

    def beginning(self, most: int) -> Examples:
        """Return the first rows: their targets are in memory, their sources are computed whenever they are read."""
        numbers, size = range(min(most, len(self))), self._making.arguments.per_device_eval_batch_size
        starts = track(numbers[::size], f"reading {self.name}", shown=self._making.shown)
        parts = [replace(self._part(numbers[at : at + size]), sources={}) for at in starts]
        return self._examples(parts, lambda numbers: self._part(tuple(numbers)).sources)

    def _examples(self, parts: list[_Part], read: Read) -> Examples:
        columns = {name: _joined(parts, name) for name in parts[0].targets}
        labels, weights = columns.pop(LABELS), [weight for part in parts for weight in part.weights]
        examples = Examples(
            Rows.of([[number] for part in parts for number in part.numbers]),
            labels,
            self.name,
            columns=columns,
            weights=None if set(weights) == {None} else np.array([1.0 if each is None else each for each in weights]),
            masks_made=not columns,
            measured=np.stack((np.zeros(len(labels), np.int32), labels.lengths.astype(np.int32)), 1),
            read=read,
        )
        check_vocabulary(examples, self._making.pair)
        return examples

    def _part(self, numbers: Sequence[int]) -> _Part:
        """Compute rows, and collate them."""
        fetch: Any = getattr(self._rows, "__getitems__", None)  # as torch's DataLoader asks
        rows = fetch(list(numbers)) if fetch is not None else [self._rows[number] for number in numbers]
        labelled = [self._labelled(number, row) for number, row in zip(numbers, rows, strict=True)]
        weights = [self._weight(number, row.pop(WEIGHT, None)) for number, row in zip(numbers, labelled, strict=True)]
        collated = dict(self._collation.collate(labelled))
        targets = {name: collated.pop(name) for name in (LABELS, *BESIDE_LABELS) if name in collated}
        self._check_sources(collated)
        return _Part(tuple(numbers), collated, self._unpadded(numbers, targets), weights)

    def _labelled(self, number: int, row: Any) -> dict[str, Any]:
        """Return a row whose target text, if it has one, has become labels."""
        if not hasattr(row, "keys"):
            raise DataError(f"{self.where([number])} is a {type(row).__name__}; expected a mapping of columns.")
        values = {name: row[name] for name in row.keys()}  # noqa: SIM118  (BatchFeature)
        column = self._making.arguments.target_column
        if LABELS not in values and isinstance(text := values.get(column), str):
            if self._tokenizer is None:
                require_tokenizer(self.name, self._making)
            room = room_of(self._making.arguments, self._making.pair)
            values[LABELS] = target_ids(self._tokenizer, [text], room)[0]
        needed = [] if self._collation.is_callers else [self._collation.input, LABELS]
        if lacking := [name for name in needed if name not in values]:
            raise DataError(
                f"{self.where([number])} has no {' and no '.join(lacking)}; it has {quoted(values) or 'nothing'}. "
                f"Expected {self._collation.input}, and {LABELS} or a text as {column!r}.",
                hint="encoder_input= names the model's input, target_column the texts; or give a data_collator.",
            )
        return values

    def _weight(self, number: int, value: Any) -> float | None:
        weight = weight_of(value)
        if isinstance(weight, str):
            raise DataError(f"{self.where([number])}: {weight}")
        return weight

    def _check_sources(self, collated: Mapping[str, Any]) -> None:
        """Refuse a batch without the encoder's input, or with something else than arrays."""
        if self._collation.input not in collated:
            raise DataError(
                f"{self.name}: data_collator returns no {self._collation.input}, but {quoted(collated) or 'nothing'}."
            )
        if others := [name for name, value in collated.items() if not hasattr(value, "shape")]:
            raise DataError(f"{self.name}: data_collator returns {quoted(others)}; expected tensors alone.")

    def _unpadded(self, numbers: Sequence[int], targets: Mapping[str, Any]) -> dict[str, list[NDArray[Any]]]:
        """Return every row of the targets up to its last label that counts."""
        arrays = {name: _array(value) for name, value in targets.items()}
        labels = arrays.get(LABELS)
        if labels is None or labels.ndim != 2 or len(labels) != len(numbers) or labels.dtype.kind not in "iu":
            kind = "none" if labels is None else f"{labels.dtype} of shape {labels.shape}"
            raise DataError(f"{self.name}: the labels of a batch are {kind}; expected ids, ({len(numbers)}, length).")
        counted = labels != IGNORED
        if not counted.any(1).all():
            empty = [number for number, row in zip(numbers, counted, strict=True) if not row.any()]
            raise DataError(f"{self.where(empty)}: labels are empty: no label counts.")
        ends = labels.shape[1] - counted[:, ::-1].argmax(1)
        return {name: [row[:end] for row, end in zip(array, ends, strict=True)] for name, array in arrays.items()}

    def _require_rows(self) -> None:
        """Refuse what is no map-style data set, and warn of columns that nothing reads."""
        rows, expected = self._rows, f"rows with {self._collation.input} and {LABELS}"
        is_map = hasattr(rows, "__len__") and hasattr(rows, "__getitem__")
        if not is_map or isinstance(rows, str | bytes | Mapping | Pairs | Examples):
            kind = type(cast("object", rows)).__name__
            raise DataError(
                f"{self.name}: a {kind}, but the model's encoder, a {self._making.pair.encoder.family}, "
                f"reads {self._collation.input}. Expected a map-style data set, such as a list, of {expected}.",
                hint="anything that has len() and [number]; docs/vision.md has an example.",
            )
        if not len(rows):
            raise DataError(f"{self.name} is empty; expected {expected}.")
        first = self._rows[0]
        read = {self._collation.input, LABELS, WEIGHT, self._making.arguments.target_column}
        unread = sorted(map(str, set(first.keys()) - read)) if hasattr(first, "keys") else []
        if unread and not self._collation.is_callers:
            warn(f"{self.name}: nothing reads the columns {quoted(unread)}. A data_collator of your own may.")


TrainingData = Examples | Corpus | InputRows
"""What a run draws its steps from: examples, or what becomes examples when a step needs it."""


def _joined(parts: list[_Part], name: str) -> Rows:
    rows = [row for part in parts for row in part.targets[name]]
    return Rows.joined(np.concatenate(rows), rows)


def _array(value: Any) -> NDArray[Any]:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _with_ends(tokenizer: Tokenizer | TokenizerPair | None) -> TokenizerPair | None:
    """Return a tokenizer of targets whose labels end in its end token, as those of pairs of texts do."""
    if tokenizer is None or isinstance(tokenizer, TokenizerPair):
        return tokenizer
    return TokenizerPair(tokenizer, tokenizer, target_eos=tokenizer.end_token_id is not None)
