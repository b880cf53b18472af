"""`conjoin generate`: sources in from anywhere, results out in their order, a run that is cut off goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import folder_fixture, run_fixture, start  # noqa: F401  (fixtures)
from conjoin import ConjoinError, EncoderDecoderModel
from conjoin.bulk.journal import Journal
from conjoin.bulk.run import Run
from conjoin.cli import main
from conjoin.evaluation import TextSettings, generate_texts

SOURCES = ["the cat sat", "a dog ran to the old mat", "hello"]


def expected(folder: Path, sources: list[str], **generation: Any) -> list[str]:
    model = EncoderDecoderModel.from_pretrained(folder)
    return [
        " ".join(text.split()) if "\n" in text or "\t" in text else text
        for text in generate_texts(model, sources, TextSettings(generation=generation))
    ]


def test_arguments_in_text_out(run: Any, folder: Path) -> None:
    told = run("generate", folder, *SOURCES)
    assert told.code == 0, told.err
    assert told.lines == expected(folder, SOURCES)


def test_settings_reach_generate(run: Any, folder: Path) -> None:
    told = run(
        "generate", folder, *SOURCES, "--num-beams", "3", "--set", "max_new_tokens=4", "--set", "length_penalty=2"
    )
    assert told.lines == expected(folder, SOURCES, num_beams=3, max_new_tokens=4, length_penalty=2)


@pytest.mark.parametrize("name", ["self", "input_ids", "streamer", "num_beam"])
def test_only_settings_of_generate_can_be_set(name: str, run: Any, folder: Path) -> None:
    told = run("generate", folder, *SOURCES, "--set", f"{name}=3")
    assert told.code == 1 and f"generate() does not know these arguments:\n  {name}" in told.err, told.err


def test_a_file_in_json_out_with_everything_that_came_in(run: Any, folder: Path, tmp_path: Path) -> None:
    rows = [{"id": number, "text": text} for number, text in enumerate(SOURCES)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = run("generate", folder, "--input", tmp_path / "in.jsonl", "--source-column", "text", "--json")
    model = EncoderDecoderModel.from_pretrained(folder)
    wanted = generate_texts(model, SOURCES)
    found = [json.loads(line) for line in told.lines]
    assert found == [{**row, "prediction": text} for row, text in zip(rows, wanted, strict=True)]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "csv.gz"])
def test_tables_are_read_with_all_that_is_in_them(kind: str, run: Any, folder: Path, tmp_path: Path) -> None:
    import datetime
    import gzip

    import pyarrow as pa
    from pyarrow import parquet

    path, mark = tmp_path / f"a.{kind}", "\t" if kind == "tsv" else ","
    if kind == "parquet":
        parquet.write_table(pa.table({"text": ["the cat"], "day": [datetime.date(2020, 1, 2)]}), path)
    else:
        content = f"text{mark}day\nthe cat{mark}2020-01-02\n".encode()
        path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    told = run("generate", folder, "--input", path, "--source-column", "text", "--json")
    assert told.code == 0, told.err
    (row,) = map(json.loads, told.lines)
    assert row["text"] == "the cat" and row["day"] == "2020-01-02" and "prediction" in row
    told = run("generate", folder, "--input", path)
    assert told.code == 1 and "there is no column 'source'; there are 'text', 'day'" in told.err


def test_a_file_without_sources_is_told(run: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    told = run("generate", folder, "--input", tmp_path / "a.txt")
    assert told.code == 0 and not told.out and "holds no sources" in told.err


def test_several_results_a_source(run: Any, folder: Path) -> None:
    told = run("generate", folder, "hello", "--num-beams", "2", "--num-return-sequences", "2", "--json")
    (row,) = map(json.loads, told.lines)
    assert len(row["predictions"]) == 2


@pytest.mark.parametrize(("name", "count"), [("out.txt", 4), ("out.jsonl", 4)])
def test_a_results_file_has_a_line_for_every_line(
    run: Any, folder: Path, tmp_path: Path, name: str, count: int
) -> None:
    (tmp_path / "in.txt").write_text("\n".join([*SOURCES[:2], "", SOURCES[2]]) + "\n")
    told = run("generate", folder, "-i", tmp_path / "in.txt", "-o", tmp_path / name)
    assert (told.code, told.out) == (0, ""), told.err
    lines = (tmp_path / name).read_text().splitlines()
    assert len(lines) == count
    texts = [json.loads(line)["prediction"] if name.endswith("jsonl") else line for line in lines]
    assert texts[2] == ""
    again = run("generate", folder, "-i", tmp_path / "in.txt", "-o", tmp_path / name)
    assert again.code == 1
    assert "exists already" in again.err and "--overwrite" in again.err
    assert run("generate", folder, "-i", tmp_path / "in.txt", "-o", tmp_path / name, "--overwrite").code == 0


def test_damaged_input_is_one_message_before_anything_is_generated(run: Any, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"source": "a"}\n{"source": 3}\nx\n')
    told = run("generate", folder, "-i", path, "-o", tmp_path / "out.jsonl")
    assert told.code == 1
    assert told.err.startswith(f"DataError: {path} cannot be used:\n  line 2: no text under 'source'")
    assert "line 3: not JSON" in told.err
    assert "Traceback" not in told.err
    assert not list(tmp_path.glob("out*"))


SURROGATES = {
    "source": '{"source": "the cat"}\n{"source": "the \\ud800 cat"}\n',
    "text": '"the cat"\n"the \\ud800 cat"\n',
    "another key": '{"source": "the cat"}\n{"source": "the", "note": ["\\ud800 cat"]}\n',
}


@pytest.mark.parametrize("case", SURROGATES)
def test_half_a_character_is_told_by_its_line_before_anything_is_generated(run: Any, tmp_path: Path, case: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(SURROGATES[case])
    told = run("generate", "no/model", "-i", path, "-o", tmp_path / "out.jsonl")
    assert told.code == 1
    assert told.err.startswith(f"DataError: {path} cannot be used:\n  line 2: holds a lone surrogate")
    assert "\\ud800 cat" in told.err
    assert not list(tmp_path.glob("out*"))


def test_both_halves_of_a_character_are_one(run: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"source": "the \\ud83d\\ude00 cat"}\n')
    told = run("generate", folder, "-i", tmp_path / "in.jsonl", "--json")
    assert json.loads(told.out)["source"] == "the \U0001f600 cat"


def test_results_never_replace_the_input(run: Any, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("the cat\n")
    told = run("generate", "no/model", "-i", tmp_path / "in.txt", "-o", tmp_path / "in.txt", "--overwrite")
    assert told.code == 1
    assert "is an input of this command" in told.err
    assert (tmp_path / "in.txt").read_text() == "the cat\n"


@pytest.mark.parametrize("change", ["weights", "config and tokenizers", "dtype"])
def test_a_run_that_was_cut_off_goes_on_with_the_same_model_only(
    run: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    model, output = tmp_path / "model", tmp_path / "out.jsonl"
    shutil.copytree(folder, model)
    (tmp_path / "in.txt").write_text("\n".join(SOURCES) + "\n")
    words = ("generate", model, "-i", tmp_path / "in.txt", "-o", output, "--batch-size", "1")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "to_journal", cut_off)
        assert run(*words).code == 1
    kept = (tmp_path / "out.jsonl.partial").read_bytes()
    shutil.copytree(model, tmp_path / "copy")
    if change == "weights":
        path = model / "model.safetensors"
        times, found = path.stat(), bytearray(path.read_bytes())
        found[-1] ^= 1
        path.write_bytes(found)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "dtype":
        words += ("--dtype", "bfloat16")
    else:
        (model / "generation_config.json").write_text('{"max_new_tokens": 3}')
    told = run(*words)
    assert told.code == 1
    assert "this one is different:\n  " + change in told.err
    assert (tmp_path / "out.jsonl.partial").read_bytes() == kept
    shutil.rmtree(model)
    (tmp_path / "copy").rename(model)
    assert "1 results exist already" in run(*words[:8]).err
    assert len(output.read_text().splitlines()) == 3


def cut_off(run: Run, journal: Journal, _: object) -> None:
    for result in run.in_order():
        journal.add([result.entry()])
        raise KeyError("killed")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{model}"], "give sources as arguments"),
        (["{model}", "a", "--input", "b"], "not both"),
        (["{model}", "a", "b\udcff"], "text 2 holds a lone surrogate"),
        (["{model}", "a", "--set", "num_beams"], "not NAME=VALUE"),
        (["{model}", "a", "--device", "gpu"], "--device"),
    ],
)
def test_wrong_usage_is_2(run: Any, folder: Path, words: list[str], message: str) -> None:
    told = run("generate", *(word.format(model=folder) for word in words))
    assert told.code == 2
    assert message in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such/folder", "a"], "FileError"),
        (["{model}", "a", "--set", "num_beems=3"], "num_beems"),
        (["{model}", "-i", "no.txt"], "no.txt: no such file"),
    ],
)
def test_our_errors_are_1_and_a_traceback_comes_only_when_asked_for(
    run: Any, folder: Path, words: list[str], message: str
) -> None:
    given = [word.format(model=folder) for word in words]
    told = run("generate", *given)
    assert told.code == 1
    assert message in told.err
    assert "Traceback" not in told.err
    with pytest.raises(ConjoinError) as error:
        main(["generate", *given, "--debug"])
    assert message in f"{type(error.value).__name__} {error.value}"


def test_stdin_in_stdout_out(folder: Path) -> None:
    process = start("generate", folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, err = process.communicate("\n".join(SOURCES).encode())
    assert process.returncode == 0, err
    assert out.decode().splitlines() == expected(folder, SOURCES)
    assert err == b""


@pytest.mark.skipif(sys.platform != "linux", reason="kills")
def test_a_bulk_run_that_was_killed_repeats_and_loses_no_line(folder: Path, tmp_path: Path) -> None:
    sources = [f"the dog number {number} ran" for number in range(300)]
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in sources))
    words = ("generate", folder, "-i", tmp_path / "in.txt", "-o", tmp_path / "out.jsonl", "--batch-size", "2")
    partial = tmp_path / "out.jsonl.partial"
    process = start(*words)
    deadline = time.monotonic() + 120
    while not partial.exists() or partial.read_bytes().count(b"\n") < 20:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = partial.read_bytes().count(b"\n")
    assert kept < 300, "the run was over before it was killed"
    last = start(*words)
    assert f"{kept - 1:,} results exist already".encode() in last.communicate()[1]
    assert last.returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == sources
    assert [row["prediction"] for row in rows] == generate_texts(EncoderDecoderModel.from_pretrained(folder), sources)
    assert not partial.exists()
