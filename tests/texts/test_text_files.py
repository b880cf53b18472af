"""Rows that are written to a file of any kind are read back as they were, packed or not."""

import datetime
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from conjoin.errors import ConjoinWarning, DataError
from conjoin.texts.lines import as_json
from conjoin.texts.pairs import Columns, read_pairs
from conjoin.texts.parquet import schema_of, write_parquet
from conjoin.texts.sources import SourceFile
from conjoin.texts.tables import Kind
from conjoin.texts.writing import columns_of, json_line, results_file, table_lines

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ROWS = st.lists(st.fixed_dictionaries({"source": TEXTS, "a,b": TEXTS, '"': TEXTS}), max_size=5)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.parquet", "t.parquet.gz", "t.jsonl", "t.jsonl.gz"])
def test_rows_come_back_from_every_kind_of_file(name: str, tmp_path: Path) -> None:
    @given(ROWS)
    @settings(max_examples=30, deadline=None, derandomize=True)
    def check(rows: list[dict[str, str]]) -> None:
        write(tmp_path / name, rows)
        assert [row for _, row in SourceFile.of(str(tmp_path / name), None, "source").rows()] == rows

    check()


def write(path: Path, rows: list[dict[str, str]]) -> None:
    kind, columns = path.name.split(".")[1], ["source", "a,b", '"']
    with results_file(path) as file:
        if kind == "parquet":
            write_parquet(file, rows, schema_of(rows, columns))
        elif kind == "jsonl":
            file.writelines(f"{json_line(row)}\n".encode() for row in rows)
        else:
            file.writelines(line.encode() for line in table_lines(rows, columns, kind))  # pyright: ignore


def test_a_packed_file_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        with results_file(tmp_path / name) as file:
            file.write(b"hello\n")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"hello\n"


def test_what_is_no_text_is_json_in_a_table() -> None:
    rows = [{"a": None, "b": [1, "é"], "c": True}, {"b": 0.5, "d": {"x": None}}]
    lines = list(table_lines(rows, columns_of(rows), "csv"))
    assert lines == ["a,b,c,d\n", ',"[1, ""é""]",true,\n', ',0.5,,"{""x"": null}"\n']


KEPT: dict[str, tuple[pa.DataType, Any]] = {
    "date": (pa.date32(), datetime.date(2020, 1, 2)),
    "time": (pa.time64("us"), datetime.time(1, 2, 3, 4)),
    "timestamp": (pa.timestamp("us", tz="UTC"), datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
    "decimal": (pa.decimal128(8, 2), Decimal("1.50")),
    "bytes": (pa.binary(), b"\xff\x00"),
    "small": (pa.int8(), -3),
    "large": (pa.uint64(), 2**64 - 1),
    "float": (pa.float32(), 0.1),
    "bool": (pa.bool_(), True),
    "words": (pa.dictionary(pa.int32(), pa.string()), "x"),
    "dates": (pa.list_(pa.date32()), [datetime.date(2020, 1, 2), None]),
    "struct": (pa.struct([("a", pa.time32("ms")), ("b", pa.binary())]), {"a": datetime.time(1, 2, 3), "b": b"x"}),
    "map": (pa.map_(pa.string(), pa.decimal128(5, 1)), [("a", Decimal("1.5"))]),
}


@pytest.mark.parametrize("kind", KEPT)
def test_columns_of_parquet_keep_their_types_and_values(kind: str, tmp_path: Path) -> None:
    dtype, value = KEPT[kind]
    table = pa.table({"source": ["a", "b"], "kept": pa.array([value, None], dtype)})
    parquet.write_table(table, tmp_path / "in.parquet")
    file = SourceFile.of(str(tmp_path / "in.parquet"), None, "source")
    rows = [json.loads(json.dumps(row)) for _, row in file.rows()]
    with results_file(tmp_path / "out.parquet") as raw:
        write_parquet(raw, rows, schema_of(rows, columns_of(rows), known=file.schema))
    assert parquet.read_table(tmp_path / "out.parquet").equals(table)


def test_a_column_whose_values_fit_their_type_no_more_becomes_text_and_that_is_told(tmp_path: Path) -> None:
    rows = [{"source": "a", "when": as_json(datetime.timedelta(1))}]
    known = pa.schema([("source", pa.string()), ("when", pa.duration("us"))])
    with pytest.warns(ConjoinWarning, match=r"Column 'when' is no longer duration\[us\], but text"):
        schema = schema_of(rows, ["source", "when"], known=known)
    with results_file(tmp_path / "out.parquet") as raw:
        write_parquet(raw, rows, schema)
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == [{"source": "a", "when": "1 day, 0:00:00"}]


MIXED: dict[str, tuple[list[Any], pa.DataType, list[Any]]] = {
    "numbers": ([1, 2.5, None], pa.float64(), [1.0, 2.5, None]),
    "whole numbers": ([1, None], pa.int64(), [1, None]),
    "nothing": ([None, None], pa.string(), [None, None]),
    "number and text": ([1, "x", None], pa.string(), ["1", "x", None]),
    "huge": ([2**70], pa.string(), [str(2**70)]),
    "lists": ([["a"], []], pa.list_(pa.string()), [["a"], []]),
    "list and object": ([["a"], {"b": 1}], pa.string(), ['["a"]', '{"b": 1}']),
}


@pytest.mark.parametrize("kind", MIXED)
@pytest.mark.parametrize("group", [1, 8192])
def test_types_of_other_columns_are_found_by_their_values(
    kind: str, group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conjoin.texts.parquet._GROUP", group)
    values, dtype, wanted = MIXED[kind]
    rows = [{"x": value} for value in values]
    schema = schema_of(rows, ["x"])
    assert schema.field("x").type == dtype
    with results_file(tmp_path / "out.parquet") as raw:
        write_parquet(raw, rows, schema)
    assert parquet.read_table(tmp_path / "out.parquet").column("x").to_pylist() == wanted


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_is_there_twice_is_refused_as_one_would_be_lost(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"in.{kind}"
    if kind == "csv":
        path.write_text("source,id,id\na,1,2\n")
    else:
        parquet.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, names=["source", "id", "id"]), path)
    with pytest.raises(DataError, match="more than one column is named 'id'"):
        SourceFile.of(str(path), None, "source").check()


def test_a_damaged_packed_parquet_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"PAR1 and then nothing"))
    with pytest.raises(DataError, match=r"a\.parquet\.gz: cannot be read as Parquet"):
        SourceFile.of(str(tmp_path / "a.parquet.gz"), None, "source").check()
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"PAR1" * 99)[:-9])
    with pytest.raises(DataError, match=r"a\.parquet\.gz: cannot be read: the compressed data end too early"):
        SourceFile.of(str(tmp_path / "a.parquet.gz"), None, "source").check()


QUOTED = ["source\ttarget", 'a\t"Hello.', "b\tc", 'd\tBye."', "e\tf"]


@pytest.mark.parametrize(
    ("kind", "lines", "told"),
    [
        ("tsv", QUOTED, "line 4: begins in line 2, with a quotation mark that is not closed there"),
        ("tsv", [*QUOTED[:3], "d\tBye."], "lines 2 to 4: not TSV: unexpected end of data"),
        ("tsv", ["source\ttarget", "a\tb", '"Hi" he said\tc'], "line 3: not TSV"),
        ("csv", ["source,target", "a,b", 'c,"d', "e,f"], "lines 3 to 4: not CSV: unexpected end of data"),
        ("csv", ["source,target", 'a,"b" c'], "line 2: not CSV"),
    ],
)
def test_quotation_marks_that_swallow_rows_are_an_error(
    tmp_path: Path, kind: Kind, lines: list[str], told: str
) -> None:
    path = tmp_path / f"pairs.{kind}"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        read_pairs(path, Columns())
    assert told in str(caught.value) and "write each of its own twice" in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_cells_with_quotation_marks_and_line_ends_are_read_as_they_were(tmp_path: Path, kind: Kind) -> None:
    rows = [
        {"source": 'say "yes"', "target": '"'},
        {"source": 'two\nlines, "quoted"', "target": "a, b"},
        {"source": "a\ttab", "target": '"""'},
        {"source": "a\ttab\nand a line,\nand another", "target": "b"},
    ]
    path = tmp_path / f"pairs.{kind}"
    path.write_text("".join(table_lines(rows, ["source", "target"], kind)), newline="")
    pairs = read_pairs(path, Columns())
    assert [{"source": s, "target": t} for s, t in zip(pairs.sources, pairs.targets, strict=True)] == rows


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_blank_lines_of_tables_are_skipped(tmp_path: Path, kind: Kind) -> None:
    path, comma = tmp_path / f"pairs.{kind}", {"csv": ",", "tsv": "\t"}[kind]
    path.write_text(f"source{comma}target\na{comma}b\n\n\nc{comma}d\n\n")
    pairs = read_pairs(path, Columns())
    assert (list(pairs.sources), list(pairs.targets), list(pairs.lines)) == (["a", "c"], ["b", "d"], [2, 5])
