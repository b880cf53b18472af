"""The number of computing threads."""

import os
from pathlib import Path

import torch

from conjoin.errors import ConfigError

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_OLD_QUOTA = Path("/sys/fs/cgroup/cpu")


def set_threads(count: int | None = None) -> int:
    """Set the number of threads that PyTorch and our own kernels compute with.

    It applies to the calling thread and to threads that have not used PyTorch yet; others keep theirs.

    A server with W workers, threads or processes, should give each `usable_threads() // W`: more threads than cores
    slow each other down. Worker processes of a data loader use one thread each by default.

    Args:
        count: None uses `usable_threads()`: all cores that this process may use.

    Returns:
        The number in use.

    Raises:
        ConfigError: count is less than one.
    """
    count = usable_threads() if count is None else count
    if count < 1:
        raise ConfigError(f"set_threads({count}): expected 1 or more; None takes all that this process may use.")
    torch.set_num_threads(count)
    return count


def usable_threads() -> int:
    """Return the cores that this process may use, by its affinity and its container's quota (cgroup cpu.max)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, cores if quota is None else min(cores, round(quota)))


def _quota() -> float | None:
    """Return the container's quota of CPU time in cores; None if it has no limit."""
    try:
        if _QUOTA.exists():
            allowed, period = _QUOTA.read_text().split()
        else:
            allowed, period = ((_OLD_QUOTA / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(allowed) / float(period) if float(allowed) > 0 else None
    except (OSError, ValueError):  # "max", or no such file
        return None
