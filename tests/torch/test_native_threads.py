"""The threads of the native kernels: `tests/support/threads.cpp` aborts at the first fault."""

import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
NATIVE = TESTS.parent / "src" / "conjoin" / "native"
COMPILER = shutil.which("g++") or shutil.which("clang++")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


def build(program: Path, *flags: str) -> bool:
    command = [str(COMPILER), "-std=c++17", "-O1", "-pthread", *flags, "-iquote", str(NATIVE)]
    done = subprocess.run([*command, str(TESTS / "support" / "threads.cpp"), "-o", str(program)], check=False)
    return done.returncode == 0


def output(program: Path, rounds: int) -> str:
    return subprocess.run([program, str(rounds)], check=True, capture_output=True, text=True, timeout=600).stdout


def test_gangs_tasks_and_forked_children_run_on_threads_of_their_own(tmp_path: Path) -> None:
    assert build(tmp_path / "threads")
    assert output(tmp_path / "threads", 20) == "ok\n"


@pytest.mark.slow
def test_threads_have_no_data_race(tmp_path: Path) -> None:
    if not build(tmp_path / "threads", "-g", "-fsanitize=thread"):
        pytest.skip("this compiler has no ThreadSanitizer")
    assert output(tmp_path / "threads", 200) == "ok\n"
