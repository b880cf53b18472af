"""How fast is conjoin on a CPU, against transformers, CTranslate2 and the machine itself?

    python benchmarks/cpu.py                              # every row, an hour, and 20 minutes more of training
    python benchmarks/cpu.py --quick                      # the selection of `make bench`
    python benchmarks/cpu.py --rows bert-fp32-b1 copy-heavy --rounds 9
    python benchmarks/cpu.py --out benchmarks/results/DATE_MACHINE_cpu.md

All contenders have the same random weights, made by transformers and saved by conjoin. They run in one process, in
interleaved rounds, and the figure is the median of per-round ratios. Tokens are compared before anything is timed;
exactly 32 tokens are generated. Prints a line of JSON per row, then a table. A row that cannot run says why; a row with
a contender that differs from itself by over 10 % does not count. The exit code is 1 if a row failed or generated wrong
tokens; being slow is not an error.

Rows of an older instruction set run in a process of their own, which is limited to it (`_isa.py`).

bert-base x bert-base has no CTranslate2 peer, since CTranslate2 has no class for a BERT decoder.
"""

import argparse
import contextlib
import json
import os
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

with contextlib.suppress(OSError):
    # CTranslate2 takes AVX2 on AMD's processors, and is faster with what they have: 3 to 6 % in float32 on a Zen 4.
    if "avx512vl" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")
with contextlib.suppress(ImportError):
    # Import before PyTorch: otherwise both share one OpenMP, whose threads then sleep between any two products.
    import ctranslate2  # noqa: F401

import _bulk
import _copying
import _speed
import _step
import _training
import torch
import transformers
from _floors import Floors, measure_floors
from _harness import machine, report, scratch
from _isa import ISAS, loaded, require
from _peers import Absent, Cast
from _rows import ROWS, SMALL, Bulk, Copying, Row, Speed, Step, Training
from _table import LEGEND, Results, aligned, bars, medians, table, verdict, write_results

from conjoin.errors import ConjoinError

ROUNDS, QUICK_ROUNDS = 7, 3


def main() -> int:
    """Measure the selected rows."""
    args = _args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    floors = measure_floors()
    facts = {"machine": machine(), "floors": floors.record(), "commit": _commit(), **loaded()}
    first = {"question": "cpu", "rounds": args.rounds, **facts}
    report(first)
    results: Results = []
    for row, record in _all(args, floors):
        line = {"row": row.name, "work": row.work, "bar": bars(row), **record, "verdict": verdict(row, record)}
        report(line)
        results.append((row, line))
        if args.out:  # after each row, so that an interrupted run leaves a page
            write_results(args.out, shlex.join(["python", "benchmarks/cpu.py", *sys.argv[1:]]), first, results)
    for line in medians(results):
        report(line)
    print(f"\n{aligned(table(results))}\n\n{LEGEND}", end="")
    return int(any(line["verdict"] == "wrong tokens" or "broke" in line for _, line in results))


def _args() -> Any:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, or {QUICK_ROUNDS} with --quick")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="shorter rows and fewer rounds: under ten minutes")
    parser.add_argument("--small", action="store_true", help="models of a few MB: test the program, not the speed")
    parser.add_argument("--isa", choices=list(ISAS), help="rows of this instruction set, whose environment is set")
    parser.add_argument("--out", type=Path, help="file for a page of results, written row by row")
    args = parser.parse_args()
    args.rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)
    names = args.rows or [row.name for row in ROWS if (row.quick if args.quick else row.full)]
    args.rows = [row for row in ROWS if row.name in names]
    if args.small:
        args.rows = [_small(row) for row in args.rows]
    return args


def _small(row: Row) -> Row:
    few = {"sources": 50} if isinstance(row, Bulk) else {}
    return replace(row, shape=SMALL[row.shape], **few)


def _commit() -> str | None:
    """Return the commit of conjoin; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _all(args: Any, floors: Floors) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Measure every row; the checkpoint of a shape is made once."""
    for (isa, kind, shape, threads), group in groupby(args.rows, key=lambda row: _place(row, args)):
        rows = list(group)
        if isa != args.isa:
            yield from _in_child(isa, rows, args)
            continue
        with scratch() as folder:
            torch.set_num_threads(threads)
            cast = Cast(shape, folder, threads) if kind in (Speed, Step) else None
            for row in rows:
                print(f"# {row.name}", file=sys.stderr, flush=True)
                yield row, _measure(row, cast, folder, args, floors)
        torch.set_num_threads(args.threads)


def _place(row: Row, args: Any) -> tuple[str | None, type[Row], str, int]:
    """Return what rows of one checkpoint and one process have in common."""
    isa, threads = (row.isa, row.threads) if isinstance(row, Speed) else (None, None)
    return isa, type(row), row.shape, threads or args.threads


def _in_child(isa: str | None, rows: list[Row], args: Any) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Measure rows in a process that is limited to an instruction set.

    Raises:
        SystemExit: this is such a process itself.
    """
    if isa is None:
        raise SystemExit(f"--isa {args.isa} measures rows of this instruction set only, not {rows[0].name}")
    named = {row.name: row for row in rows}
    options = ["--isa", isa, "--rounds", str(args.rounds), "--threads", str(args.threads)]
    command = [sys.executable, __file__, "--rows", *named, *options, *(["--small"] if args.small else [])]
    environment = {**os.environ, **ISAS[isa].environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        for text in child.stdout:
            line = json.loads(text) if text.startswith('{"') else {}
            if line.get("row") in named:
                yield named.pop(line["row"]), line
    for row in named.values():
        yield row, {"absent": f"its process ended with {child.returncode}", "broke": True}


def _measure(row: Row, cast: Cast | None, folder: Path, args: Any, floors: Floors) -> dict[str, Any]:
    """Measure one row; an error becomes its result, so that other rows continue."""
    try:
        match row:
            case Speed():
                assert cast is not None
                if row.isa is not None:
                    require(row.isa)
                return _speed.measure(row, cast, floors, args.rounds) | ({"runs_on": loaded()} if row.isa else {})
            case Step():
                assert cast is not None
                return _step.measure(row, cast, args.rounds)
            case Bulk():
                return _bulk.measure(row, folder / row.name, args.rounds)
            case Copying():
                return _copying.measure(row, folder / row.name, args.rounds)
            case Training():
                return _training.measure(row, args.rounds, args.threads)
    except Absent as reason:
        return {"absent": str(reason)}
    except (ConjoinError, RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        traceback.print_exc()
        return {"absent": f"{type(error).__name__}: {str(error).splitlines()[0]}", "broke": True}


if __name__ == "__main__":
    sys.exit(main())
