"""Examples written part by part, into memory or into the files of a folder, of which memory maps are then read.

The arrays are the same in both places: flat ids, and where every row starts (`Rows`). So whatever uses examples need
not know where they are.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from conjoin.errors import DataError, warn
from conjoin.texts.columns import WEIGHT
from conjoin.texts.mapped import MappedTexts
from conjoin.texts.pairs import Pairs
from conjoin.training.data.examples import Examples, Rows, extent_of
from conjoin.training.data.lengths import BLOCK

SOURCE, LABELS = "input_ids", "labels"
FILLED = {"attention_mask": 1, "token_type_ids": 0, "decoder_token_type_ids": 0}
"""Values of a column in rows that lack it: forward's defaults. Any other column is in every row or in none."""
SUMMARY_FILE = "examples.json"
Part_co = TypeVar("Part_co", covariant=True)


def owner_of(column: str) -> str:
    """Return the ids that a column is as long as."""
    return LABELS if column == LABELS or column.startswith("decoder_") else SOURCE


class Sink(Protocol):
    """A place for arrays that grow."""

    def append(self, name: str, values: NDArray[Any]) -> None:
        """Add values at the end of an array, of the dtype that its first values have."""
        ...

    def finish(self, unused: Iterable[str]) -> None:
        """Complete the arrays; those that are unused are dropped."""
        ...

    def read(self, name: str) -> NDArray[Any]:
        """Return an array that is complete."""
        ...


class Memory:
    """Arrays in memory."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[Any]]] = {}

    def append(self, name: str, values: NDArray[Any]) -> None:
        """Add values at the end of an array."""
        self._parts.setdefault(name, []).append(values)

    def finish(self, unused: Iterable[str]) -> None:
        """Drop arrays."""
        for name in unused:
            self._parts.pop(name, None)

    def read(self, name: str) -> NDArray[Any]:
        """Return an array."""
        return np.concatenate(self._parts.pop(name))


class Files:
    """Arrays in the files of a folder, each named after its array and dtype."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, tuple[IO[bytes], np.dtype[Any]]] = {}

    def append(self, name: str, values: NDArray[Any]) -> None:
        """Add values at the end of an array.

        Raises:
            OSError: the disk is full, for example.
        """
        if name not in self._files:
            file = open(self._folder / _file_name(name, values.dtype), "wb")  # noqa: SIM115  # `finish` closes it
            self._files[name] = file, values.dtype
        file, dtype = self._files[name]
        file.write(cast(Any, np.ascontiguousarray(values, dtype)))

    def finish(self, unused: Iterable[str]) -> None:
        """Write what is still buffered, and delete files.

        Raises:
            OSError: the disk is full, for example.
        """
        for file, _ in self._files.values():
            file.close()
        for name in unused:
            if name in self._files:
                (self._folder / _file_name(name, self._files.pop(name)[1])).unlink()

    def close(self) -> None:
        """Close the files of a folder that is given up."""
        for file, _ in self._files.values():
            file.close()

    def read(self, name: str) -> NDArray[Any]:
        """Map an array."""
        return map_array(self._folder, name, self._files[name][1])


def _file_name(name: str, dtype: np.dtype[Any]) -> str:
    return f"{name}.{dtype.name}"


def map_array(folder: Path, name: str, dtype: np.dtype[Any] | type) -> NDArray[Any]:
    """Return a file's array as a memory map.

    Raises:
        OSError, ValueError: there is no such file, or it ends within a number.
    """
    path = folder / _file_name(name, np.dtype(dtype))
    if not path.stat().st_size:  # which cannot be mapped
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, "r"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is known of stored examples besides their arrays.

    Args:
        count: Number of pairs.
        ends: Number of all ids, per column.
        extents: The lowest and the highest id, per column.
        columns: Columns besides the sources and the labels.
        cut: Number of pairs that were truncated.
        has_lines, has_weights, has_texts: True if these are stored.
        notes: Warnings about the data, without their name.
    """

    count: int
    ends: dict[str, int]
    extents: dict[str, tuple[int, int]]
    columns: list[str] = field(default_factory=list[str])
    cut: int = 0
    has_lines: bool = False
    has_weights: bool = False
    has_texts: bool = False
    masks_made: bool = True
    digest: str = ""
    notes: list[str] = field(default_factory=list[str])

    def examples(self, name: str, read: Callable[[str, type], NDArray[Any]]) -> Examples:
        """Return the examples whose arrays are read so."""
        starts = {owner: read(f"{owner}.starts", np.int64) for owner in (SOURCE, LABELS)}

        def rows(column: str) -> Rows:
            low, high = self.extents[column]
            return Rows(read(column, np.int32), starts[owner_of(column)], (low, high))

        return Examples(
            rows(SOURCE),
            rows(LABELS),
            name,
            lines=read("lines", np.int64) if self.has_lines else None,
            texts=self._texts(name, read) if self.has_texts else None,
            cut=self.cut,
            columns={column: rows(column) for column in self.columns},
            weights=read(WEIGHT, np.float64) if self.has_weights else None,
            masks_made=self.masks_made,
            digest=self.digest or None,
            measured=read("lengths", np.int32).reshape(-1, 2),
        )

    def _texts(self, name: str, read: Callable[[str, type], NDArray[Any]]) -> Pairs:
        sides = (MappedTexts(read(side, np.uint8), read(f"{side}.starts", np.int64)) for side in ("sources", "targets"))
        return Pairs(name, *sides, lines=read("lines", np.int64))

    def sizes(self) -> dict[str, int]:
        """Return the number of values that arrays have, which tells a file that was damaged."""
        known = {name: self.ends[name] for name in (SOURCE, LABELS, *self.columns)}
        known |= {f"{owner}.starts": self.count + 1 for owner in (SOURCE, LABELS)} | {"lengths": 2 * self.count}
        return known | {name: self.count for name in ("lines", WEIGHT)}


class ExamplesWriter:
    """Joins parts of examples; a column that some parts lack is filled up with forward's default.

    Args:
        keeps_texts: True to store the texts of the pairs too.
    """

    def __init__(self, sink: Sink, name: str, *, keeps_texts: bool = False) -> None:
        self._sink, self._name, self._keeps_texts = sink, name, keeps_texts
        self._count = self._cut = 0
        self._ends: dict[str, int] = {}
        self._extents: dict[str, tuple[int, int]] = {}
        self._is_weighted = self._all_zero = self._has_lines = False
        self._all_one = True
        self._text_ends = {"sources": 0, "targets": 0}

    def add(self, part: Examples) -> None:
        """Add examples at the end."""
        columns = {SOURCE: part.sources, LABELS: part.labels, **part.columns}
        for owner in (SOURCE, LABELS):
            self._append_starts(f"{owner}.starts", columns[owner].starts, self._ends.get(owner, 0))
        self._fill_up(columns)
        for column, rows in columns.items():
            self._append_ids(column, rows.ids)
        self._sink.append("lengths", part.lengths.reshape(-1))
        if part.lines is not None:
            self._has_lines = True
            self._sink.append("lines", np.asarray(part.lines, np.int64))
        if part.weights is not None:
            self._weigh(part.weights)
        if self._keeps_texts and part.texts is not None:
            self._append_texts(part.texts)
        self._count += len(part)
        self._cut += part.cut

    def _append_starts(self, name: str, starts: NDArray[np.int64], end: int) -> None:
        self._sink.append(name, (starts if not self._count else starts[1:]) + end)

    def _append_ids(self, column: str, ids: NDArray[np.int32]) -> None:
        self._sink.append(column, ids)
        self._ends[column] = self._ends.get(column, 0) + len(ids)
        if (extent := extent_of(ids, labels=column == LABELS)) is not None:
            before = self._extents.get(column, extent)
            self._extents[column] = min(extent[0], before[0]), max(extent[1], before[1])

    def _fill_up(self, columns: Mapping[str, Rows]) -> None:
        """Give the default to earlier parts that lack a column of this one, and to this one what it lacks."""
        for column, value in FILLED.items():
            owner = owner_of(column)
            if column in columns and column not in self._ends and self._count:
                for at in range(0, self._ends[owner], BLOCK):  # all earlier parts at once may not fit into memory
                    self._append_ids(column, np.full(min(BLOCK, self._ends[owner] - at), value, np.int32))
            elif column in self._ends and column not in columns:
                self._append_ids(column, np.full(len(columns[owner].ids), value, np.int32))

    def _weigh(self, weights: NDArray[np.float64]) -> None:
        self._sink.append(WEIGHT, weights)
        self._all_zero = not weights.any() and (self._all_zero or not self._is_weighted)
        self._all_one = self._all_one and bool((weights == 1).all())
        self._is_weighted = True

    def _append_texts(self, texts: Pairs) -> None:
        for side, own in (("sources", texts.sources), ("targets", texts.targets)):
            encoded = [text.encode() for text in own]
            sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
            starts = np.concatenate((np.zeros(1, np.int64), sizes.cumsum()))
            self._append_starts(f"{side}.starts", starts, self._text_ends[side])
            self._sink.append(side, np.frombuffer(b"".join(encoded), np.uint8))
            self._text_ends[side] += int(starts[-1])

    def summary(self, notes: Iterable[str] = ()) -> Summary:
        """Complete the arrays.

        Raises:
            DataError: there are no examples, or every weight is 0.
        """
        if not self._count:
            raise DataError(f"{self._name} is empty; expected at least one pair.")
        if self._is_weighted and self._all_zero:
            raise DataError(f"{self._name}: every {WEIGHT} is 0; nothing would be learnt.")
        given = [column for column in self._ends if column not in (SOURCE, LABELS)]
        used = [column for column in given if self._extents.get(column) != _extent_of_default(column)]
        weighted = self._is_weighted and not self._all_one
        self._sink.finish([*(column for column in given if column not in used), *([] if weighted else [WEIGHT])])
        return Summary(
            count=self._count,
            ends={column: self._ends[column] for column in (SOURCE, LABELS, *used)},
            extents={column: self._extents.get(column, (0, 0)) for column in (SOURCE, LABELS, *used)},
            columns=used,
            cut=self._cut,
            has_lines=self._has_lines,
            has_weights=weighted,
            has_texts=self._keeps_texts and self._text_ends["sources"] > 0,
            masks_made=not {"decoder_input_ids", "decoder_attention_mask"} & set(given),
            notes=list(notes),
        )


def _extent_of_default(column: str) -> tuple[int, int] | None:
    """Return the extent of a column that says what forward assumes anyway; None if there is no such value."""
    if column.endswith("attention_mask"):
        return 1, 1
    return (0, 0) if column in FILLED else None


class Parts(Protocol[Part_co]):
    """Examples, or pairs of texts, that are read part by part.

    Attributes:
        name: Name of the data in messages.
        notes: Warnings about the data, without their name, once all are read.
    """

    name: str
    notes: list[str]

    def __iter__(self) -> Iterator[Part_co]:
        """Yield parts in memory."""
        ...


def in_memory(parts: Parts[Examples], texts: Pairs | None = None) -> Examples:
    """Read all parts into memory, and give the warnings about them.

    Args:
        texts: The pairs that the parts are made of, if they are in memory.
    """
    sink = Memory()
    summary = write_parts(parts, sink)
    warn_of(summary, parts.name)
    return replace(summary.examples(parts.name, lambda name, _: sink.read(name)), texts=texts)


def warn_of(summary: Summary, name: str) -> None:
    """Give the warnings about examples."""
    for note in summary.notes:
        warn(f"{name}: {note}")


def write_parts(parts: Parts[Examples], sink: Sink, *, keeps_texts: bool = False) -> Summary:
    """Write all parts."""
    writer = ExamplesWriter(sink, parts.name, keeps_texts=keeps_texts)
    for part in parts:
        writer.add(part)
    return writer.summary(parts.notes)


def write_folder(parts: Parts[Examples], folder: Path, *, keeps_texts: bool) -> None:
    """Write all parts into the files of a folder; the last file written is the summary.

    Raises:
        OSError: the disk is full, for example.
    """
    files = Files(folder)
    try:
        summary = write_parts(parts, files, keeps_texts=keeps_texts)
    finally:
        files.close()
    digest = summary.examples(parts.name, lambda name, _: files.read(name)).fingerprint()
    (folder / SUMMARY_FILE).write_text(json.dumps({**asdict(summary), "digest": digest}))


def read_folder(folder: Path, name: str) -> tuple[Examples, Summary] | None:
    """Map the examples of a folder; None if there are none, or they are damaged."""
    try:
        values: Any = json.loads((folder / SUMMARY_FILE).read_text())
        summary = Summary(**{each.name: values[each.name] for each in fields(Summary)})
        arrays: dict[str, NDArray[Any]] = {}

        def read(array: str, dtype: type) -> NDArray[Any]:
            return arrays.setdefault(array, map_array(folder, array, dtype))

        examples = summary.examples(name, read)
        sizes = summary.sizes()
    except (OSError, ValueError, TypeError, KeyError):
        return None
    is_whole = all(len(values) == sizes.get(array, len(values)) for array, values in arrays.items())
    return (examples, summary) if is_whole else None
