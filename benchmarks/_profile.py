"""Where the time of a run goes: operators by their own share of it."""

import time
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

MOST = 8
"""Operators that are named."""


def hot_spots(run: Callable[[], Any]) -> dict[str, float]:
    """Operators and their share of one run; what is in no operator is Python and kernels of our own."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        start = time.perf_counter()
        run()
        taken_us = (time.perf_counter() - start) * 1e6
    spent = {event.key: float(event.self_cpu_time_total) / taken_us for event in seen.key_averages()}
    top = sorted(spent, key=lambda key: -spent[key])[:MOST]
    outside = 1 - sum(spent.values())
    return {key: round(spent[key], 3) for key in top} | {"in no operator": round(outside, 3)}
