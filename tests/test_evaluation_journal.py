"""A results file survives being cut off anywhere, takes up only its own run, and ends up in the order of its input."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from conjoin import FileError
from conjoin.errors import DataError
from conjoin.evaluation.journal import Journal

TEXTS = [f"text {number}" for number in range(40)]
RUN = {"model": "m", "num_beams": 2}


def results(*indices: int) -> list[tuple[int, str, dict[str, str]]]:
    return [(index, TEXTS[index], {"prediction": f"result {index}"}) for index in indices]


def lines(path: Path) -> list[str]:
    return [json.loads(line)["prediction"] for line in path.read_text().splitlines()]


def test_results_end_up_in_the_order_of_their_sources(tmp_path: Path) -> None:
    order = list(range(40))
    random.shuffle(order)
    with Journal(tmp_path / "o.jsonl", RUN) as journal:
        for index in order:
            journal.add(results(index))
        journal.finish(json.dumps)
    assert lines(tmp_path / "o.jsonl") == [f"result {index}" for index in range(40)]
    assert [path.name for path in tmp_path.iterdir()] == ["o.jsonl"]


@pytest.mark.parametrize("torn", ["", '{"ind', '{"index": 9, "input": "x", "output": {}}'])
def test_a_run_goes_on_where_it_was_cut_off(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "o.jsonl"
    with Journal(path, RUN) as journal:
        journal.add(results(3, 1, 7))
    with open(tmp_path / "o.jsonl.partial", "a") as file:
        file.write(torn)
    with Journal(path, RUN) as journal:
        rest = [index for index, _ in journal.rest(enumerate(TEXTS))]
        assert rest == [index for index in range(40) if index not in (1, 3, 7)]
        journal.add(results(*rest))
        journal.finish(json.dumps)
    assert lines(path) == [f"result {index}" for index in range(40)]


def test_other_settings_are_refused_by_name_and_overwriting_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    with Journal(path, RUN) as journal:
        journal.add(results(0))
    with pytest.raises(FileError, match="num_beams: 2 then, 4 now"):
        Journal(path, {**RUN, "num_beams": 4})
    with Journal(path, {**RUN, "num_beams": 4}, overwrite=True) as journal:
        assert not journal.done


def test_a_run_without_a_result_yet_binds_nobody(tmp_path: Path) -> None:
    Journal(tmp_path / "o", RUN).close()
    Journal(tmp_path / "o", {"model": "other"}).close()


def test_another_input_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    with Journal(path, RUN) as journal:
        journal.add(results(0, 5))
    with Journal(path, RUN) as journal:
        with pytest.raises(DataError, match="source 1 is not what it was"):
            list(journal.rest(enumerate(["another", *TEXTS[1:]])))
        with pytest.raises(DataError, match="1 results more than sources"):
            list(journal.rest(enumerate(TEXTS[:4])))


def test_a_finished_file_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    path.write_text("mine")
    with pytest.raises(FileError, match="exists already"):
        Journal(path, RUN)
    with Journal(path, RUN, overwrite=True) as journal:
        assert path.read_text() == "mine"
        journal.add(results(0))
        journal.finish(json.dumps)
    assert lines(path) == ["result 0"]


@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl")
def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    with Journal(tmp_path / "o", RUN), pytest.raises(FileError, match="another process is writing"):
        Journal(tmp_path / "o", RUN)


KILLED = """
import json, os, random, signal, sys, time
from conjoin.evaluation.journal import Journal
path, count, dice = sys.argv[1], 500, random.Random(0)
texts = [f"text {number}" for number in range(count)]

def work():
    with Journal(path, {}) as journal:
        todo = list(journal.rest(enumerate(texts)))
        for start in range(0, len(todo), 7):
            batch = todo[start : start + 7]
            journal.add((index, text, {"prediction": text}) for index, text in reversed(batch))
            time.sleep(0.002)  # so that no run is through before the first kill, on any machine
        journal.finish(json.dumps)

rounds = 0
while not os.path.exists(path):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    time.sleep(dice.uniform(0.005, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    rounds += 1
    assert rounds < 2000
print(rounds)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks and kills")
def test_a_run_killed_again_and_again_repeats_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1
    assert lines(path) == [f"text {number}" for number in range(500)]
