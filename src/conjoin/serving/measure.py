"""What is measured when a model is loaded: how many rows run together well, and how much memory caches may take."""

import os
from typing import Any

_MOST_ROWS = 256
_GAIN = 1.05
"""More rows must raise tokens per second by this factor to be worth their latency."""
_STALLS = 2
"""So many sizes in a row without a gain end the measuring: a single one may be noise."""
_TRIES = 2
"""The faster of so many runs counts: whatever disturbs a run makes it slower."""
_STEPS = 8
_SOURCE = 8


def warm_up(model: Any) -> None:
    """Generate a few tokens, so that kernels are compiled and memory is there before the first request."""
    _run(model, 1, beams=1)
    _run(model, 1, beams=2)


def measure_rows(model: Any, step_s: float) -> int:
    """Return the number of rows beyond which more rows give no more tokens per second, or steps become too long.

    Args:
        step_s: Longest time of a step, in seconds.
    """
    speeds: dict[int, float] = {}
    rows, stalls = 1, 0
    while rows <= _MOST_ROWS and stalls < _STALLS:
        seconds = min(_step_seconds(model, rows) for _ in range(_TRIES))
        if seconds == 0 or (speeds and seconds > step_s):  # nothing runs together: no kernels, or another device
            break
        stalls = 0 if rows / seconds > _GAIN * max(speeds.values(), default=0.0) else stalls + 1
        speeds[rows] = rows / seconds
        rows *= 2
    best = max(speeds.values(), default=0.0)
    return min((rows for rows, speed in speeds.items() if speed * _GAIN >= best), default=1)


def _step_seconds(model: Any, rows: int) -> float:
    meter = _run(model, rows, beams=1).meter
    return meter.step_seconds / meter.steps if meter.steps else 0.0


def memory_share(models: int) -> int:
    """Return the bytes that the caches of one of so many models may take: a quarter of what is free, shared."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not on this system
        free = 4 << 30
    return max(64 << 20, free // 4 // max(1, models))


def _run(model: Any, rows: int, *, beams: int) -> Any:
    import torch

    from conjoin.torch.generation.engine import Engine

    positions = [half.max_positions for half in (model.spec.encoder, model.spec.decoder) if half.max_positions]
    steps = min([_STEPS, *(most // 2 for most in positions)])
    ids = torch.full((1, min([_SOURCE, *positions])), _plain_id(model))
    engine = Engine(model, max_rows=max(rows, beams))
    settings: dict[str, Any] = {"num_beams": beams, "do_sample": False, "max_new_tokens": max(2, steps)}
    handles = [engine.submit(ids, **settings, eos_token_id=_unlikely_id(model)) for _ in range(rows)]
    engine.run()
    for handle in handles:
        handle.result()
    return engine


def _plain_id(model: Any) -> int:
    """Return an id of the source vocabulary that is no padding."""
    size = model.spec.encoder.vocab_size
    return next(token for token in range(size - 1, -1, -1) if token != model.encoder.config.pad_token_id)


def _unlikely_id(model: Any) -> int:
    return model.decoder.spec.vocab_size - 1
