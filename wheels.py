"""Build hook of wheels. CONJOIN_WHEEL names the platform whose compiled kernels a wheel carries; unset, it has none.

Zig (the package ziglang) compiles for all of them on any machine: it brings headers, libc++ and a linker for each.
A wheel depends on no version of Python or PyTorch, and on no library but the system's.
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path(__file__).parent / "src"


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform of wheels.

    Args:
        target: Zig's name, with the oldest version of the system that the kernels run on.
        machine: As `platform.machine()` says it.
        suffix: Suffix of shared libraries.
    """

    target: str
    machine: str
    suffix: str


PLATFORMS = {
    "manylinux_2_28_x86_64": Platform("x86_64-linux-gnu.2.28", "x86_64", ".so"),
    "manylinux_2_28_aarch64": Platform("aarch64-linux-gnu.2.28", "aarch64", ".so"),
    "macosx_11_0_arm64": Platform("aarch64-macos.11.0", "arm64", ".dylib"),
    "macosx_10_15_x86_64": Platform("x86_64-macos.10.15", "x86_64", ".dylib"),
    "win_amd64": Platform("x86_64-windows-gnu", "AMD64", ".dll"),
}
"""By the wheel's tag."""


class KernelHook(BuildHookInterface):
    """Compile the kernels of every level and put them where `conjoin.native.build` looks first."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries and the tag to the wheel."""
        tag = os.environ.get("CONJOIN_WHEEL")
        self._folder = tempfile.TemporaryDirectory(prefix="conjoin-wheel-")
        if tag:
            for library in compile_kernels(PLATFORMS[tag], Path(self._folder.name)):
                build_data["force_include"][str(library)] = f"conjoin/native/lib/{library.name}"
            build_data.update(pure_python=False, tag=f"py3-none-{tag}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the libraries, which are in the wheel now."""
        self._folder.cleanup()


def compile_kernels(platform: Platform, folder: Path) -> list[Path]:
    """Compile the libraries of a platform into a folder."""
    sys.path.insert(0, str(SOURCE))
    from conjoin.native.build import compile_command
    from conjoin.native.levels import BASE, levels_of

    zig = [sys.executable, "-m", "ziglang", "c++", "-target", platform.target, "-s", "-Wno-pass-failed"]
    parts = [("cpu", BASE), *(("kernels", level) for level in levels_of(platform.machine))]
    libraries = [folder / f"{stem}-{level.name}{platform.suffix}" for stem, level in parts]
    commands = [compile_command(zig, SOURCE / f"conjoin/native/{stem}.cpp", level) for stem, level in parts]

    def compile_one(command: list[str], library: Path) -> None:
        subprocess.run([*map(_for_zig, command), "-o", str(library)], check=True)

    with ThreadPoolExecutor(os.cpu_count()) as workers:
        list(workers.map(compile_one, commands, libraries))
    return libraries


def _for_zig(flag: str) -> str:
    """Return a compiler's flag as Zig writes it: -march=armv8.2-a+dotprod is -mcpu=generic+v8_2a+dotprod."""
    return flag.replace("-march=armv8.2-a", "-mcpu=generic+v8_2a")
