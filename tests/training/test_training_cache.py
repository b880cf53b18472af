"""Tokenized data on the disk are those in memory, made once, and never read half-written."""

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conjoin import ConfigError, DataError, FileError, Seq2SeqTrainer, TrainingArguments
from conjoin.errors import ConjoinWarning
from conjoin.texts.pairs import PART
from conjoin.training import Examples
from conjoin.training.data import cache, store, tokenized, tokenizing
from conjoin.training.data.cache import DataCache
from conjoin.training.data.datasets import Making, Named, to_examples
from conjoin.training.data.tokenized import from_ids
from training_toys import arguments, tokenizers, toy_model, toy_rows, weights, write_rows

COUNT = 2 * PART + 57
WORKER = Path(__file__).with_name("train_workers") / "tokenizing.py"


@pytest.fixture(scope="module")
def spec() -> Any:
    return toy_model().spec


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of one test."""
    monkeypatch.setenv("CONJOIN_DATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(data: Any, tmp_path: Path, spec: Any, *, keeps_texts: bool = True, **changes: Any) -> Examples:
    args = TrainingArguments(**{"max_source_length": 14, "max_target_length": 13} | changes)
    return to_examples(data, "the data", Making(args, spec, tokenizers(tmp_path), keeps_texts=keeps_texts))


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def rows_of(count: int = COUNT) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{**row, "weight": 1.0} for row in toy_rows(count)]
    rows[PART + 3] |= {"weight": 0.5, "target": "w1 é “w3” 語"}
    return rows


def written(rows: list[dict[str, Any]], kind: str, folder: Path) -> Any:
    import datasets
    import pyarrow
    from pyarrow import parquet

    path = folder / f"a.{kind}"
    match kind:
        case "jsonl":
            return write_rows(path, rows)
        case "jsonl.gz":
            path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        case "tsv":
            lines = ["\t".join(map(str, row)) for row in [[*rows[0]], *(row.values() for row in rows)]]
            path.write_text("\n".join(lines))
        case "parquet":
            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        case _:
            return datasets.Dataset.from_list(rows)
    return path


def assert_equal(one: Examples, other: Examples) -> None:
    for name in ("sources", "labels"):
        np.testing.assert_array_equal(getattr(one, name).ids, getattr(other, name).ids)
        np.testing.assert_array_equal(getattr(one, name).starts, getattr(other, name).starts)
    assert {*one.columns} == {*other.columns}
    for name, rows in one.columns.items():
        np.testing.assert_array_equal(rows.ids, other.columns[name].ids)
        np.testing.assert_array_equal(rows.starts, other.columns[name].starts)
    np.testing.assert_array_equal(one.lengths, other.lengths)
    np.testing.assert_array_equal(one.weights, other.weights)
    assert (one.cut, one.masks_made, one.fingerprint()) == (other.cut, other.masks_made, other.fingerprint())


def is_mapped(array: Any) -> bool:
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "tsv", "parquet", "dataset"])
def test_stored_examples_are_those_in_memory(
    kind: str, folder: Path, tmp_path: Path, spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of()
    data = written(rows, kind, tmp_path)
    short = {"max_source_length": 8, "max_target_length": 7}
    with pytest.warns(ConjoinWarning, match=rf"{COUNT} pairs fill or exceed 8 source and 7 target"):
        stored, plain = made(data, tmp_path, spec, **short), made(data, tmp_path, spec, data_cache=False, **short)
    assert_equal(stored, plain)
    assert is_mapped(stored.sources.ids) and is_mapped(stored.lengths) and not is_mapped(plain.sources.ids)
    assert stored.texts is not None and stored.weights is not None
    assert [*stored.texts.sources] == [row["source"] for row in rows]
    assert stored.texts.targets[PART : PART + 5] == [row["target"] for row in rows[PART : PART + 5]]
    assert stored.where([3, PART]) == plain.where([3, PART])
    monkeypatch.setattr(tokenizing, "_tokenize", None)
    with pytest.warns(ConjoinWarning, match="may be cut"):
        assert_equal(made(data, tmp_path, spec, **short), plain)
    assert len(entries(folder)) == 1


IDS: list[dict[str, Any]] = [{"input_ids": [5, 6, 7 + number % 9], "labels": [8, 9, 3]} for number in range(20)]
LATE = [*IDS, {"input_ids": [0, 6, 7], "attention_mask": [0, 1, 1], "labels": [-100, 9, 3]}, *IDS]
MANY: dict[str, list[dict[str, Any]]] = {
    "late mask": LATE,
    "late types": [*IDS, {**IDS[0], "token_type_ids": [0, 0, 1]}, {**IDS[0], "attention_mask": [1, 1, 1]}, *IDS],
    "masks of ones": [{**row, "attention_mask": [1] * 3} for row in IDS] + IDS,
    "decoder inputs": [{**row, "decoder_input_ids": [2, 9, 8], "weight": 0.5} for row in IDS],
    "a decoder mask of ones": [{**row, "decoder_attention_mask": [1, 1, 1], "weight": 1} for row in IDS],
}


@pytest.mark.parametrize("name", MANY)
def test_tokenized_rows_are_joined_whatever_the_size_of_parts(
    name: str, folder: Path, tmp_path: Path, spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    whole = from_ids(MANY[name], "rows")
    assert ("attention_mask" in whole.columns) == (name == "late mask")
    names = {column: None for row in MANY[name] for column in row}
    data = datasets.Dataset.from_list([names | row for row in MANY[name]])
    monkeypatch.setattr(tokenized, "PART", 7)
    assert_equal(from_ids(MANY[name], "rows"), whole)
    stored = made(data, tmp_path, spec)
    assert_equal(stored, whole)
    assert is_mapped(stored.labels.ids) and len(entries(folder)) == 1


def test_problems_of_tokenized_rows_have_their_numbers_in_later_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenized, "PART", 7)
    with pytest.raises(DataError, match=r"rows, row 18: input_ids holds 3000000000"):
        from_ids([*IDS[:17], {"input_ids": [3_000_000_000], "labels": [3]}, *IDS], "rows")
    with pytest.raises(DataError, match=r"rows 16, 21: has no labels"):
        from_ids([*IDS[:15], {"input_ids": [3]}, *IDS[:4], {"input_ids": [3]}, *IDS], "rows")


def test_an_entry_is_of_one_content_tokenizer_and_setting(folder: Path, tmp_path: Path, spec: Any) -> None:
    path = write_rows(tmp_path / "a.jsonl", toy_rows(9))
    counts: list[int] = []

    def after(**changes: Any) -> int:
        made(path, tmp_path, spec, **changes)
        counts.append(len(entries(folder)))
        return counts[-1]

    assert after() == 1
    os.utime(path, (1, 1))  # a small file is known by its contents
    assert after(keeps_texts=False) == 2 and after(source_prefix="w1 ") == 3 and after(drop_empty=True) == 4
    (tmp_path / "a.jsonl").write_text(path.read_text().replace("w1 ", "w2 ", 1))
    assert after() == 5
    write_rows(tmp_path / "b.jsonl", toy_rows(9))
    path = tmp_path / "b.jsonl"
    assert after() == 5
    (tmp_path / "source" / "vocab.txt").write_text("[UNK]\n[PAD]\n[CLS]\n[SEP]\nw1\n")
    args = TrainingArguments(max_source_length=14, max_target_length=13)
    from conjoin.tokenizer import AutoTokenizer, TokenizerPair

    pair = TokenizerPair(*(AutoTokenizer.from_pretrained(tmp_path / side) for side in ("source", "target")))
    to_examples(path, "the data", Making(args, spec, pair))
    assert len(entries(folder)) == 6


def test_a_large_file_is_known_by_size_time_and_samples(
    folder: Path, tmp_path: Path, spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "WHOLE_BYTES", 100)
    path = write_rows(tmp_path / "a.jsonl", toy_rows(50))
    digest = cache.data_digest(path)
    assert cache.data_digest(path) == digest
    status, text = path.stat(), path.read_text()
    path.write_text(text.replace("w1 ", "w2 ", 1))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.data_digest(path) != digest
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.data_digest(path) == digest
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert cache.data_digest(path) != digest


@pytest.mark.parametrize("damage", ["cut", "missing", "no summary", "half a summary"])
def test_a_damaged_entry_is_made_again(damage: str, folder: Path, tmp_path: Path, spec: Any) -> None:
    path = write_rows(tmp_path / "a.jsonl", toy_rows(30))
    expected = made(path, tmp_path, spec, data_cache=False)
    made(path, tmp_path, spec)
    entry = folder / entries(folder)[0]
    ids, summary = entry / "input_ids.int32", entry / store.SUMMARY_FILE
    match damage:
        case "cut":
            ids.write_bytes(ids.read_bytes()[:-4])
        case "missing":
            ids.unlink()
        case "no summary":
            summary.unlink()
        case _:
            summary.write_text(summary.read_text()[:50])
    assert_equal(made(path, tmp_path, spec), expected)
    assert len(entries(folder)) == 1


@pytest.mark.parametrize(("code", "told"), [(errno.ENOSPC, "No space left"), (errno.EACCES, "Permission denied")])
def test_a_full_disk_is_one_error_and_leaves_nothing(
    code: int, told: str, folder: Path, tmp_path: Path, spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, name: str, values: Any) -> None:
        if name == "lengths":
            raise OSError(code, os.strerror(code))
        append(self, name, values)

    append = store.Files.append
    path = write_rows(tmp_path / "a.jsonl", toy_rows(30))
    monkeypatch.setattr(store.Files, "append", fail)
    with pytest.raises(FileError, match=rf"(?s){told}.*--data-cache-dir DIR.*--no-data-cache"):
        made(path, tmp_path, spec)
    assert entries(folder) == []
    assert len(made(path, tmp_path, spec, data_cache=False)) == 30


def test_a_folder_that_is_none_is_told(tmp_path: Path, spec: Any) -> None:
    path = write_rows(tmp_path / "a.jsonl", toy_rows(30))
    with pytest.raises(FileError, match=r"a\.jsonl.* cannot be written: .*\n\nhint: --data-cache-dir"):
        made(path, tmp_path, spec, data_cache_dir=str(path))
    with pytest.raises(ConfigError, match=r"data_cache_dir = .* with data_cache = False"):
        TrainingArguments(data_cache=False, data_cache_dir="x")


def test_bad_lines_are_told_and_nothing_is_left(folder: Path, tmp_path: Path, spec: Any) -> None:
    rows = toy_rows(COUNT)
    rows[PART + 6]["target"] = rows[2 * PART]["target"] = ""
    path = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=rf"lines {PART + 7}, {2 * PART + 1}: target is empty"):
        made(path, tmp_path, spec)
    assert entries(folder) == []


def test_warnings_about_columns_come_each_time(folder: Path, tmp_path: Path, spec: Any) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{**row, "id": "1"} for row in toy_rows(9, longest=3)])
    for _ in range(2):
        with pytest.warns(ConjoinWarning, match=r"a\.jsonl: nothing reads the columns 'id'"):
            made(path, tmp_path, spec)


def test_streamed_data_are_on_the_disk_as_long_as_they_are_used(folder: Path, tmp_path: Path, spec: Any) -> None:
    import datasets

    rows = toy_rows(40, longest=4)
    streamed = datasets.IterableDataset.from_generator(lambda: iter(rows))
    stored = made(Named(streamed, "a stream"), tmp_path, spec)
    assert_equal(stored, made(rows, tmp_path, spec))
    assert is_mapped(stored.sources.ids) and entries(folder) == [] and stored.name == "a stream"


def test_a_format_makes_other_rows(folder: Path, tmp_path: Path, spec: Any) -> None:
    import datasets

    data = datasets.Dataset.from_list(toy_rows(9, longest=4))
    shouted = data.with_transform(lambda batch: {name: [f"{text} w7" for text in batch[name]] for name in batch})
    assert made(shouted, tmp_path, spec).sources[0].tolist()[-2] == tokenizers(tmp_path).source("w7")["input_ids"][1]
    assert (
        entries(folder) == []
        and made(data, tmp_path, spec).fingerprint() != made(shouted, tmp_path, spec).fingerprint()
    )


def test_old_entries_and_remains_of_killed_processes_are_swept(folder: Path, tmp_path: Path, spec: Any) -> None:
    old, young = (f"conjoin-{digit * 32}" for digit in "ab")
    gone = {old: 31, f".{old}.saving-0123abcd": 2, ".conjoin-unnamed-x_1": 2, f"{old}.lock": 31}
    kept = {young: 29, f".{young}.saving-0123abcd": 0.5, "a" * 32: 99, "my folder": 99, ".hidden": 99, "x.lock": 99}
    for name, days in (gone | kept).items():
        path = folder / name
        path.mkdir(parents=True)
        (path / store.SUMMARY_FILE).touch()
        for each in (path / store.SUMMARY_FILE, path):
            os.utime(each, (time.time() - days * 86_400,) * 2)
    made(write_rows(tmp_path / "a.jsonl", toy_rows(9)), tmp_path, spec)
    left = {path.name for path in folder.iterdir()}
    assert {*kept} <= left and not {*gone} & left


def environment() -> dict[str, str]:
    tests = WORKER.parents[2]
    return {**os.environ, "PYTHONPATH": f"{tests.parent / 'src'}:{tests / 'support'}", "OMP_NUM_THREADS": "1"}


def start(path: Path, tmp_path: Path, kill_at: int = -1) -> "subprocess.Popen[str]":
    command = [sys.executable, str(WORKER), str(path), str(tmp_path), str(kill_at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_is_read_and_two_at_once_tokenize_once(
    folder: Path, tmp_path: Path, spec: Any
) -> None:
    path = write_rows(tmp_path / "a.jsonl", toy_rows(COUNT))
    expected = made(path, tmp_path, spec, data_cache=False).fingerprint()
    killed = start(path, tmp_path, kill_at=2)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert [name for name in entries(folder) if not name.startswith(".")] == [] and entries(folder)
    both = [start(path, tmp_path) for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert all(process.returncode == 0 for process in both), outputs
    told = [json.loads(output) for output, _ in outputs]
    assert [each["fingerprint"] for each in told] == [expected] * 2
    assert sorted(each["parts"] for each in told) == [0, 3]
    assert len(entries(folder)) == 1


def test_several_processes_tokenize_as_one_does(folder: Path, tmp_path: Path, spec: Any) -> None:
    path = write_rows(tmp_path / "a.jsonl", rows_of())  # type: ignore[arg-type]
    several = made(path, tmp_path, spec, preprocessing_num_workers=2)
    plain = made(path, tmp_path, spec, data_cache=False)
    assert_equal(several, plain)
    assert several.texts is not None and several.texts.sources[-1] == toy_rows(COUNT)[-1]["source"]


class Fails:
    """Work that goes wrong."""

    def __init__(self, how: str) -> None:
        self._how = how

    def __call__(self, part: int) -> Examples:
        if part < 5:
            return from_ids([{"input_ids": [part], "labels": [3]}], "rows")
        if self._how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        raise DataError("part 5 is bad", hint="mend it")


@pytest.mark.parametrize(("how", "told"), [("raises", "part 5 is bad"), ("dies", "ended by signal 9")])
def test_what_goes_wrong_in_a_process_is_told(how: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from conjoin.training.data.workers import Workers

    monkeypatch.setenv("PYTHONPATH", f"{environment()['PYTHONPATH']}:{Path(__file__).parent}")
    monkeypatch.setattr(Fails, "__module__", Path(__file__).stem)
    monkeypatch.setitem(sys.modules, Path(__file__).stem, sys.modules[Fails.__init__.__globals__["__name__"]])
    threads = threading.active_count()
    done: list[int] = []
    with pytest.raises(DataError, match=told):
        done += [int(part.sources.ids[0]) for part in Workers(Fails(how), 2).map(iter(range(30)))]
    assert threading.active_count() == threads


def test_a_run_on_stored_data_is_the_run_on_data_in_memory(folder: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", toy_rows(48))
    models: list[dict[str, Any]] = []
    for data, changes in ((str(path), {}), (str(path), {"data_cache": False}), (toy_rows(48), {})):
        args = arguments(tmp_path / f"run{len(models)}", tokens_per_batch=200, eval_samples=2, **changes)
        trainer = Seq2SeqTrainer(toy_model(tmp_path), args=args, train_dataset=data, eval_dataset=data)
        trainer.train()
        models.append(weights(trainer.model))
        assert (tmp_path / f"run{len(models) - 1}" / "report.html").is_file()
    for other in models[1:]:
        assert all((models[0][name] == value).all() for name, value in other.items())
    assert len(entries(folder)) == 2  # the training data need no texts


def test_a_cache_can_be_named_in_the_settings(tmp_path: Path, spec: Any, folder: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", toy_rows(9))
    made(path, tmp_path, spec, data_cache_dir=str(tmp_path / "elsewhere"))
    assert not folder.exists() and len(entries(tmp_path / "elsewhere")) == 1
    assert DataCache.of(None).folder == folder


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_pairs(tmp_path: Path) -> None:
    """The benchmark at two sizes: what it needs anyway is left out."""
    program = WORKER.parents[3] / "benchmarks" / "data.py"
    grown: dict[str, list[float]] = {"first": [], "again": []}
    counts = [30_000, 300_000]
    for count in counts:
        command = [sys.executable, str(program), "--pairs", str(count)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment()).stdout
        for line in map(json.loads, output.splitlines()):
            grown[line["process"]].append(count * line["peak_bytes_per_pair"])
    for small, large in grown.values():
        assert (large - small) / (counts[1] - counts[0]) < 16
