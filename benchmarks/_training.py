"""The training rows: benchmarks/train.py run in a process of its own, and its lines read.

It is asked for one shape, one kind of number and pairs of natural lengths. The figure is the ratio to transformers'
Trainer as it comes, in the same kind of number; the better of two settings of ours, batches of as many rows and batches
of as many tokens.
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
"""Of train.py's; against transformers as it comes."""

MOST_ROUNDS = 3
"""A round is an epoch of every contender: minutes."""


def measure(row: Training, rounds: int, threads: int) -> dict[str, Any]:
    """Run it.

    Raises:
        Absent: there is no such program.
        RuntimeError: it failed; or it trained both sides to different weights.
    """
    if not PROGRAM.exists():
        raise Absent("there is no benchmarks/train.py")
    sizes = {"--rounds": min(rounds, MOST_ROUNDS), "--pairs": row.pairs, "--threads": threads}
    asked = ["--shapes", row.shape, "--kinds", row.kind, "--tasks", "natural", "--contenders", *CONTENDERS]
    printed = _run(*asked, *(str(word) for pair in sizes.items() for word in pair))
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith('{"')]  # Trainer prints dicts
    line = next(line for line in lines if line.get("task") == "natural")
    best = max((ours["transformers"] for ours in line["against"].values()), key=lambda figure: figure["ratio"])
    return {"best_peer": "transformers Trainer", **best, "training": line}


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmarks/train.py: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return done.stdout
