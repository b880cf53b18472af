"""Rows: training data, sources to generate from, the journal of a run that generates."""

import gzip
import json
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from conjoin.bulk.journal import Journal
from conjoin.bulk.outputs import OutputFile
from conjoin.bulk.parts import Trailer, merge, part_writer
from conjoin.bulk.shards import Shard
from conjoin.texts.pairs import Columns, read_pairs
from conjoin.texts.sources import SourceFile
from fuzz.mutators import ODD_VALUES, changed, garbled, mangled, odd_text, spelled
from fuzz.runner import Kind

_ROWS = [{"source": f"source number {number}", "target": f'target, "{number}"', "id": number} for number in range(12)]
_LINES = "".join(json.dumps(row) + "\n" for row in _ROWS).encode()
_ODD_LINES = (
    "",
    "null",
    "5",
    '"text"',
    "[]",
    "{}",
    '{"source": 5, "target": "x"}',
    '{"source": "a"}',
    '{"source": "\\ud800", "target": "b"}',
    '{"source": "a", "source": "b", "target": "c"}',
    "9" * 5000,
    "[" * 100_000,
    '{"source": ' * 3000,
    '{"a": 1e999}',
    "NaN",
    "\x1b[2J{",
    '{"source": "a", "target": null}',
    '{"source": "\\u0000", "target": "\\u001b[2J"}',
    '{"source": "' + "a" * 100_000 + '", "target": "b"}',
)


def _writer(name: str, raw: bytes) -> Any:
    return lambda folder: (folder / name).write_bytes(raw) and None


def _reader(name: str) -> Any:
    def use(folder: Path) -> None:
        pairs = read_pairs(folder / name, Columns())
        for text in (*pairs.sources, *pairs.targets):
            text.encode()

    return use


def _change_lines(name: str) -> Any:
    def change(folder: Path, draw: Random) -> None:
        path = folder / name
        path.write_bytes(_changed_lines(path.read_bytes(), draw))

    return change


def _changed_lines(raw: bytes, draw: Random) -> bytes:
    if draw.random() < 0.5:
        return garbled(raw, draw, lines=_ODD_LINES)
    lines = raw.splitlines()
    at = draw.randrange(len(lines))
    row = changed(json.loads(lines[at]), draw, words=("source", "target", "index", "input", "output"))
    lines[at] = spelled(row).encode("utf-8", "surrogatepass")
    return b"\n".join(lines) + b"\n"


def _change_table(folder: Path, draw: Random) -> None:
    path = folder / "rows.csv"
    odd = ('"', ",,,,", '"a', "a,b", "source,target", "\0", '"a\nb",c,5', "\r", "=cmd()", "\x1b[2J,a,b", "x" * 200_000)
    path.write_bytes(garbled(path.read_bytes(), draw, lines=odd))


def _change_gz(folder: Path, draw: Random) -> None:
    path = folder / "rows.jsonl.gz"
    match draw.randrange(5):
        case 0:
            path.write_bytes(gzip.compress(_changed_lines(_LINES, draw)))
        case 1:
            path.write_bytes(draw.choice(_bombs()))
        case 2:
            path.write_bytes(path.read_bytes() + draw.choice((b"tail", b"\0" * 9, path.read_bytes()[:20], b"\x1f\x8b")))
        case _:
            path.write_bytes(mangled(path.read_bytes(), draw))


@cache
def _bombs() -> list[bytes]:
    """Small files that are large when they are read."""
    start, rows = gzip.compress(_LINES + b'{"source": "'), gzip.compress(_LINES)
    repeated = [gzip.compress(sign * (1 << 24), 1) for sign in (b"a", b"[", b"\0")]  # members follow one another
    return [start + member * count + rows for member in repeated for count in (4, 32)] + [
        start + gzip.compress(b"\n" * (1 << 21), 1) + rows
    ]


def _write_gz(folder: Path) -> None:
    _bombs()
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(_LINES, mtime=0))


def _change_parquet(folder: Path, draw: Random) -> None:
    path = folder / "rows.parquet"
    if draw.random() < 0.7:
        path.write_bytes(mangled(path.read_bytes(), draw))
        return
    columns: dict[str, Any] = {"source": ["a", "b"], "target": ["c", "d"]}
    odd = (
        ["a", None],
        [1, 2],
        [b"\xff", b"b"],
        [["a"], ["b"]],
        [{"x": 1}, {"x": 2}],
        [1.5, 2.5],
        [True, False],
        ["", " "],
        ["\x1b[2J", "b"],
    )
    columns[draw.choice(("source", "target", odd_text(draw).replace("\ud800", "?")))] = draw.choice(odd)
    if draw.random() < 0.3:
        bad = pa.array([b"\xff\xfe", b"ok"]).view(pa.string())
        columns[draw.choice(("source", "target"))] = bad
    if draw.random() < 0.2:
        columns.pop(draw.choice(list(columns)))
    parquet.write_table(pa.table(columns), path, compression=draw.choice(("snappy", "gzip", "none", "zstd")))


def _write_parquet(folder: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(_ROWS), folder / "rows.parquet")


def _use_sources(folder: Path) -> None:
    file = SourceFile.of(str(folder / "rows.jsonl"), None, "source")
    count = file.check()
    assert len(list(file.rows())) == count, "the second reading finds other rows"


_RUN = {"model": "m", "generation": {"num_beams": 2}, "seed": None}


def _results(*indices: int) -> list[tuple[int, str, Any]]:
    return [(index, _ROWS[index]["source"], {"prediction": f"result {index}"}) for index in indices]


def _write_journal(folder: Path) -> None:
    with Journal(folder / "out.jsonl", _RUN) as journal:
        journal.add(_results(3, 1, 0))
        journal.add(_results(5), _results(2))


def _change_journal(folder: Path, draw: Random) -> None:
    path = folder / "out.jsonl.partial"
    raw = path.read_bytes()
    if draw.random() < 0.1:
        line = {
            "index": draw.choice(ODD_VALUES),
            "input": draw.choice((*ODD_VALUES, "ab")),
            "output": draw.choice(ODD_VALUES),
        }
        path.write_bytes(raw + spelled(line).encode() + b"\n")
    else:
        path.write_bytes(_changed_lines(raw, draw))


def _use_journal(folder: Path) -> None:
    """Take the run up; every source has its result in the end, or the journal is refused and stays."""
    path = folder / "out.jsonl"
    with Journal(path, _RUN) as journal:
        rest = [index for index, _ in journal.rest((index, row["source"]) for index, row in enumerate(_ROWS))]
        journal.add(_results(*rest))
        journal.finish(lambda results: _output(path).write(lambda: (result.output for result in results())))
    _require_all(path)


def _output(path: Path) -> OutputFile:
    return OutputFile(path, "jsonl")


def _require_all(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # other signs end no line of JSON lines
    assert len(lines) == len(_ROWS), f"{len(lines)} results of {len(_ROWS)}"


def _write_parts(folder: Path) -> None:
    for number in (1, 2):
        shard = Shard(number, 2)
        trailer = Trailer(sources=len(_ROWS), input="ab", failed=0, columns=["prediction"])
        with Journal(shard.part(folder / "out.jsonl"), _RUN, shard=shard) as journal:
            journal.add(_results(*range(number - 1, len(_ROWS), 2)))
            journal.finish(part_writer(journal.path, shard, _RUN, partial(_same, trailer)))


def _same(trailer: Trailer) -> Trailer:
    return trailer


def _change_part(folder: Path, draw: Random) -> None:
    path = folder / f"out.jsonl.{draw.randint(1, 2)}-of-2"
    path.write_bytes(_changed_lines(path.read_bytes(), draw))


def _use_parts(folder: Path) -> None:
    """Merge two parts; every source has its result in the end, or the parts are refused."""
    merge(_output(folder / "out.jsonl"))
    _require_all(folder / "out.jsonl")


_TABLE = "source,target,id\r\n" + "".join(f'source {n},"target, {n}",{n}\r\n' for n in range(12))

KINDS = (
    Kind("jsonl", _writer("rows.jsonl", _LINES), _change_lines("rows.jsonl"), _reader("rows.jsonl")),
    Kind("jsonl_source", _writer("rows.jsonl", _LINES), _change_lines("rows.jsonl"), _use_sources),
    Kind("csv", _writer("rows.csv", _TABLE.encode()), _change_table, _reader("rows.csv")),
    Kind("gz", _write_gz, _change_gz, _reader("rows.jsonl.gz")),
    Kind("parquet", _write_parquet, _change_parquet, _reader("rows.parquet")),
    Kind("journal", _write_journal, _change_journal, _use_journal),
    Kind("parts", _write_parts, _change_part, _use_parts),
)
