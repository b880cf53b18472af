"""Texts reach any terminal and any pipe, and nothing in them steers one."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import conjoin
import conjoin.cli
from command_line import SOURCE, folder_fixture, run_fixture  # noqa: F401
from conjoin import AutoTokenizer, ConfigError, ConjoinWarning, DataError
from conjoin.cli import talk
from conjoin.errors import TokenizerError, plain
from conjoin.texts.pairs import Columns
from conjoin.training import read_pairs

PLAIN_C = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENVIRONMENTS = {name: {"PYTHONIOENCODING": name} for name in ("cp1252", "latin-1", "cp437", "ascii")} | {"C": PLAIN_C}
STEERS = "\x1b]0;title\x07\x1b[2J\x9b31m\x7f\u202e"


def conjoin_command(*words: str | Path | bytes, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "conjoin", *map(os.fsencode, words)]
    given = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, check=False, env=given, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_lists_and_help_are_printed_in_any_encoding(name: str) -> None:
    for words in (["families"], ["train", "--help"]):
        told = conjoin_command(*words, **ENVIRONMENTS[name])
        assert told.returncode == 0, told.stderr
        assert told.stdout.decode("utf-8")


@pytest.mark.parametrize("name", ["cp1252", "C"])
def test_results_in_a_pipe_are_utf_8_and_names_of_files_are_read(name: str, folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "Übung ü.jsonl"
    source.write_text(json.dumps({"source": "the cat", "note": "丁 ü €"}, ensure_ascii=False) + "\n", encoding="utf-8")
    told = conjoin_command("generate", folder, "--input", source, "--json", **ENVIRONMENTS[name])
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout.decode("utf-8"))["note"] == "丁 ü €"


def test_words_of_the_command_line_are_utf_8_where_the_locale_is_not(folder: Path) -> None:
    told = conjoin_command("generate", folder, "the 丁 cat", "--json", **PLAIN_C)
    assert json.loads(told.stdout.decode("utf-8"))["source"] == "the 丁 cat"


def test_a_word_that_is_no_text_is_refused_before_anything_is_done() -> None:
    told = conjoin_command("generate", "nowhere", b"caf\xe9")
    assert told.returncode == 2
    assert rb"argument 3 of the command line is not UTF-8: caf\xe9" in told.stderr


def test_errors_and_warnings_spell_what_would_steer_a_terminal(tmp_path: Path) -> None:
    shown = r"\x1b]0;title\x07\x1b[2J\x9b31m\x7f\u202e"
    assert plain(STEERS) == shown and plain("a\tb\nc é 丁") == "a\tb\nc é 丁"
    assert str(DataError(STEERS, hint=STEERS)) == f"{shown}\n\nhint: {shown}"
    assert str(ConjoinWarning(f"{STEERS} ü")) == f"{shown} ü"
    (tmp_path / "a.jsonl").write_text(STEERS + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"is not JSON at column 1.*\\x1b\]0;title"):
        read_pairs(tmp_path / "a.jsonl", Columns())


@pytest.mark.parametrize("kind", [ConfigError, TokenizerError, DataError, ConjoinWarning])
def test_a_message_is_no_longer_than_somebody_reads(kind: Any) -> None:
    short = "a: " + "x" * 3000
    assert str(kind(short)) == short
    for value in ("x" * 10**6, "\x1b" * 10**6, "many\n" * 10**5):
        told = str(kind(f"first {value} last"))
        assert told.startswith("first ") and told.endswith(" last") and len(told) < 20_000
        assert "letters left out" in told


def test_a_name_of_a_million_letters_in_a_file_is_told_in_short(tmp_path: Path) -> None:
    config = {"tokenizer_class": "9" * 500_000}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"and tokenizer_class '999.*letters left out") as caught:
        AutoTokenizer.from_pretrained(tmp_path)
    assert len(str(caught.value)) < 20_000


def test_what_a_command_says_steers_nothing(run: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(STEERS + "\n", encoding="utf-8")
    for words in (
        ["generate", folder, "--input", tmp_path / "a.jsonl"],
        ["evaluate", folder, tmp_path / "a.jsonl"],
        ["inspect", f"no{STEERS}where"],
        ["generate", folder, "the cat", "--set", f"no{STEERS}=1"],
    ):
        told = run(*words)
        assert told.code and not set(told.err) & set("\x1b\x9b\x07\x7f\u202e"), words


def test_unexpected_errors_and_odd_warnings_steer_nothing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: Any) -> None:
        raise RuntimeError(f"a {STEERS} b")

    monkeypatch.setattr(conjoin.cli, "_run", fails)
    told = run("families")
    assert told.code == 1 and "\x1b" not in told.err and r"\x1b[2J" in told.err


def test_progress_lines_take_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    with talk.progress(f"[bold]{STEERS}", 2) as advance:
        advance(1)
    assert "\x1b[2J" not in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="pseudo-terminals")
def test_results_on_a_terminal_steer_nothing_and_in_a_pipe_are_exact(tmp_path: Path) -> None:
    code = f"from conjoin.cli.streams import emit, configure_streams; configure_streams(); emit({STEERS!r})"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONIOENCODING": "cp1252"}
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert piped.stdout.decode("utf-8") == STEERS + "\n"
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, env=environment):
        os.close(theirs)
        shown = os.read(ours, 4096)
    os.close(ours)
    assert b"\x1b" not in shown and rb"\x1b[2J" in shown


@pytest.fixture(name="hears_ctrl_c")
def hears_ctrl_c_fixture() -> Iterator[None]:
    """Let children hear Ctrl-C: background jobs of a shell ignore it, and so would theirs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_ends_a_command_with_130_and_one_line(folder: Path) -> None:
    command = [sys.executable, "-m", "conjoin", "generate", str(folder)]
    given = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    for wait_s in (0.3, 8.0):
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=given) as started:
            time.sleep(wait_s)
            started.send_signal(signal.SIGINT)
            _, told = started.communicate()
        if b"site.py" in told:  # Python itself was not up yet
            continue
        # An interrupt inside code that a C library runs makes Python end itself by the signal: 130 to a shell too.
        assert started.returncode in (130, -signal.SIGINT), told
        assert told.decode().strip().splitlines() == ["Stopped by Ctrl-C."]


@pytest.mark.parametrize("room", ["", ".training", ".torch", ".evaluation", ".generation", ".tokenizer", ".join"])
def test_dir_lists_the_public_names(room: str) -> None:
    from importlib import import_module

    module = import_module(f"conjoin{room}")
    assert dir(module) == sorted(module.__all__)
