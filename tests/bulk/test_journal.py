"""A results file survives being cut off anywhere, takes up only its own run, and ends up in the order of its input."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conjoin import FileError
from conjoin.bulk.journal import Journal
from conjoin.bulk.journal_lines import Result
from conjoin.errors import DataError

TEXTS = [f"text {number}" for number in range(40)]
RUN = {"model": "m", "num_beams": 2}


def finish(journal: Journal) -> None:
    """Write the results file with one line of JSON for each."""

    def write(found: Callable[[], Iterator[Result]]) -> None:
        journal.path.write_text("".join(f"{json.dumps(result.output)}\n" for result in found()))

    journal.finish(write)


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
        finish(journal)
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
        finish(journal)
    assert lines(path) == [f"result {index}" for index in range(40)]


def test_an_overwriting_run_that_was_cut_off_goes_on_with_and_without_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    path.write_text("old")
    for count in (0, 3):  # killed before the first result, and after the third
        with Journal(path, RUN, overwrite=True) as journal:
            journal.add(results(*range(count)))
    with Journal(path, RUN) as journal:
        assert journal.earlier == 3
    path.write_text("somebody else's")
    with pytest.raises(FileError, match=r"o\.jsonl\.partial holds 3 results that are not in it") as caught:
        Journal(path, RUN)
    assert "move o.jsonl away" in str(caught.value.hint) and path.read_text() == "somebody else's"
    path.unlink()
    with Journal(path, RUN) as journal:
        assert journal.earlier == 3


def test_an_overwriting_run_without_a_result_lets_no_other_run_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    path.write_text("old")
    Journal(path, RUN, overwrite=True).close()
    with pytest.raises(FileError, match="exists already"):
        Journal(path, {**RUN, "num_beams": 4})
    assert path.read_text() == "old"


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
        finish(journal)
    assert lines(path) == ["result 0"]


@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl")
def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    with Journal(tmp_path / "o", RUN), pytest.raises(FileError, match="another process is writing"):
        Journal(tmp_path / "o", RUN)


def started(path: Path, *indices: int) -> Path:
    """A journal with results in this order; returns it."""
    with Journal(path, RUN) as journal:
        journal.add(results(*indices))
    return path.with_name(f"{path.name}.partial")


DAMAGE: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"nothing\n", "is not JSON at column 1"),
    "a torn line": (b'{"index": 2, "inp\n', "is not JSON at column"),
    "no UTF-8": (b'{"index": 2, "input": "\xff"}\n', "is not UTF-8 at byte 24"),
    "a list": (b"[1]\n", "is no result: expected an object with index, input and output"),
    "no index": (b'{"input": "a", "output": 1}\n', "is no result"),
    "no output": (b'{"index": 2, "input": "a"}\n', "is no result"),
    "an output that is no object": (b'{"index": 2, "input": "a", "output": 1}\n', "is no result"),
    "half a character": (b'{"index": 2, "input": "\\ud800", "output": {}}\n', "holds a lone surrogate"),
    "an odd index": (b'{"index": "2", "input": "a", "output": 1}\n', "is no result"),
    "a negative index": (b'{"index": -2, "input": "a", "output": 1}\n', "is no result"),
    "an index that is true": (b'{"index": true, "input": "a", "output": 1}\n', "is no result"),
    "too deep": (b"[" * 3000 + b"\n", "is not JSON: maximum recursion"),
    "too many digits": (b"1" * 5000 + b"\n", "is not JSON: Exceeds the limit"),
    "another result": (b'{"index": 1, "input": "a", "output": {}}\n', "holds another result of source 2"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("place", [1, 2, 3])
def test_damage_is_named_by_line_and_nothing_is_changed(kind: str, place: int, tmp_path: Path) -> None:
    partial = started(tmp_path / "o", 1, 0)
    line, told = DAMAGE[kind]
    kept = partial.read_bytes().splitlines(keepends=True)
    place = 3 if kind == "another result" else place
    partial.write_bytes(b"".join([*kept[:place], line, *kept[place:]]))
    before = partial.read_bytes()
    with pytest.raises(FileError, match=rf"o\.partial, line {place + 1}: {told}"):
        Journal(tmp_path / "o", RUN)
    assert partial.read_bytes() == before and not (tmp_path / "o").exists()
    Journal(tmp_path / "o", RUN, overwrite=True).close()
    assert partial.read_text().count("\n") == 1


def test_a_result_that_stands_twice_is_written_once(tmp_path: Path) -> None:
    partial = started(tmp_path / "o", 1, 0)
    kept = partial.read_bytes().splitlines(keepends=True)
    partial.write_bytes(b"".join([*kept, kept[1], kept[2]]))
    with Journal(tmp_path / "o", RUN) as journal:
        assert [index for index, _ in journal.rest(enumerate(TEXTS))] == list(range(2, 40))
        journal.add(results(*range(39, 1, -1)))
        finish(journal)
    assert lines(tmp_path / "o") == [f"result {index}" for index in range(40)]


def test_a_journal_with_a_gap_is_kept(tmp_path: Path) -> None:
    partial = started(tmp_path / "o", 0, 2)
    with Journal(tmp_path / "o", RUN) as journal, pytest.raises(FileError, match="there is no result of source 2"):
        finish(journal)
    assert partial.exists() and not (tmp_path / "o").exists()


def test_a_journal_that_changed_while_it_was_written_is_kept(tmp_path: Path) -> None:
    with Journal(tmp_path / "o", RUN) as journal:
        journal.add(results(1, 0))
        partial = tmp_path / "o.partial"
        partial.write_bytes(b"\n" + partial.read_bytes())
        with pytest.raises(FileError, match="was changed while it was written"):
            finish(journal)
    assert partial.exists() and not (tmp_path / "o").exists()


FOREIGN = [b"my notes", b"my notes\n", b"{}\n", b'{"model": "m"}\n', b"\x00\x01\n", b"[1]\n", b"\n", b"\x1b[2Jhello\n"]


@pytest.mark.parametrize("content", FOREIGN)
@pytest.mark.parametrize("overwrite", [False, True])
def test_somebody_elses_file_is_left_alone(content: bytes, overwrite: bool, tmp_path: Path) -> None:
    partial = tmp_path / "o.partial"
    partial.write_bytes(content)
    with pytest.raises(FileError, match=r"is no record of results of this command: it begins with") as caught:
        Journal(tmp_path / "o", RUN, overwrite=overwrite)
    assert partial.read_bytes() == content and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("target", ["a file", "a journal", "nothing", "a folder"])
def test_nothing_is_written_through_a_link(target: str, overwrite: bool, tmp_path: Path) -> None:
    other = tmp_path / "other"
    if target == "a folder":
        other.mkdir()
    elif target != "nothing":
        other.write_text("notes\n" if target == "a file" else json.dumps(RUN) + "\n")
    before = other.read_bytes() if other.is_file() else None
    (tmp_path / "o.partial").symlink_to(other)
    with pytest.raises(FileError, match="is a link to another file"):
        Journal(tmp_path / "o", RUN, overwrite=overwrite)
    assert (other.read_bytes() if other.is_file() else None) == before


def test_a_first_line_that_was_cut_short_binds_nobody(tmp_path: Path) -> None:
    whole = json.dumps({"conjoin": "results", **RUN}).encode() + b"\n"
    for size in range(len(whole) + 1):
        (tmp_path / "o.partial").write_bytes(whole[:size])
        Journal(tmp_path / "o", RUN).close()
        assert (tmp_path / "o.partial").read_bytes() == whole


def test_mutants_of_a_journal_are_refused_or_lose_no_line(tmp_path: Path) -> None:
    partial = started(tmp_path / "o", *reversed(range(12)))
    whole, dice = partial.read_bytes(), random.Random(3)
    for _ in range(300):
        mutant = bytearray(whole)
        at, size = dice.randrange(len(whole)), dice.randint(1, 40)
        match dice.randrange(4):
            case 0:
                del mutant[at : at + size]
            case 1:
                mutant[at : at + size] = dice.randbytes(size)
            case 2:
                mutant[at:at] = mutant[dice.randrange(len(whole)) :][:size]
            case _:
                rows = whole.splitlines(keepends=True)
                mutant = bytearray(
                    b"".join(dice.choices(rows, k=len(rows)) if dice.random() < 0.5 else [*rows, rows[3]])
                )
        partial.write_bytes(mutant)
        try:
            with Journal(tmp_path / "o", RUN) as journal:
                todo = [index for index, _ in journal.rest(enumerate(TEXTS[:12]))]
                journal.add(results(*todo))
                finish(journal)
        except (FileError, DataError):
            assert partial.exists()
            continue
        assert (tmp_path / "o").read_bytes().count(b"\n") == 12
        (tmp_path / "o").unlink()


KILLED = """
import json, os, random, signal, sys, time
from conjoin.bulk.journal import Journal
path, count, dice = sys.argv[1], 500, random.Random(0)
texts = [f"text {number}" for number in range(count)]

def output(found):
    with open(path + ".tmp", "w") as file:
        file.writelines(json.dumps(result.output) + "\\n" for result in found)
    os.rename(path + ".tmp", path)

def work():
    with Journal(path, {}) as journal:
        todo = list(journal.rest(enumerate(texts)))
        for start in range(0, len(todo), 7):
            batch = todo[start : start + 7]
            journal.add((index, text, {"prediction": text}) for index, text in reversed(batch))
            time.sleep(0.002)  # so that no run is through before the first kill, on any machine
        journal.finish(lambda found: output(found()))

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
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1
    assert lines(path) == [f"text {number}" for number in range(500)]
