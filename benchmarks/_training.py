"""The training rows: run benchmarks/train.py in a separate process and parse its lines.

A row has one shape, one dtype and pairs of natural lengths. The figure is the ratio to transformers' Trainer with
default settings, in the same dtype; of our two settings, batches of equally many rows and batches by tokens, the better
counts.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from _peers import Absent
from _rows import Training

PROGRAM = Path(__file__).with_name("train.py")
CONTENDERS = ("transformers", "conjoin", "conjoin, by tokens")
"""Contenders of train.py; the first is transformers with default settings."""

MOST_ROUNDS = 3
"""A round is an epoch of every contender, which takes minutes."""


def measure(row: Training, rounds: int, threads: int) -> dict[str, Any]:
    """Run train.py for one row.

    Raises:
        Absent: train.py is missing.
        RuntimeError: it failed, or the contenders' weights differ after training.
    """
    if not PROGRAM.exists():
        raise Absent("there is no benchmarks/train.py")
    sizes = {"--rounds": min(rounds, MOST_ROUNDS), "--pairs": row.pairs, "--threads": threads}
    options = ["--shapes", row.shape, "--kinds", row.kind, "--tasks", "natural", "--contenders", *CONTENDERS]
    printed = _run(*options, *(str(word) for option in sizes.items() for word in option))
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith('{"')]  # Trainer prints dicts
    line = next(line for line in lines if line.get("task") == "natural")
    best = max((ours["transformers"] for ours in line["against"].values()), key=lambda figure: figure["ratio"])
    return {"best_peer": "transformers Trainer", **best, "training": line}


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmarks/train.py: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return done.stdout
