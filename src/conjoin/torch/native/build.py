"""Compile the kernels where a C++ compiler is at hand, once per machine, and keep the result in the user's cache."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

_SOURCES = sorted(Path(__file__).parent.glob("*.[ch]*"))
_MAIN = Path(__file__).with_name("kernels.cpp")
_FLAGS = ("-O3", "-std=c++17", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared")
_SECONDS = 600


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there is no compiler, it fails, or CONJOIN_NATIVE=0 forbids it.

    The first call on a machine compiles for some seconds; the result is kept under the user's cache folder
    (XDG_CACHE_HOME, or ~/.cache), by a name that changes with the source, the compiler and the processor.
    """
    compiler = _compiler()
    if compiler is None:
        return None
    try:
        return ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError):
        return None


def _compiler() -> str | None:
    if os.environ.get("CONJOIN_NATIVE") == "0":
        return None
    asked = os.environ.get("CXX")
    return next((found for name in (asked, "g++", "clang++", "c++") if name and (found := shutil.which(name))), None)


def _built(compiler: str) -> Path:
    """The library's file, compiled if it is not there yet."""
    command = [compiler, *_FLAGS]
    facts = (*(file.read_text() for file in _SOURCES), *command, processor(), *map(str, _openmp()))
    key = hashlib.sha256("\0".join(facts).encode())
    file = cache_folder() / f"kernels-{key.hexdigest()[:16]}.so"
    if not file.exists():
        # Written under another name first: a process that is killed, or a second one, leaves no half a library.
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            made = Path(scratch) / file.name
            call = [*command, str(_MAIN), "-o", str(made), *map(str, _openmp())]
            subprocess.run(call, check=True, capture_output=True, timeout=_SECONDS)
            made.replace(file)
    return file


def cache_folder() -> Path:
    """Where the library is kept: the user's cache, or a folder of its own where that cannot be written."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (home / "conjoin", Path(tempfile.gettempdir()) / f"conjoin-{os.getuid()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
            return folder
    raise OSError("no folder can be written")


def _openmp() -> list[Path]:
    """PyTorch's own OpenMP library, so that one pool of threads serves both."""
    return sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))[:1]


def processor() -> str:
    """A short name of what `-march=native`, and the speed of libraries, depend on."""
    wanted = ("vendor_id", "cpu family", "model", "flags")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [f"vendor_id: {platform.processor()}"]
    facts = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    return hashlib.sha256("|".join(facts.get(name, "") for name in wanted).encode()).hexdigest()[:16]
