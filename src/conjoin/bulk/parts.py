"""The parts that shards write, and merging them: `OUT.1-of-4` to `OUT.4-of-4` become `OUT`.

A part has one line of JSON that describes the run, a line for every result in order, and a last line that says how many
sources the input has. So any format can be made of parts, and none that lacks a result is taken for whole.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from conjoin.bulk.journal import Write, differences
from conjoin.bulk.journal_lines import Result, parse_line
from conjoin.bulk.outputs import OutputFile
from conjoin.bulk.shards import Shard
from conjoin.checkpoint import replacing_bytes
from conjoin.errors import DataError, FileError, listing
from conjoin.texts.parquet import require_pyarrow
from conjoin.texts.writing import sync

_MARK = "part"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trailer:
    """The last line of a part.

    Args:
        sources: Number of sources of the whole input.
        input: Hash of all of them.
        failed: Number of the part's sources that failed.
        columns: Columns that a table of results has in any case.
        schema: Arrow schema of the input in base64; None if it was not Parquet.
    """

    sources: int
    input: str
    failed: int
    columns: Sequence[str]
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A part on the disk, whose ends have been read.

    Args:
        run: What describes the run.
    """

    path: Path
    shard: Shard
    run: Mapping[str, Any]
    trailer: Trailer

    @classmethod
    def open(cls, path: Path, shard: Shard) -> "Part":
        """Read the ends of a part.

        Raises:
            FileError: it is none, or damaged.
        """
        with _reading(path) as file:
            first = last = file.readline()
            number = 1
            for number, line in enumerate(file, 2):  # noqa: B007  # the last one is used
                last = line
        run = parse_line(path, 1, first)
        if run.pop("conjoin", None) != _MARK or run.pop("shard", None) != str(shard):
            raise FileError(f"{path} is no part that conjoin generate --shard {shard} wrote.")
        values = parse_line(path, number, last).get("trailer")
        try:
            trailer = Trailer(**cast("dict[str, Any]", values))
            if type(trailer.sources) is not int or type(trailer.failed) is not int:
                raise TypeError
        except TypeError:
            raise FileError(f"{path} has no last line: it was cut short.", hint="run this shard again.") from None
        return cls(path, shard, run, trailer)

    def results(self) -> Iterator[Result]:
        """Yield the results in order.

        Raises:
            FileError: one is missing or damaged.
        """
        size = self.shard.size(self.trailer.sources)
        with _reading(self.path) as file:
            file.readline()
            for at in range(size):
                result = Result.of(self.path, at + 2, parse_line(self.path, at + 2, file.readline()))
                if result.index != self.shard.index(at):
                    raise FileError(f"{self.path}, line {at + 2}: expected source {self.shard.index(at) + 1}.")
                yield result


def _reading(path: Path) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}.") from None


def part_writer(path: Path, shard: Shard, run: Mapping[str, Any], trailer: Callable[[], Trailer]) -> Write:
    """Return what writes a part, for `Journal.finish`."""

    def write(results: Callable[[], Iterator[Result]]) -> None:
        head = {"conjoin": _MARK, "shard": str(shard), **run}
        with replacing_bytes(path) as file:
            file.write(_line(head))
            file.writelines(f"{result.line()}\n".encode() for result in results())
            file.write(_line({"trailer": asdict(trailer())}))
            sync(file)

    return write


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


def merge(output: OutputFile) -> tuple[int, int]:
    """Write the results of all parts of an output into it, in the order of the input.

    Returns:
        The number of results, and the number of sources among them that failed.

    Raises:
        FileError: parts are missing, unfinished, damaged, or of different runs.
        DataError: they are of different inputs.
    """
    parts = find_parts(output.path)
    trailer = parts[0].trailer

    def rows() -> Iterator[Mapping[str, Any]]:
        readers = [part.results() for part in parts]
        for index in range(trailer.sources):
            yield next(readers[index % len(readers)]).output

    columns = list(dict.fromkeys(name for part in parts for name in part.trailer.columns))
    output.write(rows, always=columns, schema=schema_from(trailer.schema))
    return trailer.sources, sum(part.trailer.failed for part in parts)


def find_parts(output: Path) -> list[Part]:
    """Return the parts of an output, in order, after checking that they are all there and belong together.

    Raises:
        FileError, DataError: as `merge`.
    """
    found = _named(output)
    counts = sorted({shard.count for shard in found})
    if not counts:
        raise FileError(f"There are no parts of {output}.", hint="conjoin generate --shard i/n -o OUT writes them.")
    if len(counts) > 1:
        ways = ", ".join(map(str, counts))
        raise FileError(f"{output} has parts of runs in {ways} shards.", hint="remove the parts of the other runs.")
    shards = [Shard(number, counts[0]) for number in range(1, counts[0] + 1)]
    if missing := [shard for shard in shards if shard not in found]:
        raise FileError(
            f"{len(missing)} of {counts[0]} shards of {output} are not finished:\n"
            + listing([_unfinished(output, shard) for shard in missing]),
            hint="run them, or run them again; then merge.",
        )
    parts = [Part.open(found[shard], shard) for shard in shards]
    for part in parts[1:]:
        if changed := differences(parts[0].run, part.run):
            raise FileError(f"{parts[0].path} and {part.path} are of different runs:\n{listing(changed)}")
        one, other = parts[0].trailer, part.trailer
        if (one.sources, one.input) != (other.sources, other.input):
            raise DataError(
                f"{parts[0].path} and {part.path} are of different inputs: of {one.sources:,} and {other.sources:,} "
                "sources."
            )
    return parts


def _named(output: Path) -> dict[Shard, Path]:
    """Return the files beside an output that have the name of a part."""
    pattern = re.compile(re.escape(output.name) + r"\.([1-9]\d*)-of-([1-9]\d*)")
    matches = [(pattern.fullmatch(path.name), path) for path in sorted(output.parent.glob("*-of-*"))]
    return {Shard(int(match[1]), int(match[2])): path for match, path in matches if match is not None}


def _unfinished(output: Path, shard: Shard) -> str:
    path = shard.part(output)
    partial = path.with_name(f"{path.name}.partial")
    return f"{shard}: {partial} is a run that was cut off" if partial.exists() else f"{shard}: there is no {path.name}"


def schema_text(schema: Any) -> str | None:
    """Return an Arrow schema as text."""
    return None if schema is None else base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")


def schema_from(text: str | None) -> Any:
    """Return the Arrow schema of a text."""
    if text is None:
        return None
    arrow = require_pyarrow()
    return arrow.ipc.read_schema(arrow.BufferReader(base64.b64decode(text)))
