"""Compiled kernels are loaded only if they are whole, and from where nobody but the user could have put them."""

import ctypes
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conjoin.errors import ConjoinWarning
from conjoin.native import build, place

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler"
)
SOURCE = 'extern "C" const char* conjoin_level() { return "small"; }\n'


@pytest.fixture(name="cache")
def cache_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a small kernel in the place of the real ones."""
    build.supported_levels()  # what it compiles lies in the real cache
    monkeypatch.delenv("CONJOIN_NATIVE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "small.cpp").write_text(SOURCE)
    monkeypatch.setattr(build, "_FOLDER", tmp_path / "source")
    return tmp_path / "cache" / "conjoin"


def built(folder: Path) -> Path:
    """Compile, and where the library lies."""
    library = build.load("small.cpp")
    assert library is not None and build.level_of(library) == "small"
    (file,) = folder.glob("small-*.so")
    assert build.supported_levels()[-1].name in file.name
    return file


def compiles(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is compiled from now on."""
    calls: list[Any] = []
    real = build._build
    monkeypatch.setattr(build, "_build", lambda *given: calls.append(given) or real(*given))
    return calls


def works(folder: Path) -> bool:
    """Whether another process gets working kernels from a cache."""
    code = (
        "import sys; from pathlib import Path; from conjoin.native import build\n"
        "build._FOLDER = Path(sys.argv[1]); print(build.level_of(build.load('small.cpp')))"
    )
    command = [sys.executable, "-c", code, str(folder.parent.parent / "source")]
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=paths)
    return done.stdout == "small\n"


def test_a_source_that_does_not_compile_is_said_to_be(cache: Path) -> None:
    (cache.parent.parent / "source" / "small.cpp").write_text(SOURCE + "int x = y;\n")
    with pytest.warns(ConjoinWarning, match=r"could not compile small kernels for \S+, .*error.*CONJOIN_NATIVE=0"):
        assert build.load("small.cpp") is None


def test_what_is_kept_is_private_whole_and_taken_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = built(cache)
    assert sorted(path.suffix for path in cache.iterdir()) == [".sha256", ".so"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in (cache, *cache.iterdir()))
    calls = compiles(monkeypatch)
    assert built(cache) == file
    assert not calls


def _other_library(file: Path) -> None:
    source = file.with_suffix(".cpp")
    source.write_text('extern "C" int other() { return 1; }\n')
    subprocess.run(["c++", "-shared", "-fPIC", str(source), "-o", str(file)], check=True)
    source.unlink()


DAMAGE: dict[str, Any] = {
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "garbage": lambda file: file.write_bytes(b"garbage" * 999),
    "one byte": lambda file: file.write_bytes(file.read_bytes()[:-1] + b"x"),
    "another library": _other_library,
    "no checksum": lambda file: file.with_suffix(".sha256").unlink(),
    "another checksum": lambda file: file.with_suffix(".sha256").write_text("0" * 64),
    "writable by all": lambda file: file.chmod(0o777),
    "checksum writable by all": lambda file: file.with_suffix(".sha256").chmod(0o666),
    "a link": lambda file: file.symlink_to(shutil.move(file, file.with_suffix(".moved"))),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_kept_library_that_is_not_whole_or_not_ours_is_made_anew(cache: Path, kind: str) -> None:
    file = built(cache)
    copy = cache.parent / "copy"
    shutil.copytree(cache, copy)  # what this process has loaded stays as it is
    shutil.rmtree(cache)
    copy.rename(cache)
    cache.chmod(0o700)
    DAMAGE[kind](file)
    assert works(cache)
    assert place.is_ours(file)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("suffix", [".so", ".sha256"])
def test_a_library_of_another_user_is_made_anew(cache: Path, suffix: str) -> None:
    file = built(cache)
    os.chown(file.with_suffix(suffix), 65534, -1)
    assert works(cache)
    assert file.with_suffix(suffix).stat().st_uid == os.geteuid()


@pytest.mark.parametrize(
    "kind", ["open to all", "open to a group", "a link", "of another user", "under an open folder"]
)
def test_a_folder_that_others_can_write_is_not_used(cache: Path, kind: str, tmp_path: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    match kind:
        case "open to all":
            cache.chmod(0o777)
        case "open to a group":
            cache.chmod(0o770)
        case "a link":
            cache.rmdir()
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            cache.symlink_to(tmp_path / "elsewhere")
        case "of another user":
            if os.geteuid() != 0:
                pytest.skip("only root gives folders away")
            os.chown(cache, 65534, -1)
        case _:
            cache.parent.chmod(0o777)
    own = tmp_path / "temporary" / f"conjoin-{os.geteuid()}"
    assert place.cache_folder() == own
    assert own.stat().st_mode & 0o777 == 0o700
    assert not list(cache.iterdir())
    own.chmod(0o777)
    with pytest.raises(OSError, match="there is no cache folder that only this user can write"):
        place.cache_folder()
    assert build.load("small.cpp") is None


def test_a_sticky_folder_of_all_may_hold_one_of_ours(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o1777)
    assert place.cache_folder() == cache


def test_a_linked_home_is_followed_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))
    assert place.cache_folder() == tmp_path / "disk" / "conjoin"


def _homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_user_without_a_home_has_a_folder_among_temporary_ones(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", _homeless)
    assert place.cache_folder() == tmp_path / "temporary" / f"conjoin-{os.geteuid()}"
    built(tmp_path / "temporary" / f"conjoin-{os.geteuid()}")


def test_what_a_killed_compiler_left_goes_and_a_running_ones_stays(cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    for name, age in (("build-old", 3600), ("tmpold", 3600), ("build-new", 1)):
        (cache / name).mkdir()
        (cache / name / "half.so").write_text("half")
        os.utime(cache / name, (time.time() - age,) * 2)
    built(cache)
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == ["build-new"]


def test_another_version_of_the_compiler_makes_another_library(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(cache)
    monkeypatch.setattr(build, "_version", lambda compiler: "c++ 99")
    assert build.load("small.cpp") is not None
    assert len(list(cache.glob("small-*.so"))) == 2


def test_flags_of_the_environment_are_part_of_the_library(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(cache)
    monkeypatch.setenv("CONJOIN_NATIVE_FLAGS", "-O1 -DSANE")
    assert isinstance(build.load("small.cpp"), ctypes.CDLL)
    assert len(list(cache.glob("small-*.so"))) == 2


def test_processors_that_differ_in_any_core_have_different_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(text: str) -> str:
        monkeypatch.setattr(Path, "read_text", lambda self: text)
        return build.processor()

    cores = ("processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd0c\n", "processor\t: 1\nCPU part\t: {}\n")
    plain = "\n".join(cores)
    assert named(plain.format("0xd0c")) != named(plain.format("0xd40"))
    assert named(plain.format("0xd0c")) != named(plain.format("0xd0c").replace("asimd", "asimd sve"))
    assert named(plain.format("0xd0c")) == named(plain.format("0xd0c").replace("processor\t: 0", "processor\t: 7"))


def test_a_compilation_that_is_stopped_for_its_time_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(command: list[str], file: Path) -> None:
        raise subprocess.TimeoutExpired(command, build._SECONDS)

    monkeypatch.setattr(build, "_build", never)
    monkeypatch.setattr(build, "_candidates", lambda: (build.BASE,))
    with pytest.warns(ConjoinWarning, match=r"Compiling small kernels for .* took more than 600 s"):
        assert build.load("small.cpp") is None
