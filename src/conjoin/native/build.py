"""Compile the kernels where a C++ compiler is at hand, once per machine, and keep the result in the user's cache."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

_FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-std=c++17", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
_SECONDS = 600


def load(main: str, *flags: str) -> ctypes.CDLL | None:
    """Compiled kernels; None where there is no compiler, it fails, or CONJOIN_NATIVE=0 forbids it.

    The first call on a machine compiles for some seconds; the result is kept under the user's cache folder
    (XDG_CACHE_HOME, or ~/.cache), by a name that changes with the sources, the compiler and the processor.

    Args:
        main: A file of this room.
        flags: Of the compiler, beside the room's own: folders of headers, libraries.
    """
    compiler = _compiler()
    if compiler is None:
        return None
    try:
        return ctypes.CDLL(str(_built(compiler, main, flags)))
    except (OSError, subprocess.SubprocessError):
        return None


def _compiler() -> str | None:
    if os.environ.get("CONJOIN_NATIVE") == "0":
        return None
    asked = os.environ.get("CXX")
    return next((found for name in (asked, "g++", "clang++", "c++") if name and (found := shutil.which(name))), None)


def _built(compiler: str, main: str, flags: tuple[str, ...]) -> Path:
    """The library's file, compiled if it is not there yet."""
    source = _FOLDER / main
    command = [compiler, *_FLAGS]
    facts = (*(file.read_text() for file in sorted(_FOLDER.glob("*.h"))), source.read_text(), *command, *flags)
    key = hashlib.sha256("\0".join((*facts, processor())).encode())
    file = cache_folder() / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if not file.exists():
        # Written under another name first: a process that is killed, or a second one, leaves no half a library.
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            made = Path(scratch) / file.name
            call = [*command, str(source), "-o", str(made), *flags]
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


def processor() -> str:
    """A short name of what `-march=native`, and the speed of libraries, depend on."""
    wanted = ("vendor_id", "cpu family", "model", "flags")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [f"vendor_id: {platform.processor()}"]
    facts = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    return hashlib.sha256("|".join(facts.get(name, "") for name in wanted).encode()).hexdigest()[:16]
