"""Times the passes of a reader, and counts their work, where a clock runs."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from conjoin.torch.cpu.clock import Clock, running
from conjoin.torch.cpu.native.decode import Requests


def timed_read(read: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate `Reader.read`: its first call is the first step, later ones are the blocks of a step."""

    @wraps(read)
    def wrapper(reader: Any, ids: Tensor, mask: Tensor | None = None, want: str = "hidden") -> Tensor:
        clock = running()
        if clock is None:
            return read(reader, ids, mask, want)
        is_first, past = reader.sources is not None, reader.cache.length
        with clock.phase("first step" if is_first else "blocks"):
            result = read(reader, ids, mask, want)
        if reader.decoder is clock.decoder:
            _count(clock, reader, ids, past, is_first)
        return result

    return wrapper


def count_requests(reader: Any, requests: Requests, steps: int) -> None:
    """Count the work of a native search, where a clock runs."""
    clock = running()
    if clock is None or reader.decoder is not clock.decoder:
        return
    work, entries = clock.work, requests.entries
    work.cache_bytes = reader.cache.keys[0].element_size()
    work.first_tokens += int(entries["prompt"].sum())
    for prompt, total, rows, keys in entries[["prompt", "total", "hypotheses", "keys"]].tolist():
        work.count_steps(rows, prompt, rows, keys, steps=total - prompt - 1)
    work.steps += steps - 1 - int((entries["total"] - entries["prompt"] - 1).sum())


def _count(clock: Clock, reader: Any, ids: Tensor, past: int, is_first: bool) -> None:
    cache, rows = reader.cache, len(ids)
    if is_first:
        clock.work.first_tokens += rows * (cache.length - past)
        clock.work.cache_bytes = cache.keys[0].element_size()
        return
    clock.work.count_steps(rows, past, reader.rows_per_source, reader.source_keys, length=ids.shape[1])
