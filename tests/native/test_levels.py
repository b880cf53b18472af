"""The kernels of every level against plain loops, and how a level is chosen."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conjoin.native import build
from conjoin.native.levels import levels_of
from lanes import lanes

SOURCE = Path(__file__).parent / "kernels.cpp"
FLAGS = ("-O2", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-pthread")
ARM = "aarch64-linux-gnu-g++", "qemu-aarch64"
X86 = {level.name: level.flags for level in levels_of("x86_64")}
AARCH64 = {level.name: level.flags for level in levels_of("aarch64")}
HERE = {level.name for level in build.supported_levels()}
FASTEST = build.supported_levels()[-1].name if HERE else ""


def output_of(command: list[str], folder: Path, *flags: str) -> str:
    """Compile the test of the kernels with the command's first word, run it with the others; what it prints."""
    program, (compiler, *emulator) = folder / "kernels", command
    headers = ("-iquote", str(Path(build.__file__).parent))
    subprocess.run([compiler, *FLAGS, *flags, *headers, str(SOURCE), "-o", str(program)], check=True)
    return subprocess.run([*emulator, str(program)], check=False, capture_output=True, text=True).stdout


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("level", lanes(X86, lambda level: level in ("x86-64-v3", FASTEST)))
def test_kernels_of_x86_64_are_plain_loops(level: str, tmp_path: Path) -> None:
    flags = X86[level]
    if level == "x86-64-v3-vnni" and level not in HERE and "x86-64-v4-vnni" in HERE:
        flags += ('-DVPDPBUSD="vpdpbusd"',)  # the same instruction in AVX-512's encoding
    elif level not in HERE:
        pytest.skip(f"this processor has no {level}")
    assert output_of(["g++"], tmp_path, *flags) == "right\n"


@pytest.mark.skipif(not all(map(shutil.which, ARM)), reason="no g++-aarch64-linux-gnu or no qemu-user")
@pytest.mark.parametrize("level", lanes(AARCH64, lambda level: level == "aarch64-bf16"))
def test_kernels_of_aarch64_are_plain_loops(level: str, tmp_path: Path) -> None:
    compiler, emulator = ARM
    found = output_of([compiler, emulator, "-cpu", "max"], tmp_path, "-static", *AARCH64[level])
    assert found == "right\n"


def level_loaded(monkeypatch: pytest.MonkeyPatch, name: str) -> subprocess.CompletedProcess[str]:
    """Load the smallest library in another process under CONJOIN_ISA."""
    monkeypatch.setenv("CONJOIN_ISA", name)
    code = "from conjoin.native import build; print(build.level_of(build.load('cpu.cpp')))"
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)


@pytest.mark.skipif(not HERE, reason="no C++ compiler, or no level fits")
def test_the_highest_level_is_loaded_and_a_lower_one_where_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert level_loaded(monkeypatch, "").stdout == f"{FASTEST}\n"
    for name in HERE:
        assert level_loaded(monkeypatch, name).stdout == f"{name}\n"


@pytest.mark.skipif(not HERE, reason="no C++ compiler, or no level fits")
def test_a_level_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = AARCH64 if platform.machine().lower() in ("x86_64", "amd64") else X86
    error = level_loaded(monkeypatch, next(iter(names))).stderr
    assert f"CONJOIN_ISA={next(iter(names))} is not an instruction set that conjoin knows on" in error
    known = (X86 if names is AARCH64 else AARCH64).keys() - HERE
    for name in known:
        error = level_loaded(monkeypatch, name).stderr
        assert f"ConfigError: CONJOIN_ISA={name} does not run on this processor" in error


def test_a_level_that_the_compiler_does_not_know_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if len(HERE) < 2:
        pytest.skip("a lower level is needed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    old = tmp_path / "old-compiler"
    flag = build.supported_levels()[-1].flags[-1]
    old.write_text(f'#!/bin/sh\ncase "$*" in *{flag}*) exit 1;; esac\nexec c++ "$@"\n')
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    monkeypatch.delenv("CONJOIN_ISA", raising=False)
    library = build.load("cpu.cpp")
    assert library is not None and build.level_of(library) == build.supported_levels()[-2].name
    monkeypatch.setenv("CONJOIN_ISA", FASTEST)
    assert build.load("cpu.cpp") is None


def test_what_the_package_brings_along_is_loaded_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not HERE:
        pytest.skip("no C++ compiler, or no level fits")
    monkeypatch.setattr(build, "_FOLDER", tmp_path)
    monkeypatch.delenv("CONJOIN_ISA", raising=False)
    (tmp_path / "lib").mkdir()
    source = tmp_path / "small.cpp"
    source.write_text('extern "C" const char* conjoin_level() { return "brought along"; }\n')
    file = build.brought_along("small", build.supported_levels()[-1])
    subprocess.run(["c++", "-shared", "-fPIC", str(source), "-o", str(file)], check=True)
    monkeypatch.setattr(build, "_compiler", lambda: None)
    library = build.load("small.cpp")
    assert library is not None and build.level_of(library) == "brought along"
