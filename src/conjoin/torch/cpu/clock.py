"""Times the phases of `generate` where a clock runs: `model.profile()` and CONJOIN_PROFILE=1 start one.

A moment belongs to the innermost phase that it is in, so the seconds of all phases add up to those of the call. Nothing
but a look for a running clock happens where there is none.
"""

import ctypes
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

Phase = Literal[
    "encode", "first step", "blocks", "products", "attention", "norms", "head", "selection", "waiting", "rest"
]
"""`blocks`: embedding and blocks of a step, as far as the kernels do not divide them into the phases after it. `rest`:
what a call does before and after decoding."""

NATIVE: tuple[Phase, ...] = ("products", "attention", "norms", "head", "selection", "waiting")
"""What the kernels time, in the order of the array that they add seconds to: the time of their first thread."""

NativeSeconds = ctypes.c_double * len(NATIVE)
"""The array. Where `running()` returns a clock, the kernels get a new one, whose values go to `Clock.divide`."""


@dataclass(slots=True)
class Work:
    """What the passes of all calls had to compute and to read.

    Args:
        source_tokens, source_pairs: Encoded tokens without padding, and the sum of the squares of sources' lengths.
        first_tokens: Tokens of the first step, over all rows.
        steps, step_tokens: Passes after the first, and their tokens.
        self_keys: Positions in the cache that the steps read, over all rows.
        cross_keys, cross_scored: Source tokens that the steps read, once per source and once per row.
        cache_bytes: Size of a number in the cache.
    """

    source_tokens: int = 0
    source_pairs: int = 0
    first_tokens: int = 0
    steps: int = 0
    step_tokens: int = 0
    self_keys: int = 0
    cross_keys: int = 0
    cross_scored: int = 0
    cache_bytes: int = 4

    def count_sources(self, lengths: Sequence[int]) -> None:
        """Count encoded sources."""
        self.source_tokens += sum(lengths)
        self.source_pairs += sum(length * length for length in lengths)

    def count_steps(
        self, rows: int, past: int, beams: int, cross_keys: int, *, length: int = 1, steps: int = 1
    ) -> None:
        """Count passes over the same rows, the first of them behind `past` positions.

        Args:
            beams: Rows per source.
            cross_keys: Tokens of all their sources.
            length: New positions of each row in each pass.
        """
        read = steps * past + length * (steps * (steps + 1) // 2)
        self.steps += steps
        self.step_tokens += steps * rows * length
        self.self_keys += rows * read
        self.cross_keys += steps * cross_keys
        self.cross_scored += steps * cross_keys * beams * length


@dataclass(slots=True)
class Clock:
    """Seconds of every phase, and the work done.

    Args:
        decoder: The decoder whose passes are counted; an assistant's are only timed.
        now: Reads the time, after waiting for the device.
    """

    decoder: Any = None
    now: Callable[[], float] = time.perf_counter
    calls: int = 0
    seconds: dict[Phase, float] = field(default_factory=dict[Phase, float])
    work: Work = field(default_factory=Work)
    _phase: Phase | None = None
    _since: float = 0.0
    _is_first: bool = False

    @property
    def is_in_call(self) -> bool:
        """True within `call`."""
        return self._phase is not None

    @contextmanager
    def call(self) -> Generator[None]:
        """Time a call, as `rest` where it is in no other phase; a call inside another belongs to that."""
        previous = self._enter("rest")
        self.calls += previous is None
        try:
            with as_running(self):
                yield
        finally:
            self._enter(previous)

    @contextmanager
    def phase(self, name: Phase) -> Generator[None]:
        """Time a phase. The head of the first step belongs to that step."""
        if name in ("first step", "blocks"):
            self._is_first = name == "first step"
        previous = self._enter("first step" if name == "head" and self._is_first else name)
        try:
            yield
        finally:
            self._enter(previous)

    def divide(self, native: Sequence[float]) -> None:
        """Attribute seconds of the current phase to those of the kernels, in the order of `NATIVE`.

        Call it in the phase in which the kernels ran. Encoding and a first step are not divided.
        """
        if self._phase in (None, "encode", "first step"):
            return
        for name, seconds in zip(NATIVE, native, strict=True):
            self._add(name, seconds)
            self._add(self._phase, -seconds)

    def _enter(self, name: Phase | None) -> Phase | None:
        now, previous = self.now(), self._phase
        if previous is not None:
            self._add(previous, now - self._since)
        self._phase, self._since = name, now
        return previous

    def _add(self, name: Phase, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


_RUNNING: ContextVar[Clock | None] = ContextVar("clock", default=None)


def running() -> Clock | None:
    """Return the clock of the call that runs in this thread; None without one."""
    return _RUNNING.get()


@contextmanager
def as_running(clock: Clock | None) -> Generator[None]:
    """Let this clock, or none, time the calls of this thread."""
    before = _RUNNING.set(clock)
    try:
        yield
    finally:
        _RUNNING.reset(before)


def timed(name: Phase) -> Callable[[Function], Function]:
    """Decorate a function whose calls are a phase."""

    def decorate(function: Function) -> Function:
        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            clock = _RUNNING.get()
            if clock is None:
                return function(*args, **kwargs)
            with clock.phase(name):
                return function(*args, **kwargs)

        return cast(Function, wrapper)

    return decorate
