"""`conjoin generate` by several processes, in shards and in every format: the same words as by one process."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from command_line import folder_fixture, run_fixture, start  # noqa: F401  (fixtures)
from conjoin import EncoderDecoderModel
from conjoin.evaluation import TextSettings, generate_texts
from conjoin.torch.pair.halves import Encoder

SOURCES = [f"the dog number {number} ran to the old mat" + " again" * (number % 5) for number in range(40)]


def write_sources(path: Path, sources: list[str] = SOURCES) -> Path:
    path.write_text("".join(f"{text}\n" for text in sources))
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def expected(folder: Path, sources: list[str] = SOURCES, **settings: Any) -> list[str]:
    return generate_texts(EncoderDecoderModel.from_pretrained(folder), sources, TextSettings(**settings))


@pytest.mark.parametrize("sampled", [(), ("--sample", "--seed", "3")])
def test_shards_merged_are_one_run(sampled: tuple[str, ...], run: Any, folder: Path, tmp_path: Path) -> None:
    words = ("generate", folder, "-i", write_sources(tmp_path / "in.txt"), "-o", tmp_path / "out.jsonl", *sampled)
    for shard in ("3/3", "1/3"):
        told = run(*words, "--shard", shard)
        assert told.code == 0, told.err
    told = run("merge", tmp_path / "out.jsonl")
    assert told.code == 1 and "1 of 3 shards of" in told.err and "2/3: there is no out.jsonl.2-of-3" in told.err
    assert run(*words, "--shard", "2/3", "--batch-size", "3").code == 0
    told = run("merge", tmp_path / "out.jsonl")
    assert told.code == 0 and "40 results" in told.err
    settings = {"generation": {"do_sample": True}, "seed": 3} if sampled else {}
    assert [row["prediction"] for row in rows(tmp_path / "out.jsonl")] == expected(folder, **settings)
    told = run("merge", tmp_path / "out.jsonl")
    assert told.code == 1 and "exists already" in told.err
    told = run(*words, "--shard", "2/3")
    assert told.code == 1 and "out.jsonl.2-of-3 exists already" in told.err


def test_shards_of_other_settings_are_not_merged(run: Any, folder: Path, tmp_path: Path) -> None:
    words = ("generate", folder, *SOURCES[:2], "-o", tmp_path / "out.txt")
    assert run(*words, "--shard", "1/2").code == 0
    assert run(*words, "--shard", "2/2", "--num-beams", "2").code == 0
    told = run("merge", tmp_path / "out.txt")
    assert told.code == 1 and "of different runs:\n  generation: {} then, {'num_beams': 2} now" in told.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "1/2"], "a shard needs --output"),
        (["--shard", "3/2", "-o", "x"], "'3/2' names no shard"),
        (["--workers", "0"], "--workers"),
        (["--on-error", "ignore"], "--on-error"),
    ],
)
def test_wrong_usage_is_2(words: list[str], message: str, run: Any, folder: Path) -> None:
    told = run("generate", folder, "a", *words)
    assert told.code == 2 and message in told.err


def test_damaged_lines_are_kept_as_errors_and_tried_again(run: Any, folder: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"source": "the cat", "error": "old"}\n{"source": 3, "id": 7}\nx\n{"source": "a dog"}\n')
    words = ("generate", folder, "-i", path, "-o", output, "--on-error", "keep")
    told = run(*words)
    assert told.code == 3 and "2 sources failed" in told.err
    found = rows(output)
    first, second = expected(folder, ["the cat", "a dog"])
    assert found[0] == {"source": "the cat", "prediction": first}
    assert found[1]["id"] == 7 and found[1]["error"].startswith("line 2: no text under 'source'")
    assert list(found[2]) == ["error"] and found[2]["error"].startswith("line 3: not JSON")
    assert found[3] == {"source": "a dog", "prediction": second}
    path.write_text('{"source": "the cat"}\n{"source": "a dog", "id": 7}\nx\n{"source": "a dog"}\n')
    told = run(*words)
    assert told.code == 3 and "2 results exist already" in told.err and "1 sources failed" in told.err
    assert rows(output)[1] == {"source": "a dog", "id": 7, "prediction": second}
    path.write_text('{"source": "the cat"}\n{"source": "a dog", "id": 7}\n"hello"\n{"source": "a dog"}\n')
    assert run(*words).code == 0
    assert [list(row) for row in rows(output)][2] == ["source", "prediction"]
    assert [path.name for path in tmp_path.glob("out*")] == ["out.jsonl"]
    told = run(*words)
    assert told.code == 1 and "exists already" in told.err


def test_results_that_were_edited_are_not_replaced_by_another_try(run: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"source": "the cat"}\nx\n')
    words = ("generate", folder, "-i", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--on-error", "keep")
    assert run(*words).code == 3
    (tmp_path / "out.jsonl").write_text("mine\n")
    told = run(*words)
    assert told.code == 1 and "exists already" in told.err
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"


def test_sources_that_fail_alone_are_kept_and_the_others_are_right(
    run: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sources(tmp_path / "in.txt", SOURCES[:8])
    wanted, original = expected(folder, SOURCES[:8]), Encoder.forward
    bad = EncoderDecoderModel.from_pretrained(folder).tokenizer([SOURCES[3]])["input_ids"][0]

    def fail(encoder: Any, ids: Any, *others: Any, **more: Any) -> Any:
        if bad in [row[: len(bad)] for row in ids.tolist()]:
            raise MemoryError("you tried to allocate 9 bytes")
        return original(encoder, ids, *others, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "forward", fail)
        told = run("generate", folder, "-i", path, "-o", tmp_path / "out.csv", "--on-error", "keep")
        assert told.code == 3
        told = run("generate", folder, "-i", path, "--on-error", "keep")
        assert told.code == 3 and told.lines == [*wanted[:3], "", *wanted[4:]]
        assert run("generate", folder, "-i", path, "-o", tmp_path / "stops.csv").code == 1
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "source,prediction,source_was_cut,error"
    assert lines[4] == f"{SOURCES[3]},,,MemoryError: you tried to allocate 9 bytes"
    assert run("generate", folder, "-i", path, "-o", tmp_path / "out.csv", "--on-error", "keep").code == 0
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[1:] == [f"{source},{text},false," for source, text in zip(SOURCES[:8], wanted, strict=True)]


def test_a_setting_that_no_source_can_be_generated_with_ends_the_run(run: Any, folder: Path, tmp_path: Path) -> None:
    path = write_sources(tmp_path / "in.txt", ["the cat"] * 200)
    words = ("--on-error", "keep", "--set", "num_beam_groups=7", "--num-beams", "2")
    told = run("generate", folder, "-i", path, "-o", tmp_path / "out.csv", *words)
    assert told.code == 1 and "sources all failed: " in told.err
    assert not (tmp_path / "out.csv").exists()


FORMATS = ["txt", "jsonl", "csv", "tsv", "parquet"]


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("out", FORMATS)
def test_every_format_comes_in_and_out_with_its_other_columns(
    out: str, packed: str, run: Any, folder: Path, tmp_path: Path
) -> None:
    given = [{"id": "7", "source": "the cat", "note": "a,\tb"}, {"id": "8", "source": "a dog", "note": ""}]
    path = tmp_path / "in.parquet"
    parquet.write_table(pa.Table.from_pylist(given), path)
    wanted = expected(folder, ["the cat", "a dog"])
    for number, name in enumerate([f"1.{out}{packed}", f"2.{out}{packed}"]):
        told = run("generate", folder, "-i", path, "-o", tmp_path / name)
        assert told.code == 0, told.err
        path = tmp_path / name
        if out == "txt":
            raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
            assert raw.decode().splitlines() == (wanted if number == 0 else expected(folder, wanted))
            continue
        shown = run("generate", folder, "-i", path, "--json")
        for row, source, text in zip(map(json.loads, shown.lines), given, wanted, strict=True):
            assert list(row)[:3] == ["id", "source", "note"]
            assert {**source, "prediction": text} == {name: row[name] for name in (*source, "prediction")}


def test_several_results_and_scores_are_columns(run: Any, folder: Path, tmp_path: Path) -> None:
    words = ("generate", folder, *SOURCES[:2], "--num-beams", "3", "--scores")
    assert run(*words, "--num-return-sequences", "2", "-o", tmp_path / "o.parquet").code == 0
    table = parquet.read_table(tmp_path / "o.parquet")
    assert table.column_names == ["source", "predictions", "scores", "source_was_cut"]
    assert [str(field.type) for field in table.schema][1:3] == ["list<element: string>", "list<element: double>"]
    first = table.to_pylist()[0]
    assert len(first["predictions"]) == 2 and first["scores"] == sorted(first["scores"], reverse=True)
    (row,) = map(json.loads, run(*words[:3], *words[4:], "--json").lines)
    assert row["score"] == pytest.approx(first["scores"][0], abs=2e-5)  # other rows beside it round otherwise
    assert row["prediction"] == first["predictions"][0]
    told = run("generate", folder, "a", "--scores")
    assert told.code == 1 and "Only beam search has scores" in told.err


def test_tables_are_printed_too_and_read_from_a_pipe(run: Any, folder: Path) -> None:
    told = run("generate", folder, *SOURCES[:2], "--format", "tsv")
    assert told.lines[0] == "source\tprediction\tsource_was_cut" and len(told.lines) == 3
    told = run("generate", folder, "a", "--format", "parquet")
    assert told.code == 1 and "Parquet cannot be printed" in told.err
    process = start(
        "generate", folder, "--input-format", "csv", "--json", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    out, err = process.communicate(b"id,source\n7,the cat\n")
    assert process.returncode == 0, err
    assert json.loads(out)["id"] == "7"


def test_a_row_with_other_columns_than_the_first_is_refused_where_the_header_is_printed(
    run: Any, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text('{"source": "a"}\n{"source": "a", "id": 1}\n')
    told = run("generate", folder, "-i", tmp_path / "in.jsonl", "--format", "csv")
    assert told.code == 1 and "which the first row has not" in told.err
    assert run("generate", folder, "-i", tmp_path / "in.jsonl", "-o", tmp_path / "o.csv").code == 0
    assert (tmp_path / "o.csv").read_text().startswith("source,id,prediction,source_was_cut\na,,")


def workers_of(process: "subprocess.Popen[bytes]") -> list[int]:
    """The processes that a command has started to generate."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == process.pid:
                found += [int(entry.name)] * (b"conjoin.bulk.worker" in (entry / "cmdline").read_bytes())
        except OSError:  # it has ended meanwhile
            continue
    return found


def wait_for(partial: Path, count: int, process: "subprocess.Popen[bytes]") -> int:
    """Wait until a journal has more than `count` lines; return how many."""
    deadline = time.monotonic() + 240
    while not partial.exists() or (lines := partial.read_bytes().count(b"\n")) <= count:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.01)
    return lines


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and kills")
def test_a_worker_that_is_killed_loses_and_repeats_no_line(folder: Path, tmp_path: Path) -> None:
    sources = [f"the dog number {number} ran" for number in range(400)]
    path, output = write_sources(tmp_path / "in.txt", sources), tmp_path / "out.jsonl"
    process = start("generate", folder, "-i", path, "-o", output, "--batch-size", "2", "--workers", "2")
    lines = wait_for(tmp_path / "out.jsonl.partial", 20, process)
    before = workers_of(process)
    os.kill(before[0], signal.SIGKILL)
    lines = wait_for(tmp_path / "out.jsonl.partial", lines + 20, process)
    assert lines < 400, "the run was over before the worker was killed"
    assert process.communicate()[1] == b"out.jsonl: 400 results.\n".replace(b"out.jsonl", bytes(output))
    assert process.returncode == 0 and len(before) <= 2
    found = rows(output)
    assert [row["source"] for row in found] == sources
    assert [row["prediction"] for row in found] == expected(folder, sources)
    assert not workers_of(process)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and kills")
def test_a_run_with_workers_that_is_killed_goes_on_with_any_number_of_them(folder: Path, tmp_path: Path) -> None:
    sources = [f"the dog number {number} ran" for number in range(400)]
    path, output = write_sources(tmp_path / "in.txt", sources), tmp_path / "out.jsonl"
    words = ("generate", folder, "-i", path, "-o", output, "--batch-size", "2", "--sample", "--seed", "5")
    process = start(*words, "--workers", "2")
    wait_for(tmp_path / "out.jsonl.partial", 20, process)
    workers = workers_of(process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):  # they end with their parent's pipe
        assert time.monotonic() < deadline
        time.sleep(0.05)
    last = start(*words, "--workers", "3")
    told = last.communicate()[1]
    assert last.returncode == 0 and b"results exist already" in told
    assert [row["prediction"] for row in rows(output)] == expected(
        folder, sources, generation={"do_sample": True}, seed=5
    )


@pytest.mark.slow
def test_errors_of_workers_are_told_as_those_of_one_process(folder: Path, tmp_path: Path) -> None:
    path = write_sources(tmp_path / "in.txt")
    words = ("generate", folder, "-i", path, "-o", tmp_path / "o.txt", "--set", "num_beam_groups=7", "--num-beams", "2")
    one, two = (start(*words, "--workers", count).communicate()[1] for count in ("1", "2"))
    assert one.startswith(b"GenerationError: ") and two == one
    two = start(*words[:6], "--workers", "2", "--device", "cuda:99").communicate()[1]
    assert b"'cuda:99': " in two
    two = start(*words, "--workers", "2", "--debug").communicate()[1]
    assert b"RemoteTraceback" in two and b"local.py" in two
