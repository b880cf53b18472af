"""Interleaved timing of peers on the same work, in one process: medians of per-round ratios, and their spread."""

import json
import math
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(slots=True)
class Timing:
    """Seconds of each round of one contender."""

    name: str
    seconds: list[float] = field(default_factory=list[float])

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)


def race(
    contenders: dict[str, Callable[[], Any]], rounds: int, *, warmups: int = 1, least_s: float = 0.0
) -> dict[str, Timing]:
    """Run all contenders in turn, `rounds` times, so that noise of the machine affects all of them.

    The order is reversed from round to round.

    Args:
        least_s: A fast contender is called repeatedly within its turn for at least this time; its seconds are per call.
    """
    calls = {name: 1 for name in contenders}
    for name, run in contenders.items():
        for _ in range(warmups):
            calls[name] = max(1, math.ceil(least_s / _time(run)))
    timings = {name: Timing(name) for name in contenders}
    names = list(contenders)
    for index in range(rounds):
        for name in names if index % 2 == 0 else reversed(names):
            start = time.perf_counter()
            for _ in range(calls[name]):
                contenders[name]()
            timings[name].seconds.append((time.perf_counter() - start) / calls[name])
    return timings


def ratio(theirs: Timing, ours: Timing) -> dict[str, float]:
    """Return how many times as fast we are: the median of per-round ratios, with its quartiles."""
    ratios = sorted(t / o for t, o in zip(theirs.seconds, ours.seconds, strict=True))
    low, middle, high = (float(np.quantile(ratios, q)) for q in (0.25, 0.5, 0.75))
    return {"ratio": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}


def spread(same: Timing, again: Timing) -> float:
    """Return the noise of one contender that is raced against itself.

    It is the larger of two numbers: the distance of the median per-round ratio from 1, and the relative width of its
    middle half.
    """
    figures = ratio(same, again)
    return round(max(abs(figures["ratio"] - 1), (figures["high"] - figures["low"]) / figures["ratio"]), 3)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder for models, which is deleted at the end, also if `timeout` or a scheduler sends SIGTERM."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    finally:
        signal.signal(signal.SIGTERM, before)


def machine() -> dict[str, Any]:
    """Describe the machine and the versions."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: number for name in ("torch", "transformers", "ctranslate2") if (number := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def floors(megabytes: int = 256) -> dict[str, float]:
    """Measure this machine's float32 matrix product rate (GFLOP/s) and read bandwidth (GB/s)."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    big = torch.randn(megabytes * 2**18)
    gemm = min(_time(lambda: a @ b) for _ in range(5))
    read = min(_time(big.sum) for _ in range(5))
    return {"gemm_gflops": round(2 * 1024**3 / gemm / 1e9, 1), "read_gb_s": round(big.numel() * 4 / read / 1e9, 1)}


def _time(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _cpu_name() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return " ".join(
        (facts.get("model name", "?"), "family", facts.get("cpu family", "?"), "model", facts.get("model", "?"))
    )


def report(record: dict[str, Any]) -> None:
    """Print one line of JSON to stdout."""
    print(json.dumps(record, sort_keys=True), flush=True)
