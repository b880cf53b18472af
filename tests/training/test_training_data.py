"""Pairs are read from any file, what is wrong is named with its line, and the order of batches is the seed's."""

import gzip
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from conjoin import ConfigError, DataError, TrainingArguments
from conjoin.errors import ConjoinWarning
from conjoin.texts import lines
from conjoin.texts.pairs import Columns, load_hub
from conjoin.texts.sources import SourceFile
from conjoin.training import Pairs, read_pairs
from conjoin.training.data.arrays import batch_arrays
from conjoin.training.data.batching import ByRows, ByTokens, Plan, choose_batching
from conjoin.training.data.examples import Examples, Rows
from conjoin.training.data.tokenizing import Room, tokenize_pairs
from training_toys import tokenizers, toy_rows, write_rows

ROWS = [{"source": "w1 w2", "target": "w2 w1"}, {"source": "w3", "target": "é “w3”"}]
COLUMNS = Columns()


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def texts(pairs: Pairs) -> list[tuple[str, str, int]]:
    return list(zip(pairs.sources, pairs.targets, pairs.lines, strict=True))


EXPECTED = [("w1 w2", "w2 w1", 1), ("w3", "é “w3”", 2)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson"])
def test_json_lines(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, "\n".join(json.dumps(row) for row in ROWS))
    assert texts(read_pairs(path, COLUMNS)) == EXPECTED


def test_json_lines_with_blank_ones_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", "\ufeff" + "\n\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    assert [line for *_, line in texts(read_pairs(path, COLUMNS))] == [1, 3]


def test_gzipped_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in ROWS)
    assert texts(read_pairs(path, COLUMNS)) == EXPECTED


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t")])
def test_tables(name: str, mark: str, tmp_path: Path) -> None:
    text = f'id{mark}source{mark}target\n1{mark}w1 w2{mark}w2 w1\n2{mark}"w3\nw4, ""w5"""{mark}w3\n'
    with pytest.warns(ConjoinWarning, match=f"{name}: nothing reads the columns 'id'"):
        found = texts(read_pairs(write(tmp_path, name, text), COLUMNS))
    assert found == [("w1 w2", "w2 w1", 2), ('w3\nw4, "w5"', "w3", 4)]


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([{**row, "other": 1} for row in ROWS])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.warns(ConjoinWarning, match="nothing reads the columns 'other'"):
        assert texts(read_pairs(tmp_path / "a.parquet", COLUMNS)) == EXPECTED
    nested = pyarrow.Table.from_pylist([{"translation": {"de": row["source"], "en": row["target"]}} for row in ROWS])
    parquet.write_table(nested, tmp_path / "b.parquet")
    columns = Columns(source="translation.de", target="translation.en")
    assert texts(read_pairs(tmp_path / "b.parquet", columns)) == EXPECTED


def test_rows_in_memory_and_data_sets(tmp_path: Path) -> None:
    import datasets

    assert texts(read_pairs(ROWS, COLUMNS)) == EXPECTED
    assert texts(read_pairs(iter(ROWS), COLUMNS)) == EXPECTED
    made = datasets.Dataset.from_list(ROWS)
    assert texts(read_pairs(made, COLUMNS)) == EXPECTED
    datasets.DatasetDict({"train": made, "test": made.select([1])}).save_to_disk(tmp_path / "saved")
    assert texts(read_pairs(load_hub(str(tmp_path / "saved"), None, "test"), COLUMNS)) == [("w3", "é “w3”", 1)]


def test_a_folder_that_datasets_reads(tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "train.jsonl", ROWS)
    assert texts(read_pairs(load_hub(str(tmp_path / "data"), None, "train"), COLUMNS)) == EXPECTED
    with pytest.raises(DataError, match="split 'dev', cannot be loaded"):
        load_hub(str(tmp_path / "data"), None, "dev")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_hub(str(tmp_path / "nothing"), None, "train")


def test_columns_prefix_and_empty_pairs(tmp_path: Path) -> None:
    rows = [{"a": {"b": "w1"}, "c": "w2"}, {"a": {"b": " "}, "c": "w2"}, {"a": {"b": "w1"}, "c": None}]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    columns = Columns(source="a.b", target="c", prefix="do: ", drop_empty=True)
    assert texts(read_pairs(path, columns)) == [("do: w1", "w2", 1)]


BAD: list[tuple[str, str, str]] = [
    ("a.jsonl", '{"source": "a", "target": "b"}\n{"source": "a",\n', r"line 2: is not JSON at column \d+"),
    ("a.jsonl", '{"source": "a", "target": "b"}\n[1, 2]\n', "line 2: is a list, expected an object"),
    ("a.jsonl", '{"source": "a", "text": "b"}\n', "line 1: has no column 'target'; it has 'source', 'text'"),
    ("a.jsonl", '{"source": "a", "target": 7}\n', "line 1: target is a int, expected text"),
    ("a.jsonl", '{"source": "a", "target": ""}\n', "line 1: target is empty"),
    ("a.jsonl", '{"source": "a", "target": "b"}\n{"source": "\\ud800", "target": "b"}\n', "line 2: source holds a"),
    ("a.jsonl", '{"source": "a", "target": "b \\udfff c"}\n', r"line 1: target holds a lone surrogate.*'b \\udfff c'"),
    ("a.jsonl", '{"source": "  ", "target": "b"}\n', "line 1: source is empty"),
    ("a.jsonl", "", "a.jsonl is empty; expected at least one pair"),
    ("a.csv", "", "a.csv is empty; expected at least one pair"),
    ("a.csv", "source,text\na,b\n", "there is no column 'target'; there are 'source', 'text'"),
    ("a.csv", "source,target\na\n", "line 2: has not 2 fields"),
    ("a.csv", "source,target\na,b,c\n", "line 2: has not 2 fields"),
    (
        "a.jsonl",
        '{"source": "a", "target": ' + "9" * 5000 + "}",
        "line 1: is not JSON: Exceeds the limit of 4300 digits",
    ),
    ("a.jsonl", "[" * 3000, "line 1: is not JSON: maximum recursion.* at column 101"),
    ("a.jsonl", '{"source": "a", "target": ' + "[" * 200 + "]" * 200 + "}", "line 1: is not JSON: maximum recursion"),
    ("a.jsonl", '"text"\n', "line 1: is a str, expected an object"),
    ("a.json", '[\n{"source": "a"}]\n', "begins as one JSON list over many lines"),
    ("a.txt", "a\tb\n", "unknown kind of file"),
    ("a.parquet", "no", "cannot be read as Parquet"),
]


@pytest.mark.parametrize(("name", "text", "told"), BAD)
def test_bad_files_are_told_by_line(name: str, text: str, told: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(DataError, match=told) as caught:
        read_pairs(path, COLUMNS)
    assert str(path) in str(caught.value)


def test_all_bad_lines_come_in_one_error_with_what_to_do(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", "\n".join('{"source": "a", "target": ""}' for _ in range(50)))
    with pytest.raises(DataError) as caught:
        read_pairs(path, COLUMNS)
    assert "lines 1, 2, 3, 4, 5 ... (20 lines): target is empty" in str(caught.value)
    assert "Reading stopped after 20 problems" in str(caught.value) and "--drop-empty" in str(caught.value)


def test_files_that_are_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_pairs(tmp_path / "none.jsonl", COLUMNS)
    with pytest.raises(DataError, match="is a folder; expected a file of pairs"):
        read_pairs(tmp_path, COLUMNS)
    (tmp_path / "a.jsonl").write_bytes(b'{"source": "a", "target": "b"}\n\xff\xfe\n')
    with pytest.raises(DataError, match="not UTF-8"):
        read_pairs(tmp_path / "a.jsonl", COLUMNS)
    whole = gzip.compress(b'{"source": "a", "target": "b"}\n' * 1000)
    (tmp_path / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"line \d+: cannot be read"):
        read_pairs(tmp_path / "b.jsonl.gz", COLUMNS)


ROW = b'{"source": "a", "target": "b"}\n'


def test_every_flipped_byte_of_a_gz_file_is_one_error_or_harmless(tmp_path: Path) -> None:
    whole, path, refused = gzip.compress(ROW * 50, mtime=0), tmp_path / "a.jsonl.gz", 0
    for at in range(10, len(whole)):
        mutant = bytearray(whole)
        mutant[at] ^= 0x55
        path.write_bytes(mutant)
        for read in (lambda: read_pairs(path, COLUMNS), SourceFile.of(str(path), None, "source").check):
            try:
                read()
            except DataError as error:
                refused += "cannot be read" in str(error)
                assert str(path) in str(error)
    assert refused > len(whole)


def test_a_gz_file_that_becomes_far_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES", 1 << 16)
    monkeypatch.setattr(lines, "UNPACKED_FREE", 1 << 18)
    path = tmp_path / "a.jsonl.gz"
    for content, told in (
        (ROW + b"a" * (1 << 17), "line 2: longer than 65,536 bytes"),
        (b"\n" * (1 << 21), r"line \d+: the file becomes more than 250 times its size"),
    ):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(DataError, match=told):
            read_pairs(path, COLUMNS)
        with pytest.raises(DataError, match=told):
            SourceFile.of(str(path), None, "source").check()


def test_parquet_with_texts_that_are_not_utf_8_is_one_error(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"source": bad, "target": ["b"]}), path)
    with pytest.raises(DataError, match="not UTF-8"):
        read_pairs(path, COLUMNS)
    with pytest.raises(DataError, match="not UTF-8"):
        SourceFile.of(str(path), None, "source").check()


WEIGHED: list[dict[str, Any]] = [{"source": "w1", "target": "w2", "weight": weight} for weight in (2, 0.5, 0)]
NESTED = [{"translation": {"de": row["source"], "en": row["target"]}, "id": 1, "lang": "x"} for row in ROWS]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet", "memory"])
def test_a_weight_of_a_row_of_text_is_kept_and_counted(kind: str, tmp_path: Path) -> None:
    pairs = read_pairs(written(WEIGHED, kind, tmp_path), COLUMNS)
    assert pairs.weights is not None
    assert pairs.weights.tolist() == [2, 0.5, 0]
    made = tokenize_pairs(pairs, tokenizers(tmp_path), Room(None, None))
    assert made.weights is not None
    assert made.counted(range(3)) == 2.5 * len(made.labels[0])


def written(rows: list[dict[str, Any]], kind: str, folder: Path) -> Any:
    """Rows as a file of a kind, or as they are."""
    import pyarrow
    from pyarrow import parquet

    path = folder / f"a.{kind}"
    match kind:
        case "jsonl":
            return write_rows(path, rows)
        case "csv" | "tsv":
            mark = "," if kind == "csv" else "\t"
            return write(
                folder,
                path.name,
                "\n".join(mark.join(map(str, row)) for row in [[*rows[0]], *(row.values() for row in rows)]),
            )
        case "parquet":
            parquet.write_table(pyarrow.table({name: [row[name] for row in rows] for name in rows[0]}), path)
            return path
        case _:
            return rows


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"weight": "much"}], "row 1: weight is 'much'; expected a number of 0 or more"),
        ([{"weight": -1}], "row 1: weight is -1"),
        ([{"weight": True}], "row 1: weight is True"),
        ([{"weight": math.nan}], "row 1: weight is nan"),
        ([{"weight": 1}, {}], "row 2: has no weight, unlike the rows before"),
        ([{}, {"weight": 1}], "row 2: has a weight, unlike the rows before"),
        ([{"weight": 0}, {"weight": 0}], "every weight is 0"),
        ([{"weights": 1}], "row 1: has 'weights', which nothing reads. Did you mean 'weight'"),
    ],
    ids=str,
)
def test_a_weight_that_is_none_is_refused(rows: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_pairs([{"source": "a", "target": "b", **row} for row in rows], COLUMNS)


@pytest.mark.parametrize("kind", ["memory", "jsonl", "parquet"])
def test_columns_that_nothing_reads_are_named_once(kind: str, tmp_path: Path) -> None:
    data = written(NESTED, kind, tmp_path)
    with pytest.warns(ConjoinWarning, match="nothing reads the columns 'id', 'lang'. Read are ") as told:
        pairs = read_pairs(data, Columns(source="translation.de", target="translation.en"))
    assert (len(told), len(pairs), pairs.weights) == (1, 2, None)


def test_a_column_that_holds_texts_is_no_weight() -> None:
    pairs = read_pairs([{"source": "a", "weight": "heavy"}], Columns(target="weight"))
    assert (pairs.targets, pairs.weights) == (["heavy"], None)


def test_columns_with_long_names_do_not_fill_a_screen(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "x" * 200_000 + "," + ",".join(map(str, range(3000))) + "\n")
    with pytest.raises(DataError, match=r"no column 'source', 'target'; there are 'xx.* and \d+ more\.") as caught:
        read_pairs(path, COLUMNS)
    assert len(str(caught.value)) < 2000


def test_lines_with_one_problem_are_told_together(tmp_path: Path) -> None:
    rows = ['{"source": "a", "target": ""}', '{"source": "a"}', '{"source": "", "target": "b"}']
    path = write(tmp_path, "a.jsonl", "\n".join(rows * 2))
    with pytest.raises(DataError) as caught:
        read_pairs(path, COLUMNS)
    for told in ("lines 1, 4: target is empty.", "lines 2, 5: has no column 'target'", "lines 3, 6: source is empty."):
        assert told in str(caught.value)


def test_old_tables_end_lines_with_a_carriage_return(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"source,target\rw1 w2,w2 w1\rw3,w4\r")
    assert [pair[:2] for pair in texts(read_pairs(tmp_path / "a.csv", COLUMNS))] == [("w1 w2", "w2 w1"), ("w3", "w4")]


def test_tokenized_pairs_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    pair, rows = tokenizers(tmp_path), toy_rows(30)
    made = tokenize_pairs(read_pairs(rows, COLUMNS), pair, Room(6, 5))
    sources, targets = ([row[side] for row in rows] for side in ("source", "target"))
    expected = pair(sources, text_target=targets, truncation=True, max_length=6, max_target_length=5)
    assert [made.sources[row].tolist() for row in range(30)] == expected["input_ids"]
    assert [made.labels[row].tolist() for row in range(30)] == expected["labels"]
    both = zip(expected["input_ids"], expected["labels"], strict=True)
    assert made.cut == sum(len(source) == 6 or len(target) == 5 for source, target in both)


def lengths(count: int = 1000) -> np.ndarray:
    draw = np.random.default_rng(1)
    return np.clip(draw.lognormal(3, 0.6, (count, 1)) * draw.normal(1, 0.2, (count, 2)), 1, 120).astype(int)


def plan(sampling: Any = "group_by_length", batching: Any = None, seed: int = 1, **values: Any) -> Plan:
    base: dict[str, Any] = {"lengths": lengths(), "batches_per_step": 1}
    return Plan(sampling=sampling, batching=batching or ByTokens(2000), seed=seed, **base | values)


@pytest.mark.parametrize("sampling", ["group_by_length", "random", "sequential"])
@pytest.mark.parametrize("batching", [ByRows(7), ByTokens(2000)])
def test_every_pair_is_in_one_batch_of_an_epoch(sampling: str, batching: Any) -> None:
    made = plan(sampling, batching)
    for epoch in (0, 1):
        found = [index for batch in made.epoch(epoch) for (index,) in batch]
        assert sorted(found) == list(range(1000))
    assert made.epoch(0) == plan(sampling, batching).epoch(0)
    shuffled = sampling != "sequential"
    assert (made.epoch(0) != made.epoch(1)) == shuffled
    assert (made.epoch(0) != plan(sampling, batching, seed=2).epoch(0)) == shuffled


def test_batches_keep_the_budget_and_have_next_to_no_padding() -> None:
    sizes, room = lengths(4000), 0
    for batch in plan(lengths=sizes).epoch(0):
        cost = len(batch) * sizes[[row[0] for row in batch]].max(0).sum()
        assert cost <= 2000
        room += cost
    assert sizes.sum() / room > 0.85


def test_steps_are_counted_exactly() -> None:
    made = plan(batches_per_step=3)
    assert made.total_steps(2) == made.steps(0) + made.steps(1)
    assert made.total_steps(0.5) == -(-made.steps(0) // 2)
    rows = plan(batching=ByRows(10), batches_per_step=3)
    assert rows.total_steps(3) == 3 * 34
    assert plan(batching=ByRows(10), batches_per_step=3, drop_last=True).total_steps(3) == 3 * 33


def test_a_budget_below_the_longest_pair_is_refused() -> None:
    with pytest.raises(DataError, match=r"longest pair has \d+ tokens, but tokens_per_batch = 50"):
        choose_batching(TrainingArguments(tokens_per_batch=50), lengths())
    with pytest.raises(DataError, match="longest source and the longest target together"):
        choose_batching(TrainingArguments(tokens_per_batch=50, packing=True), lengths())


def test_arrays_of_a_batch() -> None:
    examples = Examples(Rows.of([[1, 2, 3], [4]]), Rows.of([[5], [6, 7]]))
    padded = batch_arrays(examples, [[0], [1]], source_pad=9)
    assert {name: array.tolist() for name, array in padded.items()} == {
        "input_ids": [[1, 2, 3], [4, 9, 9]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[5, -100], [6, 7]],
    }
    assert "attention_mask" not in batch_arrays(examples, [[0], [0]], source_pad=9)
    packed = batch_arrays(examples, [[0, 1]], source_pad=9)
    assert {name: array.tolist() for name, array in packed.items()} == {
        "input_ids": [[1, 2, 3, 4]],
        "labels": [[5, 6, 7]],
        "segment_ids": [[1, 1, 1, 2]],
        "decoder_segment_ids": [[1, 2, 2]],
    }


def test_arguments_that_cannot_be_used_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingArguments(
            learning_rate="high",  # type: ignore[arg-type]
            lr_scheduler_type="wavy",  # type: ignore[arg-type]
            label_smoothing_factor=1.5,
            bf16=True,
            fp16=True,
            packing=True,
            gradient_accumulation_steps=0,
        )
    text = str(caught.value)
    for told in (
        "learning_rate = 'high'; expected a number",
        "lr_scheduler_type = 'wavy'; expected one of linear, constant",
        "label_smoothing_factor = 1.5",
        "bf16 and fp16 are both asked for",
        "packing = True without tokens_per_batch",
        "gradient_accumulation_steps = 0; expected 1 or more",
    ):
        assert told in text


def arguments_with(name: str, value: Any) -> TrainingArguments:
    changes: dict[str, Any] = {name: value}
    return TrainingArguments(**changes)


def test_every_number_has_a_range() -> None:
    for each in fields(TrainingArguments):
        kinds = {int, float} & {each.type, *get_args(each.type)}
        assert bool(kinds) == (each.metadata["range"] is not None), each.name
        for odd in (math.nan, math.inf, -math.inf, -3) if kinds else ():
            with pytest.raises(ConfigError, match=rf"{each.name} = -?(nan|inf|3); expected"):
                arguments_with(each.name, odd)


EDGES: dict[str, tuple[list[float], list[float]]] = {
    "learning_rate": ([0, 1e-9, 5], [-1e-9]),
    "max_steps": ([-1, 1], [0, -2]),
    "num_train_epochs": ([0.1], [0]),
    "seed": ([0, 2**32 - 1], [-1, 2**32]),
    "weight_decay": ([0], [-1]),
    "warmup_steps": ([0, 0.1, 100], [-0.1]),
    "max_grad_norm": ([0, 0.5], [-1]),
    "adam_beta2": ([0, 0.999], [1]),
    "adam_epsilon": ([1e-12], [0]),
    "ema_decay": ([0.5], [0, 1]),
    "average_checkpoints": ([2], [1]),
    "label_smoothing_factor": ([0, 0.9], [1]),
    "eval_samples": ([0], [-1]),
    "eval_steps": ([1], [0]),
    "early_stopping_patience": ([1], [0]),
}


@pytest.mark.parametrize("name", EDGES)
def test_numbers_are_taken_up_to_the_edge_of_their_range(name: str) -> None:
    taken, refused = EDGES[name]
    for value in taken:
        assert getattr(arguments_with(name, value), name) == value
    for value in refused:
        with pytest.raises(ConfigError, match=f"{name} = {value}; expected "):
            arguments_with(name, value)
