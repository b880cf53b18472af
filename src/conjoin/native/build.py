"""Compile the kernels once per machine, if there is a C++ compiler, and keep the result in the user's cache.

Every process of the user runs the cached code, so it is loaded only from a folder that nobody else can write
(`place.py`), and only if it matches the checksum beside it (decision 26). Wheels bring compiled kernels along.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from conjoin.errors import ConfigError, warn
from conjoin.native.levels import BASE, Level, levels_here
from conjoin.native.place import cache_folder, is_ours

_FOLDER = Path(__file__).parent
_CPU = _FOLDER / "cpu.cpp"
_FLAGS = (
    *("-O3", "-std=c++17", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"),
    *("-pthread", "-fPIC", "-shared"),
)
_SECONDS = 600
_SCRATCH = "build-"
_SYMBOL = "conjoin_level"
"""Every library of this package defines it."""
_CPU_FACTS = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "CPU variant", "Features")


def load(main: str, *flags: str) -> ctypes.CDLL | None:
    """Return kernels compiled for this processor; None if there are none and no compiler, or with CONJOIN_NATIVE=0.

    Kernels that the package brings along are used first. Otherwise the first call on a machine compiles for some
    seconds; the result is kept under the user's cache folder (XDG_CACHE_HOME, or ~/.cache), under a name that depends
    on the level, the sources and the compiler.

    Args:
        main: Source file in this package.
        flags: Compiler flags (header folders, libraries) besides our own and those in CONJOIN_NATIVE_FLAGS.
    Raises:
        ConfigError: CONJOIN_ISA is not a level of this processor.
    """
    if os.environ.get("CONJOIN_NATIVE") == "0":
        return None
    libraries = (_load(_FOLDER / main, level, flags) for level in _candidates())
    return next((library for library in libraries if library is not None), None)


def _candidates() -> tuple[Level, ...]:
    """Return the levels to try, highest first: older compilers do not know the highest ones."""
    wanted, levels = os.environ.get("CONJOIN_ISA"), supported_levels()
    if not wanted:
        return levels[::-1]
    names = [level.name for level in levels_here()]
    if wanted not in names:
        raise ConfigError(
            f"CONJOIN_ISA={wanted} is not an instruction set that conjoin knows on {platform.machine()}.\n"
            f"Expected one of: {', '.join(names) or 'none'}."
        )
    if levels and wanted not in [level.name for level in levels]:
        raise ConfigError(
            f"CONJOIN_ISA={wanted} does not run on this processor.\n"
            f"Expected one of: {', '.join(level.name for level in levels)}."
        )
    return tuple(level for level in levels if level.name == wanted)


def wanted_level() -> str | None:
    """Return the name of the level that is loaded here, if the compiler knows it; None where no kernels are.

    Raises:
        ConfigError: as in `load`.
    """
    levels = () if os.environ.get("CONJOIN_NATIVE") == "0" else _candidates()
    return levels[0].name if levels else None


@lru_cache(maxsize=1)
def supported_levels() -> tuple[Level, ...]:
    """Return the levels that this processor has, lowest first; none if there is nothing compiled and no compiler."""
    library = _load(_CPU, BASE, ())
    if library is None:
        return ()
    bits = library.conjoin_levels()
    return tuple(level for place, level in enumerate(levels_here()) if bits >> place & 1)


def level_of(library: ctypes.CDLL) -> str:
    """Return the name of the level that a library was compiled for."""
    function = library[_SYMBOL]
    function.restype = ctypes.c_char_p
    return function().decode()


def _load(source: Path, level: Level, flags: tuple[str, ...]) -> ctypes.CDLL | None:
    if not _extra_flags() and (library := _opened(brought_along(source.stem, level))) is not None:
        return library
    compiler = _compiler()
    if compiler is None:
        return None
    try:
        command = [*compile_command([compiler], source, level), *_extra_flags(), *flags]
        file = cache_folder() / _name(command, source, level)
        if (library := _cached(file)) is not None:
            return library
        _build(command, file)
        return _cached(file)
    except subprocess.TimeoutExpired:
        warn(
            f"Compiling {source.stem} kernels for {level.name} took more than {_SECONDS} s and was stopped; without "
            "them everything is slower. The next process tries again."
        )
        return None
    except subprocess.CalledProcessError as error:
        if _knows(compiler, level):  # an older compiler does not know the highest levels, which is no fault
            lines = error.stderr.decode(errors="replace").splitlines()
            reason = next((line for line in lines if "error:" in line), error)
            warn(
                f"{compiler} could not compile {source.stem} kernels for {level.name}, so that a lower level or "
                f"PyTorch's operators run in their place, more slowly: {reason}. CONJOIN_NATIVE=0 does not try."
            )
        return None
    except OSError:
        return None


def _knows(compiler: str, level: Level) -> bool:
    """Whether a compiler compiles for a level at all."""
    command = [compiler, *_FLAGS, *level.flags, "-x", "c++", os.devnull, "-o", os.devnull]
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=_SECONDS).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def compile_command(compiler: Sequence[str], source: Path, level: Level) -> list[str]:
    """Return the command that compiles a library, without its output."""
    return [*compiler, *_FLAGS, *level.flags, f"-DCONJOIN_LEVEL={level.name}", str(source)]


def brought_along(stem: str, level: Level) -> Path:
    """Return the file of a compiled source inside the installed package; wheels have it, checkouts do not."""
    suffix = {"Darwin": ".dylib", "Windows": ".dll"}.get(platform.system(), ".so")
    return _FOLDER / "lib" / f"{stem}-{level.name}{suffix}"


def _compiler() -> str | None:
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _extra_flags() -> list[str]:
    return os.environ.get("CONJOIN_NATIVE_FLAGS", "").split()


def _name(command: list[str], source: Path, level: Level) -> str:
    """Return the library's file name, which depends on everything that determines its contents."""
    headers = (file.read_text() for file in sorted(source.parent.glob("*.h")))
    facts = (*headers, source.read_text(), *command, _version(command[0]))
    return f"{source.stem}-{level.name}-{hashlib.sha256(chr(0).join(facts).encode()).hexdigest()[:16]}.so"


@lru_cache(maxsize=4)
def _version(compiler: str) -> str:
    try:
        result = subprocess.run([compiler, "--version"], check=False, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.decode(errors="replace")


def _cached(file: Path) -> ctypes.CDLL | None:
    """Load the library if it exists, belongs to the user and matches its checksum."""
    sum_file = _sum_file(file)
    if not (is_ours(file) and is_ours(sum_file)):
        return None
    if hashlib.sha256(file.read_bytes()).hexdigest() != sum_file.read_text(errors="replace"):
        return None
    return _opened(file)


def _opened(file: Path) -> ctypes.CDLL | None:
    """Load a library; None if there is none, or if it is not one of ours."""
    if not file.exists():
        return None
    try:
        library = ctypes.CDLL(str(file))
    except OSError:
        return None
    return library if hasattr(library, _SYMBOL) else None


def _sum_file(file: Path) -> Path:
    return file.with_suffix(".sha256")


def _build(command: list[str], file: Path) -> None:
    """Compile, then move library and checksum into place atomically, so that a killed process leaves no half file."""
    _sweep(file.parent)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=file.parent) as scratch:
        library, checksum = Path(scratch) / file.name, Path(scratch) / "sum"
        words, plain = [*command, "-o", str(library)], os.environ | {"LC_ALL": "C"}  # errors in English
        subprocess.run(words, check=True, capture_output=True, timeout=_SECONDS, env=plain)
        library.chmod(0o700)
        checksum.write_text(hashlib.sha256(library.read_bytes()).hexdigest())
        checksum.chmod(0o600)
        for path in (library, checksum):
            _sync(path)
        library.replace(file)
        checksum.replace(_sum_file(file))
    _sync(file.parent)


def _sweep(folder: Path) -> None:
    """Remove scratch folders of compilations that were killed."""
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):  # another process sweeps too
            if entry.name.startswith((_SCRATCH, "tmp")) and entry.stat().st_mtime < time.time() - 2 * _SECONDS:
                shutil.rmtree(entry, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def processor() -> str:
    """Return a hash of the processor's features, which determine the speed of libraries."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [f"vendor_id: {platform.processor()}"]
    facts = {(key.strip(), value) for key, _, value in (line.partition(":") for line in lines)}
    features = sorted(f"{key}{value}" for key, value in facts if key in _CPU_FACTS)  # cores may be of several kinds
    return hashlib.sha256("|".join(features).encode()).hexdigest()[:16]
