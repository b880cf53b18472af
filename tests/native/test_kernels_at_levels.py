"""The backends' tests of the kernels at lower levels than the machine's own, each in a process of its own."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from conjoin.native import build
from lanes import lanes

TORCH = Path(__file__).parents[1] / "torch"
FILES = (
    "test_native.py",
    "test_native_steps.py",
    "test_kernel_safety.py",
    "test_training_kernel.py",
    "test_pointwise.py",
    "test_linear_grad.py",
    "test_quantized_cache.py",
)
FAST = ("test_native.py", "test_native_steps.py")
LOWER = [level.name for level in build.supported_levels()[:-1]]


@pytest.mark.skipif(not LOWER, reason="no C++ compiler, or one level fits")
@pytest.mark.parametrize(
    ("level", "file"),
    lanes([*product(LOWER, FILES)], lambda run: run[0] == LOWER[0] and run[1] in FAST),
)
def test_kernels_pass_their_tests_at_a_lower_level(level: str, file: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not gpu"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    variables |= {"CONJOIN_ISA": level, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, str(TORCH / file)], check=False, capture_output=True, text=True, env=variables)
    assert result.returncode == 0, result.stdout[-3000:]
