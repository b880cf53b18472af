"""How many threads compute at once."""

import os
from pathlib import Path

import torch

from conjoin.errors import ConfigError

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_OLD_QUOTA = Path("/sys/fs/cgroup/cpu")


def set_threads(count: int | None = None) -> int:
    """Compute with so many threads from here on, in PyTorch and in our own kernels.

    This is the calling thread's number, and that of threads that have not used PyTorch yet; others keep theirs.

    A server with W workers, threads or processes, gives each `usable_threads() // W`: more threads than cores slow each
    other down. Processes that a data loader starts use one each by themselves.

    Args:
        count: None takes what this process may use: its share of the machine, not the machine.

    Returns:
        The number in use.

    Raises:
        ConfigError: less than one.
    """
    count = usable_threads() if count is None else count
    if count < 1:
        raise ConfigError(f"set_threads({count}): expected 1 or more; None takes all that this process may use.")
    torch.set_num_threads(count)
    return count


def usable_threads() -> int:
    """Cores that this process may use: by its affinity, and by its container's quota (cgroup cpu.max)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, cores if quota is None else min(cores, round(quota)))


def _quota() -> float | None:
    """Cores' worth of time that the container has; None where it is not limited."""
    try:
        if _QUOTA.exists():
            allowed, period = _QUOTA.read_text().split()
        else:
            allowed, period = ((_OLD_QUOTA / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(allowed) / float(period) if float(allowed) > 0 else None
    except (OSError, ValueError):  # "max", or no such file
        return None
