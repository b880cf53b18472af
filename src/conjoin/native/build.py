"""Compile the kernels once per machine, if there is a C++ compiler, and keep the result in the user's cache.

Every process of the user runs the cached code, so it is loaded only from a folder that nobody else can write
(`place.py`), and only if it matches the checksum beside it (decision 26).
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
"""Every library of this package defines it."""
_CPU_FACTS = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "CPU variant", "Features")


def load(main: str, *flags: str) -> ctypes.CDLL | None:
    """Return compiled kernels; None if there is no compiler, if it fails, or if CONJOIN_NATIVE=0 is set.

    The first call on a machine compiles for a few seconds; the result is kept under the user's cache folder
    (XDG_CACHE_HOME, or ~/.cache), under a name that depends on the sources, the compiler and the processor.

    Args:
        main: Source file in this package.
        flags: Compiler flags (header folders, libraries) besides our own and those in CONJOIN_NATIVE_FLAGS.
    """
    compiler = _compiler()
    if compiler is None:
        return None
    try:
        file = cache_folder() / _name(compiler, main, flags)
        if (library := _cached(file)) is not None:
            return library
        _build(compiler, main, flags, file)
        return _cached(file)
    except (OSError, subprocess.SubprocessError):
        return None


def _compiler() -> str | None:
    if os.environ.get("CONJOIN_NATIVE") == "0":
        return None
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _command(compiler: str) -> list[str]:
    return [compiler, *_FLAGS, *os.environ.get("CONJOIN_NATIVE_FLAGS", "").split()]


def _name(compiler: str, main: str, flags: tuple[str, ...]) -> str:
    """Return the library's file name, which depends on everything that determines its contents."""
    source = _FOLDER / main
    headers = (file.read_text() for file in sorted(_FOLDER.glob("*.h")))
    facts = (*headers, source.read_text(), *_command(compiler), *flags, _version(compiler), processor())
    return f"{source.stem}-{hashlib.sha256(chr(0).join(facts).encode()).hexdigest()[:16]}.so"


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
    try:
        library = ctypes.CDLL(str(file))
    except OSError:
        return None
    return library if hasattr(library, _SYMBOL) else None


def _sum_file(file: Path) -> Path:
    return file.with_suffix(".sha256")


def _build(compiler: str, main: str, flags: tuple[str, ...], file: Path) -> None:
    """Compile, then move library and checksum into place atomically, so that a killed process leaves no half file."""
    _sweep(file.parent)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=file.parent) as scratch:
        library, checksum = Path(scratch) / file.name, Path(scratch) / "sum"
        command = [*_command(compiler), str(_FOLDER / main), "-o", str(library), *flags]
        subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
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
    """Return a hash of the processor's features, which determine `-march=native` and the speed of libraries."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [f"vendor_id: {platform.processor()}"]
    facts = {(key.strip(), value) for key, _, value in (line.partition(":") for line in lines)}
    features = sorted(f"{key}{value}" for key, value in facts if key in _CPU_FACTS)  # cores may be of several kinds
    return hashlib.sha256("|".join(features).encode()).hexdigest()[:16]
