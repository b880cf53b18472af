"""Profile a run: the operators with the largest self time, as shares of the run."""

import time
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

NUM_SHOWN = 8
"""Number of operators that are listed."""


def hot_spots(run: Callable[[], Any]) -> dict[str, float]:
    """Return operators and their share of one run; time in no operator is Python and our own kernels."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as events:
        start = time.perf_counter()
        run()
        taken_us = (time.perf_counter() - start) * 1e6
    spent = {event.key: float(event.self_cpu_time_total) / taken_us for event in events.key_averages()}
    top = sorted(spent, key=lambda key: -spent[key])[:NUM_SHOWN]
    outside = 1 - sum(spent.values())
    return {key: round(spent[key], 3) for key in top} | {"in no operator": round(outside, 3)}
