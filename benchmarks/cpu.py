"""How fast is conjoin on a CPU, against transformers, CTranslate2 and the machine itself?

    python benchmarks/cpu.py                              # every row, 20 minutes, and 20 more of training
    python benchmarks/cpu.py --quick                      # the selection of `make bench`
    python benchmarks/cpu.py --rows bert-fp32-b1 copy-heavy --rounds 9
    python benchmarks/cpu.py --out benchmarks/results/DATE_MACHINE_cpu.md

The same random weights for everybody, made by transformers and saved by conjoin; one process, interleaved rounds, the
median of per-round ratios; tokens compared before anything is timed; exactly 32 new tokens. Prints a line of JSON per
row, then a table. A row that cannot run here says why; a row whose contender differs from itself by over 10 % does not
count. Exit code 1 if a row broke or wrote wrong tokens; being slow is no error.

bert-base x bert-base has no CTranslate2 peer: it has no class for a BERT that decodes.
"""

import argparse
import contextlib
import shlex
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

with contextlib.suppress(ImportError):
    # Before PyTorch: after it, both would share one OpenMP, whose threads then sleep between any two products.
    import ctranslate2  # noqa: F401

import _copying
import _speed
import _training
import torch
import transformers
from _floors import Floors, measure_floors
from _harness import machine, report, scratch
from _peers import Absent, Cast
from _rows import ROWS, SMALL, Copying, Row, Speed, Training
from _table import LEGEND, Results, aligned, table, verdict, write_results

from conjoin.errors import ConjoinError
from conjoin.torch.cpu.native.library import library

ROUNDS, QUICK_ROUNDS = 7, 3


def main() -> int:
    """Measure what is asked for."""
    asked = _asked()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(asked.threads)
    floors = measure_floors()
    facts = {"machine": machine(), "floors": floors.record(), "commit": _commit(), "compiled": library() is not None}
    first = {"question": "cpu", "rounds": asked.rounds, **facts}
    report(first)
    results: Results = []
    for row, record in _all(asked, floors):
        line = {"row": row.name, "work": row.work, "bar": row.bar, **record, "verdict": verdict(row, record)}
        report(line)
        results.append((row, line))
        if asked.out:  # after each row, so that a run that is cut off leaves a page
            write_results(asked.out, shlex.join(["python", "benchmarks/cpu.py", *sys.argv[1:]]), first, results)
    print(f"\n{aligned(table(results))}\n\n{LEGEND}", end="")
    return int(any(line["verdict"] == "wrong tokens" or "broke" in line for _, line in results))


def _asked() -> Any:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, or {QUICK_ROUNDS} with --quick")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="shorter rows and fewer rounds: under ten minutes")
    parser.add_argument("--small", action="store_true", help="models of a few MB: tries the program, measures nothing")
    parser.add_argument("--out", type=Path, help="also write a page of results there, row by row")
    asked = parser.parse_args()
    asked.rounds = asked.rounds or (QUICK_ROUNDS if asked.quick else ROUNDS)
    names = asked.rows or [row.name for row in ROWS if (row.quick if asked.quick else row.full)]
    asked.rows = [row for row in ROWS if row.name in names]
    if asked.small:
        asked.rows = [replace(row, shape=SMALL[row.shape]) for row in asked.rows]
    return asked


def _commit() -> str | None:
    """What was measured; None outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _all(asked: Any, floors: Floors) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Every row and what was found; the checkpoint of a shape is made once."""
    for (kind, shape), rows in groupby(asked.rows, key=lambda row: (type(row), row.shape)):
        with scratch() as folder:
            cast = Cast(shape, folder, asked.threads) if kind is Speed else None
            for row in rows:
                print(f"# {row.name}", file=sys.stderr, flush=True)
                yield row, _one(row, cast, folder, asked, floors)


def _one(row: Row, cast: Cast | None, folder: Path, asked: Any, floors: Floors) -> dict[str, Any]:
    """One row; what goes wrong in it is its result, and the other rows go on."""
    try:
        match row:
            case Speed():
                assert cast is not None
                return _speed.measure(row, cast, floors, asked.rounds)
            case Copying():
                return _copying.measure(row, folder / row.name, asked.rounds)
            case Training():
                return _training.measure(row, asked.rounds, asked.threads)
    except Absent as reason:
        return {"absent": str(reason)}
    except (ConjoinError, RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        traceback.print_exc()
        return {"absent": f"{type(error).__name__}: {str(error).splitlines()[0]}", "broke": True}


if __name__ == "__main__":
    sys.exit(main())
