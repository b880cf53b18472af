"""Limits all contenders to an older instruction set, as processors without AVX-512 have it.

Libraries read these variables when they are loaded, so such rows run in a process of their own.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from _peers import Absent

from conjoin.torch.cpu.native.library import library


@dataclass(frozen=True, slots=True)
class Isa:
    """An instruction set.

    Args:
        environment: What limits conjoin, PyTorch with oneDNN and MKL, and CTranslate2, which has a oneDNN of its own.
        level: Part of the file name of conjoin's kernels.
        capability: PyTorch's name.
    """

    environment: Mapping[str, str]
    level: str
    capability: str


ISAS = {
    "avx2": Isa(
        {
            "CONJOIN_ISA": "x86-64-v3",
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "CT2_FORCE_CPU_ISA": "AVX2",
        },
        level="x86-64-v3",
        capability="AVX2",
    )
}


def loaded() -> dict[str, Any]:
    """Return what conjoin and PyTorch run on."""
    kernels = library()
    return {
        "kernels": None if kernels is None else os.path.basename(str(kernels._name)),
        "torch": torch.backends.cpu.get_cpu_capability(),
    }


def require(name: str) -> None:
    """Check that this process is limited to an instruction set.

    Raises:
        Absent: it is not, so that its figures would mean nothing.
    """
    isa, now = ISAS[name], loaded()
    unset = sorted(key for key, value in isa.environment.items() if os.environ.get(key) != value)
    if unset:
        raise Absent(f"{', '.join(unset)} not set as {name} needs it")
    if now["torch"] != isa.capability:
        raise Absent(f"PyTorch runs on {now['torch']}")
    if now["kernels"] is not None and isa.level not in now["kernels"]:
        raise Absent(f"conjoin does not follow CONJOIN_ISA={isa.level}: it loaded {now['kernels']}")
