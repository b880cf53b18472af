"""What a caller holds of a request that was submitted."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from jaxtyping import Int
from torch import Tensor

from conjoin.torch.generation.engine.job import Cancelled, Job, Listener, Outcome, Progress, Times
from conjoin.torch.generation.outputs import GenerateOutput

_END = object()


class Runner(Protocol):
    """What a handle needs of its engine."""

    thread: threading.Thread | None

    def step(self) -> bool:
        """Advance what runs; False if there was nothing to do."""
        ...

    def wake(self) -> None:
        """Let the kernels return after the step that they are in."""
        ...

    def cancel(self, job: Job, error: BaseException) -> None:
        """Give a request up, with what its result raises."""
        ...

    def run_until(self, done: threading.Event, timeout: float | None) -> None:
        """Run, or wait for the engine's thread, until an event is set."""
        ...


class _Tokens:
    """Queues the tokens of the first result."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def put(self, progress: Progress) -> None:
        for token in progress.tokens if progress.row == 0 else ():
            self.queue.put(token)

    def end(self) -> None:
        self.queue.put(_END)


class Handle:
    """A request that was submitted.

    Iteration yields the ids after the prompt as soon as no later step can change them: with greedy search and sampling
    each token, with beams what all hypotheses share.
    """

    def __init__(self, engine: Runner, job: Job) -> None:
        self._engine, self._job = engine, job

    def result(self, timeout: float | None = None) -> Int[Tensor, "n t"] | GenerateOutput:
        """Return what `generate` returns: ids [number of results, length], padded after their ends.

        Without a thread of the engine's own, this call runs the engine until the request is done.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: the request is not done by then; it goes on.
            GenerationError: the request cannot be honoured, has no token left, or was cancelled.
        """
        job = self._job
        self._engine.run_until(job.done, timeout)
        if not job.done.is_set():
            raise TimeoutError(f"The request is not done after {timeout} seconds; it goes on.")
        if job.error is not None:
            raise job.error
        assert job.result is not None
        return job.result

    def outcome(self, timeout: float | None = None) -> Outcome:
        """Return the ids with their scores, details and times; see `result`.

        Raises:
            TimeoutError, GenerationError: as in `result`.
        """
        self.result(timeout)
        assert self._job.outcome is not None
        return self._job.outcome

    def done(self) -> bool:
        """True if the request is done, has failed or was cancelled."""
        return self._job.done.is_set()

    @property
    def error(self) -> BaseException | None:
        """What went wrong with a request that is done; None if nothing did."""
        return self._job.error

    @property
    def times(self) -> Times:
        """When it came, started, had its first token; `finished` is now, until it is done."""
        return self._job.times

    def cancel(self, error: BaseException | None = None) -> None:
        """Give the request up: its rows leave the batch before the next step.

        Args:
            error: What `result` raises; `Cancelled` by default.
        """
        self._engine.cancel(self._job, error or Cancelled("The request was cancelled."))

    def add_done_callback(self, callback: Callable[["Handle"], object]) -> None:
        """Call a function with this handle when the request is done, in the engine's thread; at once if it is."""
        self._job.when_done(lambda: callback(self))

    def follow(self, listener: Listener) -> None:
        """Tell a listener of every token that becomes certain, and of the end, in the engine's thread."""
        self._job.follow(listener)
        self._engine.wake()

    def __iter__(self) -> Iterator[int]:
        """Yield the ids after the prompt as they become certain. Follow a request from one place only.

        Raises:
            GenerationError: as in `result`.
        """
        engine, job, tokens = self._engine, self._job, _Tokens()
        self.follow(tokens)
        while True:
            while engine.thread is None and tokens.queue.empty() and not job.done.is_set():
                engine.step()
            token = tokens.queue.get()
            if token is _END:
                break
            yield token
        if job.error is not None:
            raise job.error
