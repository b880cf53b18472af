"""The benchmark of GPUs runs, on a CPU and tiny shapes: figures mean nothing here, but tokens are compared."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GENERATION = ("bart-base:b1-s64", "MiniLM-L6 -> SmolLM2-135M:b1-s64")


def run(*options: str) -> list[dict[str, Any]]:
    """Return the lines that the program prints."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--small", "--rounds", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_its_rows_run_and_their_tokens_are_right(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    first, *rows, last = run("--rows", *GENERATION, "bart-base:train", "--out", str(page))
    assert first["question"] == "gpu" and last["rows"] == len(rows) == 3
    named = {row["row"]: row for row in rows}
    assert set(named) == {*GENERATION, "bart-base:train"}
    assert all(row["tokens"]["right"] and not row["absent_peers"] for row in rows)
    static = "transformers, static cache, compiled"
    assert set(named["bart-base:b1-s64"]["peers"]) == {"transformers", static}
    assert set(named["bart-base:train"]["peers"]) == {"transformers"}
    assert not named[GENERATION[1]]["peers"]
    assert all(f"| {name} |" in page.read_text() for name in named)


@pytest.mark.slow
def test_beam_search_and_every_shape_are_compared_too() -> None:
    _, *rows, _ = run("--rows", "b8-beam4-s64", "bert-base:b1-s64", "bert-base:train", "135M:train")
    assert len(rows) == 6
    assert all(row["tokens"]["right"] and not row["absent_peers"] for row in rows)


@pytest.mark.slow
def test_rows_that_the_time_does_not_suffice_for_are_named() -> None:
    _, *rows, last = run("--limit-s", "0", "--rows", "b128")
    assert last["rows"] == len(rows) == 12
    assert all(row["skipped"] == "the 0 seconds are over" for row in rows)
