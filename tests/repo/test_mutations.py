"""Planted faults are caught by the tests that are said to catch them."""

from pathlib import Path

import pytest

from mutations import FAULTS, is_caught


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name: str, tmp_path: Path) -> None:
    caught, printed = is_caught(FAULTS[name], tmp_path / "src")
    assert caught, printed[-3000:]
