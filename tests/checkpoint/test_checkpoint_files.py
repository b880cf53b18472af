"""JSON files and atomic folders: a save that fails or is killed leaves the old folder or the new one."""

import builtins
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import conjoin.checkpoint
from conjoin.checkpoint import (
    exchange,
    open_checkpoint,
    read_json,
    replacing_folder,
    resolve,
    write_json,
)
from conjoin.errors import ConfigError, FileError
from conjoin.jsons import JsonError, parse_json


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with a config, and files of the user's own."""
    folder = tmp_path / "out"
    (folder / "runs" / "deep").mkdir(parents=True)
    write_json(folder / "config.json", {"old": True})
    (folder / "notes.md").write_text("mine")
    (folder / "runs" / "deep" / "log").write_text("mine too")
    (folder / "link").symlink_to("notes.md")
    return folder


def _tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# JSON


def test_json_is_written_as_transformers_writes_it(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"b": 1, "a": "é"})
    assert (tmp_path / "config.json").read_text() == '{\n  "a": "\\u00e9",\n  "b": 1\n}\n'
    assert read_json(tmp_path / "config.json") == {"a": "é", "b": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n  "a": 1,\n  "b" 2}', r"config\.json: not JSON at line 3, column 7: Expecting ':' delimiter"),
        ("", "not JSON at line 1, column 1"),
        ("[1]", r"holds a JSON list, expected an object"),
        ("[" * 100_000, "not JSON: maximum recursion"),
        ('{"a": ' + "1" * 5000 + "}", "not JSON: Exceeds the limit"),
        ('{\n"a": ' + "1" * 5000 + "}", "a number of 5000 at line 2, column 6"),
        ("\n" + "[" * 200 + "]" * 200, "more than 100 lists and objects inside one another at line 2, column 101"),
        ('{"text": "[[", "a": ' + '{"a": ' * 300 + "1" + "}" * 301, "more than 100 .* at line 1, column 615"),
    ],
)
def test_bad_json_names_file_line_and_column(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_json(tmp_path / "config.json")


def test_json_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"absent\.json: no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(FileError, match="cannot be read: Is a directory"):
        read_json(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not JSON: 'utf-8' codec"):
        read_json(tmp_path / "bytes.json")


def test_json_of_a_hundred_levels_is_read_and_one_more_is_not(tmp_path: Path) -> None:
    assert parse_json("[" * 100 + "]" * 100)
    with pytest.raises(JsonError, match="column 101"):
        parse_json("[" * 101 + "]" * 101)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_place_of_a_json_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(FileError, match="not a file, but a pipe"):
        read_json(tmp_path / "config.json")


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "config.json") == {"a": 1}


def test_a_value_without_json_form_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"a": 1})
    with pytest.raises(ConfigError, match="cannot be written as JSON: Object of type set"):
        write_json(tmp_path / "config.json", {"a": set()})
    assert read_json(tmp_path / "config.json") == {"a": 1}


# Replacing a folder


def test_a_new_folder_appears_with_its_parents(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "a" / "b") as staging:
        write_json(staging / "config.json", {"v": 1})
        (staging / "sub/deep/file").write_text("x")
        Path(staging).joinpath("plain").write_text("y")
        assert not (tmp_path / "a" / "b").exists()
    assert sorted(_tree(tmp_path / "a")) == ["b/config.json", "b/plain", "b/sub/deep/file"]


def test_the_users_other_files_are_kept(out: Path) -> None:
    log = (out / "runs" / "deep" / "log").stat().st_ino
    with replacing_folder(out) as staging:
        write_json(staging / "config.json", {"old": False})
        staging.remove("notes.md")
    assert _tree(out) == {"config.json": '{\n  "old": false\n}\n', "runs/deep/log": "mine too"}
    assert (out / "link").is_symlink()
    assert (out / "runs" / "deep" / "log").stat().st_ino == log
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_files_are_copied_where_links_are_impossible(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    before = _tree(out)
    with replacing_folder(out) as staging:
        (staging / "new").write_text("n")
    assert _tree(out) == {**before, "new": "n"}
    assert (out / "link").is_symlink()


def test_writing_in_place_cannot_touch_the_old_files(out: Path) -> None:
    old = out / "config.json"
    with old.open() as reader:
        with replacing_folder(out) as staging, open(staging / "config.json", "a") as file:
            file.write("new")
        assert reader.read() == '{\n  "old": true\n}\n'
    assert old.read_text() == "new"


def test_removing_takes_back_what_was_written_and_whole_folders(out: Path) -> None:
    with replacing_folder(out) as staging:
        (staging / "x").write_text("x")
        (staging / "y/z").write_text("z")
        assert staging.names() == ["config.json", "link", "notes.md", "runs", "x", "y"]
        for name in ("x", "y", "runs/", "config.json"):
            staging.remove(name)
        assert staging.names() == ["link", "notes.md"]
        write_json(staging / "config.json", {})
    assert sorted(_tree(out)) == ["config.json", "link", "notes.md"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", ".", "C:\\x", "..\\x"])
def test_names_that_lead_out_of_the_folder_are_refused(out: Path, name: str) -> None:
    with replacing_folder(out) as staging:
        for act in (staging.path, staging.remove):
            with pytest.raises(FileError, match="does not name a file inside its folder"):
                act(name)


def test_the_folders_permissions_and_a_link_to_it_are_kept(out: Path) -> None:
    out.chmod(0o750)
    (out.parent / "latest").symlink_to("out")
    with replacing_folder(out.parent / "latest") as staging:
        write_json(staging / "config.json", {})
    assert (out.parent / "latest").is_symlink()
    assert out.stat().st_mode & 0o777 == 0o750
    assert read_json(out / "config.json") == {}


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_folder_and_nothing_else(out: Path, error: BaseException) -> None:
    before = _tree(out)
    with pytest.raises(type(error)), replacing_folder(out) as staging:
        write_json(staging / "config.json", {})
        staging.remove("notes.md")
        raise error
    assert _tree(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_full_disk_is_our_error_and_leaves_the_old_folder(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _tree(out)
    true_open = builtins.open

    def full(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        if "w" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        return true_open(file, mode, *args, **more)

    with (
        pytest.raises(
            FileError, match=r"out: cannot be written: No space left on device \(.*weights\)\. What was there"
        ),
        replacing_folder(out) as staging,
    ):
        write_json(staging / "config.json", {})
        monkeypatch.setattr(builtins, "open", full)
        with open(staging / "weights", "wb") as file:
            file.write(b"")
    monkeypatch.undo()
    assert _tree(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_disk_that_is_full_at_the_last_step_leaves_the_old_folder(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    before = _tree(out)
    monkeypatch.setattr(exchange, "sync", full)
    with pytest.raises(FileError, match="No space left on device"), replacing_folder(out) as staging:
        write_json(staging / "config.json", {})
    assert _tree(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_targets_that_cannot_be_replaced_are_refused(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileError, match="is a file, expected a folder"), replacing_folder(out / "notes.md"):
        pass
    with pytest.raises(FileError, match="mount point"), replacing_folder("/proc"):
        pass
    monkeypatch.chdir(out / "runs")
    for target in (".", "..", out):
        refused = pytest.raises(
            FileError, match=r"the working folder of this process.*\n\nhint: save to a folder inside"
        )
        with refused, replacing_folder(target):
            pass


def test_two_saves_at_once_leave_one_of_the_two(out: Path) -> None:
    def save(value: int) -> None:
        for _ in range(30):
            with replacing_folder(out) as staging:
                write_json(staging / "a.json", {"v": value})
                write_json(staging / "b.json", {"v": value})

    threads = [threading.Thread(target=save, args=(value,)) for value in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_json(out / "a.json") == read_json(out / "b.json")
    assert [path.name for path in out.parent.iterdir()] == ["out"]


# Killed saves


def test_staging_folders_of_dead_processes_are_swept_and_live_ones_are_not(out: Path) -> None:
    dead = out.parent / ".out.saving-0000"
    dead.mkdir()
    (dead / "half").touch()
    other = out.parent / ".other.saving-0000"
    other.mkdir()
    with replacing_folder(out) as live:
        assert not dead.exists()
        with replacing_folder(out):
            assert live.folder.exists()
    assert sorted(path.name for path in out.parent.iterdir()) == [".other.saving-0000", "out"]


def test_without_an_exchange_the_folder_is_moved_aside(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_exchanged", lambda *_: False)
    with replacing_folder(out) as staging:
        write_json(staging / "config.json", {"v": 2})
    assert read_json(out / "config.json") == {"v": 2}
    assert (out / "notes.md").read_text() == "mine"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("reader", [resolve, open_checkpoint, replacing_folder])
def test_a_save_killed_between_two_renames_is_repaired_by_whoever_comes_next(out: Path, reader: Any) -> None:
    before = _tree(out)
    (out.parent / ".out.saving-12ab").mkdir()
    out.rename(out.parent / ".out.replaced-12ab")
    if reader is replacing_folder:
        with reader(out):
            pass
    elif reader is resolve:
        assert reader(out) == out
    else:
        with pytest.raises(FileError, match="no weights"):
            reader(out)
    assert _tree(out) == before


KILLED_SAVES = """
import json, os, pathlib, random, select, signal, sys, time
import numpy as np
from conjoin.checkpoint import exchange, open_checkpoint, replacing_folder, resolve, write_json, write_tensors
if sys.argv[2] == "no exchange":
    exchange._exchanged = lambda *_: False
out = pathlib.Path(sys.argv[1])

def save(version):
    with replacing_folder(out) as staging:
        write_json(staging / "config.json", {"v": version})
        tensors = [(name, np.full(50, version, np.int32), "int32") for name in "abcd"]
        write_tensors(staging, tensors, max_shard_bytes=[200, 10_000][version % 2])
        write_json(staging / "tokenizer.json", {"v": version})

def check():
    folder = resolve(out)
    with open_checkpoint(folder) as checkpoint:
        found = {int(number) for name in "abcd" for number in checkpoint.array(name)}
    found |= {json.loads((folder / name).read_text())["v"] for name in ("config.json", "tokenizer.json")}
    assert len(found) == 1, found
    assert (folder / "mine").read_text() == "mine"
    return found.pop()

out.mkdir()
(out / "mine").write_text("mine")
start = time.monotonic()
save(0)
one_save_s = time.monotonic() - start
last, dice = 0, random.Random(0)
begun, tell = os.pipe()
for round in range(60):
    child = os.fork()
    if child == 0:
        for version in range(last + 1, 10**6):
            os.write(tell, b".")
            save(version)
    saves = dice.randrange(1, 4)
    for _ in range(saves):
        assert select.select([begun], [], [], 60)[0], "the child saves no more"
        os.read(begun, 1)
    time.sleep(dice.uniform(0, 1.5 * one_save_s))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while select.select([begun], [], [], 0)[0]:
        os.read(begun, 100)
    now = check()
    assert now >= last + saves - 1, (now, last, saves)
    last = now
assert last > 40, last
save(last + 1)
assert check() == last + 1
print(sorted(os.listdir(out.parent)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks and kills")
@pytest.mark.parametrize("way", ["exchange", "no exchange"])
def test_a_save_killed_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path, way: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(conjoin.checkpoint.__file__).parents[2])}
    command = [sys.executable, "-c", KILLED_SAVES, str(tmp_path / "out"), way]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['out']\n"
