"""Levels of instruction sets that the kernels are compiled for. Flags name each set, so a level is the same everywhere.

A level is chosen when a library is loaded: the highest one of the processor, or the one that CONJOIN_ISA names.
"""

import platform
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Level:
    """A name and the compiler's flags."""

    name: str
    flags: tuple[str, ...] = ()


BASE = Level("base")
"""Any processor of the architecture."""

_AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mlzcnt", "-mmovbe", "-mpopcnt")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl")
_AVX512_BF16 = (*_AVX512, "-mavx512vnni", "-mavx512bf16")

_LEVELS = {
    "x86_64": (
        Level("x86-64-v3", _AVX2),
        Level("x86-64-v3-vnni", (*_AVX2, "-mavxvnni")),
        Level("x86-64-v4", _AVX512),
        Level("x86-64-v4-vnni", (*_AVX512, "-mavx512vnni")),
        Level("x86-64-v4-bf16", _AVX512_BF16),
        Level("x86-64-v4-amx", (*_AVX512_BF16, "-mamx-tile", "-mamx-bf16", "-mamx-int8")),
    ),
    "aarch64": (
        Level("aarch64"),
        Level("aarch64-dotprod", ("-march=armv8.2-a+dotprod",)),
        Level("aarch64-i8mm", ("-march=armv8.2-a+dotprod+i8mm",)),
        Level("aarch64-bf16", ("-march=armv8.2-a+dotprod+i8mm+bf16",)),
    ),
}
_SYNONYMS = {"amd64": "x86_64", "arm64": "aarch64"}


def levels_of(machine: str) -> tuple[Level, ...]:
    """Return the levels of an architecture, in the order of the bits of cpu.cpp: a level's needs only grow upwards."""
    name = machine.lower()
    return _LEVELS.get(_SYNONYMS.get(name, name), ())


def levels_here() -> tuple[Level, ...]:
    """Return the levels of this machine's architecture."""
    return levels_of(platform.machine())
