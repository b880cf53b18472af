"""Times the passes of a reader, and counts their work, where a clock runs."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from conjoin.torch.cpu.clock import Clock, running


def timed_read(read: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate `Reader.read`: its first call is the first step, later ones are the blocks of a step."""

    @wraps(read)
    def wrapper(reader: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        clock = running()
        if clock is None:
            return read(reader, ids, mask)
        is_first, past = reader.sources is not None, reader.cache.length
        with clock.phase("first step" if is_first else "blocks"):
            hidden = read(reader, ids, mask)
        if reader.decoder is clock.decoder:
            _count(clock, reader, ids, past, is_first)
        return hidden

    return wrapper


def _count(clock: Clock, reader: Any, ids: Tensor, past: int, is_first: bool) -> None:
    cache, rows = reader.cache, len(ids)
    if is_first:
        clock.work.first_tokens += rows * (cache.length - past)
        clock.work.cache_bytes = cache.keys[0].element_size()
        return
    mask = reader.source_mask
    source_keys = 0
    if cache.cross:
        keys = cache.cross[0][0]
        source_keys = keys.shape[0] * keys.shape[2] if mask is None else int(mask.sum())
    clock.work.count_steps(rows, past, reader.rows_per_source, source_keys, length=ids.shape[1])
