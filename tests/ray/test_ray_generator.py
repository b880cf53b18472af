"""`conjoin.ray.Generator` on batches as Ray Data gives them; and a real Ray of two workers, one of which is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import SOURCE, folder_fixture, start  # noqa: F401  (fixture)
from conjoin import EncoderDecoderModel
from conjoin.errors import DataError, GenerationError
from conjoin.evaluation import TextSettings, generate_stream, generate_texts
from conjoin.ray import Generator
from conjoin.torch.pair.halves import Encoder

SOURCES = [f"the dog number {number} ran to the old mat" + " again" * (number % 5) for number in range(12)]


def batch(**columns: Any) -> dict[str, np.ndarray]:
    return {name: np.array(values, dtype=object) for name, values in columns.items()}


def test_a_batch_gets_a_column_of_results_and_keeps_its_others(folder: Path) -> None:
    wanted = generate_texts(EncoderDecoderModel.from_pretrained(folder), SOURCES)
    made = Generator(str(folder), source_column="text", batch_size=5)({"id": np.arange(12), **batch(text=SOURCES)})
    assert list(made) == ["id", "text", "prediction", "source_was_cut"]
    assert made["id"].dtype == np.arange(12).dtype
    assert made["prediction"].tolist() == wanted and made["source_was_cut"].tolist() == [False] * 12


def test_several_results_scores_and_empty_sources(folder: Path) -> None:
    generator = Generator(str(folder), scores=True, num_beams=3, num_return_sequences=2)
    made = generator(batch(source=["", SOURCES[0]]))
    assert list(made) == ["source", "predictions", "scores", "source_was_cut"]
    assert made["predictions"][0] == ["", ""] and made["scores"][0] == [None, None]
    settings = TextSettings(scores=True, generation={"num_beams": 3, "num_return_sequences": 2})
    ((alone,),) = generate_stream(EncoderDecoderModel.from_pretrained(folder), [(0, SOURCES[0])], settings)
    assert made["predictions"][1] == alone.texts and made["scores"][1] == pytest.approx(alone.scores)
    assert all(len(column) == 0 for column in generator(batch(source=[])).values())


def test_samples_are_those_of_a_run_with_the_same_numbers_or_depend_on_the_text(folder: Path) -> None:
    model = EncoderDecoderModel.from_pretrained(folder)
    settings = TextSettings(generation={"do_sample": True}, seed=5)
    wanted = generate_texts(model, SOURCES, settings)
    generator = Generator(str(folder), index_column="index", do_sample=True, seed=5)
    order = [7, 3, 11, 0]
    made = generator({"index": np.array(order), **batch(source=[SOURCES[index] for index in order])})
    assert made["prediction"].tolist() == [wanted[index] for index in order]
    generator = Generator(str(folder), do_sample=True, seed=5)
    one, other = generator(batch(source=["a", "b", "a"])), generator(batch(source=["b", "a"]))
    assert one["prediction"][0] == one["prediction"][2] == other["prediction"][1]
    assert one["prediction"][1] == other["prediction"][0] != one["prediction"][0]


def test_errors_are_the_jobs_or_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no column 'source'; it has 'text'"):
        Generator(str(folder))(batch(text=["a"]))
    with pytest.raises(DataError, match="source holds a int, expected text"):
        Generator(str(folder))(batch(source=["a", 3]))
    with pytest.raises(DataError, match="index holds 4 more than once"):
        Generator(str(folder), index_column="index")(batch(source=["a", "b"], index=[4, 4]))
    with pytest.raises(GenerationError, match="num_beems"):
        Generator(str(folder), num_beems=2)(batch(source=["a"]))
    original = Encoder.forward

    def fail(encoder: Any, ids: Any, *others: Any, **more: Any) -> Any:
        if len(ids) > 1 or ids.shape[1] > 10:
            raise MemoryError("too much")
        return original(encoder, ids, *others, **more)

    monkeypatch.setattr(Encoder, "forward", fail)
    made = Generator(str(folder), keep_errors=True)(batch(source=["a", "a b " * 12]))
    assert list(made)[-1] == "error" and made["error"].tolist() == [None, "MemoryError: too much"]
    assert made["prediction"][0] is not None and made["prediction"][1] is None


JOB = """
import sys
import ray
from conjoin.ray import Generator

folder, output, count = sys.argv[1:]
ray.init(num_cpus=2, object_store_memory=100 * 1024**2, include_dashboard=False, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
rows = [{"index": number, "source": f"the dog number {number} ran"} for number in range(int(count))]
ds = ray.data.from_items(rows, override_num_blocks=20).map_batches(
    Generator,
    fn_constructor_kwargs={"model": folder, "index_column": "index", "do_sample": True, "seed": 5, "batch_size": 4},
    batch_size=8,
    concurrency=2,
    num_cpus=1,
)
with open(output, "w") as file:
    for row in ds.iter_rows():
        file.write(f"{row['index']}\\t{row['prediction']!r}\\n")
        file.flush()
"""


def actors_of(parent: int, name: bytes) -> list[int]:
    """Processes below a process whose title has a name, as Ray sets it."""
    parents: dict[int, int] = {}
    titles: dict[int, bytes] = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(stat[1])
                titles[int(entry.name)] = (entry / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue

    def is_below(pid: int) -> bool:
        while pid in parents:
            if pid == parent:
                return True
            pid = parents[pid]
        return False

    return [pid for pid, title in titles.items() if pid != parent and name in title and is_below(pid)]


def kill_one(process: "subprocess.Popen[bytes]", name: bytes, output: Path, count: int) -> None:
    """Kill an actor once a file has more than `count` lines."""
    deadline = time.monotonic() + 400
    while not output.exists() or output.read_bytes().count(b"\n") <= count:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    actors = actors_of(process.pid, name)
    assert actors, "no actor is there"
    os.kill(actors[0], signal.SIGKILL)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE), "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and kills")
def test_a_ray_job_whose_actor_is_killed_loses_and_repeats_no_row(folder: Path, tmp_path: Path) -> None:
    count, output = 400, tmp_path / "out"
    command = [sys.executable, "-c", JOB, str(folder), str(output), str(count)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    kill_one(process, b"Generator", output, 8)
    err = process.communicate()[1]
    assert process.returncode == 0, err
    found = [line.split("\t") for line in output.read_text().splitlines()]
    assert sorted(int(index) for index, _ in found) == list(range(count))
    wanted = generate_texts(
        EncoderDecoderModel.from_pretrained(folder),
        [f"the dog number {number} ran" for number in range(count)],
        TextSettings(generation={"do_sample": True}, seed=5),
    )
    assert {int(index): text for index, text in found} == {index: repr(text) for index, text in enumerate(wanted)}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and kills")
def test_a_command_on_ray_whose_actor_is_killed_loses_and_repeats_no_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [f"the dog number {number} ran" for number in range(400)]
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in sources))
    words = ("generate", folder, "-i", tmp_path / "in.txt", "-o", tmp_path / "out.jsonl", "--batch-size", "2")
    process = start(*words, "--ray", "local", "--workers", "2")
    kill_one(process, b"_Model", tmp_path / "out.jsonl.partial", 20)
    err = process.communicate()[1]
    assert process.returncode == 0, err
    assert err.decode().endswith(f"{tmp_path / 'out.jsonl'}: 400 results.\n")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == sources
    assert [row["prediction"] for row in rows] == generate_texts(EncoderDecoderModel.from_pretrained(folder), sources)


@pytest.mark.slow
def test_errors_on_ray_are_told_as_those_of_one_process(folder: Path) -> None:
    words = ("generate", folder, "a", "--set", "num_beam_groups=7", "--num-beams", "2")
    one, two = (start(*words, *more).communicate()[1] for more in ((), ("--ray", "local")))
    assert one.startswith(b"GenerationError: ") and two == one
    told = start("generate", folder, "a", "--ray", "127.0.0.1:1").communicate()[1]
    assert b"Ray at '127.0.0.1:1' cannot be used: " in told
