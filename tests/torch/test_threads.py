"""set_threads: what a process may use, and no more."""

import os
from pathlib import Path

import pytest
import torch

import conjoin
from conjoin import ConfigError
from conjoin.torch.cpu import threads


@pytest.fixture(autouse=True)
def as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_number_is_taken() -> None:
    assert conjoin.set_threads(2) == torch.get_num_threads() == 2
    assert conjoin.set_threads(1) == torch.get_num_threads() == 1


def test_none_is_what_the_process_may_use() -> None:
    assert 1 <= conjoin.set_threads() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", None)])
def test_a_containers_quota_counts(
    quota: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert conjoin.set_threads() == (expected or 8)


def test_less_than_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="set_threads"):
        conjoin.set_threads(0)
