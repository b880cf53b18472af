"""The command: python -m fuzz KIND... --seconds 60 --seed 7."""

import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
}

import torch

from fuzz import data, ggufs, pickles, runs, settings, texts, weights
from fuzz.runner import Bench, Kind, Outcome, Tally, cases

KINDS: dict[str, Kind] = {
    kind.name: kind for room in (weights, ggufs, pickles, settings, texts, data, runs) for kind in room.KINDS
}

_ROW = "{:18} {:>6} {:>6} {:>8} {:>9} {:>9} {:>8}"


def main() -> int:
    """Run cases and tell how they ended; 0 if every one worked or was refused."""
    parser = argparse.ArgumentParser("fuzz", description="Damage files of a kind, and see what conjoin makes of them.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"all by default: {', '.join(sorted(KINDS))}")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each kind")
    parser.add_argument("--cases", type=int, help="so many for each kind, however long they take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--case", type=int, help="one case alone, in this process, with its traceback; its folder is kept"
    )
    asked = parser.parse_args()
    names = asked.kinds or sorted(KINDS)
    if unknown := [name for name in names if name not in KINDS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(sorted(KINDS))}")
    torch.set_num_threads(1)  # a forked process has none of the threads of its parent
    if asked.case is not None:
        return _one(KINDS[names[0]], asked.seed, asked.case)
    failed = False
    print(_ROW.format("kind", "cases", "works", "refused", "failures", "unstaged", "seconds"), flush=True)
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as work:
            bench = Bench(KINDS[name], Path(work))
            start = time.monotonic()
            numbers = iter(range(asked.cases)) if asked.cases else itertools.count()
            tally = cases(bench, asked.seed, numbers, float("inf") if asked.cases else start + asked.seconds)
        failed |= bool(tally.failures)
        _report(name, asked.seed, tally, time.monotonic() - start)
    return int(failed)


def _one(kind: Kind, seed: int, case: int) -> int:
    bench = Bench(kind, Path(tempfile.mkdtemp(prefix=f"fuzz-{kind.name}-")))
    folder = bench.stage(seed, case)
    print(f"{folder}: used now", flush=True)
    kind.use(folder)
    print("works")
    return 0


def _report(name: str, seed: int, tally: Tally, seconds: float) -> None:
    counts = tally.counts
    numbers = counts.total(), counts["works"], counts["refused"], len(tally.failures), counts["unstaged"]
    print(_ROW.format(name, *numbers, f"{seconds:.0f}"), flush=True)
    alike: dict[tuple[str, str], list[tuple[int, Outcome]]] = {}
    for case, outcome in tally.failures:
        alike.setdefault((outcome.word, outcome.place), []).append((case, outcome))
    for (word, place), found in sorted(alike.items(), key=lambda entry: -len(entry[1])):
        case, outcome = found[0]
        print(f"\n  {word} x {len(found)} at {place or '?'}; one: python -m fuzz {name} --seed {seed} --case {case}")
        print("    " + "\n    ".join(line[:400] for line in outcome.text.strip().splitlines()[-6:]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
