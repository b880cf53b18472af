"""Compile the kernels where a C++ compiler is at hand, once per machine, and keep the result in the user's cache.

What is kept is code that every process of the user runs, so it is loaded only from where nobody else could have put it
(`place.py`), and only if it is whole: its checksum lies beside it (decision 26).
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from functools import lru_cache
from pathlib import Path

from conjoin.native.place import cache_folder, is_ours

_FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-std=c++17", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
_SECONDS = 600
_SCRATCH = "build-"
_SYMBOL = "conjoin_features"
"""Every library of this room has it."""
_CPU_FACTS = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "CPU variant", "Features")


def load(main: str, *flags: str) -> ctypes.CDLL | None:
    """Compiled kernels; None where there is no compiler, it fails, or CONJOIN_NATIVE=0 forbids it.

    The first call on a machine compiles for some seconds; the result is kept under the user's cache folder
    (XDG_CACHE_HOME, or ~/.cache), by a name that changes with the sources, the compiler and the processor.

    Args:
        main: A file of this room.
        flags: Of the compiler, beside the room's own and those of CONJOIN_NATIVE_FLAGS: folders of headers, libraries.
    """
    compiler = _compiler()
    if compiler is None:
        return None
    try:
        file = cache_folder() / _name(compiler, main, flags)
        if (found := _kept(file)) is not None:
            return found
        _build(compiler, main, flags, file)
        return _kept(file)
    except (OSError, subprocess.SubprocessError):
        return None


def _compiler() -> str | None:
    if os.environ.get("CONJOIN_NATIVE") == "0":
        return None
    asked = os.environ.get("CXX")
    return next((found for name in (asked, "g++", "clang++", "c++") if name and (found := shutil.which(name))), None)


def _command(compiler: str) -> list[str]:
    return [compiler, *_FLAGS, *os.environ.get("CONJOIN_NATIVE_FLAGS", "").split()]


def _name(compiler: str, main: str, flags: tuple[str, ...]) -> str:
    """The library's file, by all that makes it what it is."""
    source = _FOLDER / main
    headers = (file.read_text() for file in sorted(_FOLDER.glob("*.h")))
    facts = (*headers, source.read_text(), *_command(compiler), *flags, _version(compiler), processor())
    return f"{source.stem}-{hashlib.sha256(chr(0).join(facts).encode()).hexdigest()[:16]}.so"


@lru_cache(maxsize=4)
def _version(compiler: str) -> str:
    try:
        told = subprocess.run([compiler, "--version"], check=False, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.decode(errors="replace")


def _kept(file: Path) -> ctypes.CDLL | None:
    """The library, if it is there, ours and whole."""
    sum_file = _sum_file(file)
    if not (is_ours(file) and is_ours(sum_file)):
        return None
    if hashlib.sha256(file.read_bytes()).hexdigest() != sum_file.read_text(errors="replace"):
        return None
    try:
        library = ctypes.CDLL(str(file))
    except OSError:
        return None
    return library if hasattr(library, _SYMBOL) else None


def _sum_file(file: Path) -> Path:
    return file.with_suffix(".sha256")


def _build(compiler: str, main: str, flags: tuple[str, ...], file: Path) -> None:
    """Compile, and put library and checksum in place whole: a process that is killed leaves no half of them."""
    _sweep(file.parent)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=file.parent) as scratch:
        made, told = Path(scratch) / file.name, Path(scratch) / "sum"
        call = [*_command(compiler), str(_FOLDER / main), "-o", str(made), *flags]
        subprocess.run(call, check=True, capture_output=True, timeout=_SECONDS)
        made.chmod(0o700)
        told.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
        told.chmod(0o600)
        for each in (made, told):
            _sync(each)
        made.replace(file)
        told.replace(_sum_file(file))
    _sync(file.parent)


def _sweep(folder: Path) -> None:
    """Remove what compilers that were killed have left."""
    for left in folder.iterdir():
        if left.name.startswith((_SCRATCH, "tmp")) and left.stat().st_mtime < time.time() - 2 * _SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder's names, are on the disk itself."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def processor() -> str:
    """A short name of what `-march=native`, and the speed of libraries, depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [f"vendor_id: {platform.processor()}"]
    facts = {(key.strip(), value) for key, _, value in (line.partition(":") for line in lines)}
    told = sorted(f"{key}{value}" for key, value in facts if key in _CPU_FACTS)  # cores may be of several kinds
    return hashlib.sha256("|".join(told).encode()).hexdigest()[:16]
