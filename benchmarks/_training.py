"""The training rows: benchmarks/train.py run in a process of its own, and its lines read.

It is asked for one shape and one kind of number. Of its lines, those that name a task count; a line's figure is the
best of its ratios to transformers' Trainer, and the row's figure is the worst of the tasks.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from _peers import Absent
from _rows import Training

PROGRAM = Path(__file__).with_name("train.py")
RATIOS = ("batch_of_equal_rows", "batch_of_equal_tokens")
"""Of train.py's lines, each with ratio, low and high."""


def measure(row: Training, shape: str, rounds: int, threads: int) -> dict[str, Any]:
    """Run it.

    Raises:
        Absent: there is no such program, or it does not know this kind of number.
    """
    if not PROGRAM.exists():
        raise Absent("there is no benchmarks/train.py")
    asked = ["--shapes", shape, "--rounds", str(rounds), "--threads", str(threads)]
    if row.kind != "fp32":
        asked += ["--kinds", row.kind]
    if "--kinds" not in _run("--help") and "--kinds" in asked:
        raise Absent(f"benchmarks/train.py has no --kinds {row.kind}")
    lines = [json.loads(line) for line in _run(*asked).splitlines() if line.startswith("{")]
    tasks = {line["task"]: line for line in lines if "task" in line}
    if not tasks:
        raise Absent("benchmarks/train.py printed no line with a task")
    figures = {task: max((line[name] for name in RATIOS if name in line), key=_size) for task, line in tasks.items()}
    worst = min(figures.values(), key=_size)
    return {"best_peer": "transformers Trainer", **worst, "tasks": figures, "lines": lines}


def _size(figure: dict[str, float]) -> float:
    return figure["ratio"]


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Absent(f"benchmarks/train.py failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout
