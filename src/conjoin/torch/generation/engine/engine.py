"""Generation for requests that come and go: each joins the running batch at any step and leaves it when it is done.

A request's tokens are those that `model.generate` returns for it alone, whatever its neighbours are: every source is
encoded on its own, and the kernels compute a row in the same way, bit by bit, in any batch.
"""

import threading
import time
from ctypes import c_int64
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.torch.cpu.native.decode import run
from conjoin.torch.generation.engine.advance import draw, emit, hand_out, run_alone
from conjoin.torch.generation.engine.handle import Handle
from conjoin.torch.generation.engine.job import Active, Cancelled, Job, Priority
from conjoin.torch.generation.engine.meter import Meter
from conjoin.torch.generation.engine.requests import MOST_ENCODED, checked, native_search, prepare
from conjoin.torch.generation.engine.schedule import PRIORITIES, Waiting
from conjoin.torch.generation.engine.scorer import Details

MOST_ROWS = 64
"""Hypotheses that run together, where the caller does not say."""
_PATIENCE = 4
"""Steps that a request waits at most for others, to be encoded together with them, while many rows run."""
_GATHERED = 4
"""Running rows per waiting row from which on nobody waits for more: a quarter."""
_BULK_SHARE = 0.75
"""Share of the rows that requests of class "bulk" fill, so that others find room at once."""


class Engine:
    """Runs requests of one model together.

    Example:
        with Engine(model) as engine:
            handles = [engine.submit(ids, num_beams=4, max_new_tokens=60) for ids in sources]
            results = [handle.result() for handle in handles]

    Inside `with`, a thread of the engine's own runs the model, and nothing else may run it meanwhile. Without `with`,
    `step` and `Handle.result` run it in the caller's thread.

    Requests that cannot join run alone, one after another: on a GPU, without compiled kernels, in modes other than
    greedy search, beam search and sampling, and beam searches with processors or criteria of the caller's.

    Args:
        model: An EncoderDecoderModel, in eval mode.
        max_rows: Hypotheses that run together at most; a request with more runs when nothing else does.
        max_bytes: Bytes of the caches of running requests at most; None for no bound.

    Attributes:
        meter: What the engine has done so far, and how long it took.
    """

    def __init__(self, model: Any, *, max_rows: int = MOST_ROWS, max_bytes: int | None = None) -> None:
        if max_rows < 1:
            raise GenerationError(f"max_rows = {max_rows}; expected 1 or more.")
        self.model = model
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.meter = Meter()
        self.thread: threading.Thread | None = None
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting = Waiting()
        self._active: list[Active] = []
        self._turn = threading.Lock()  # held by the thread that runs the model
        self._interrupt = c_int64(0)
        self._is_closing = False
        self._has_cancelled = False
        self._is_gathering = False  # requests wait for others, not for room
        self._waited = 0

    def submit(
        self,
        input_ids: Tensor | None = None,
        *,
        seed: int | None = None,
        details: Details | None = None,
        priority: Priority = "interactive",
        client: str = "",
        **inputs: Any,
    ) -> Handle:
        """Ask for the generation of one source.

        Args:
            input_ids: [length] or [1, length].
            seed: With sampling, the tokens are those of `torch.manual_seed(seed)` and `generate`.
            details: Score every token of the results, too; see `Handle.outcome`.
            priority: "bulk" leaves most of the work to "interactive" while both have requests waiting.
            client: Whose request it is: the clients of a class share it equally.
            inputs: As for `generate`: the source's other inputs (attention_mask, ...) and settings.

        Returns:
            A handle; errors in the request are raised by its `result`.

        Raises:
            GenerationError: the engine is closed, or the priority is not known.
        """
        if priority not in PRIORITIES:
            raise GenerationError(f"priority = {priority!r}; expected {' or '.join(map(repr, PRIORITIES))}.")
        if input_ids is not None:
            inputs["input_ids"] = input_ids[None] if input_ids.dim() == 1 else input_ids
        job = Job(inputs, seed, details=details, priority=priority, client=client)
        self._require_open()
        try:
            job.run = checked(self.model, inputs)
            if details is not None:
                details.check(self.model.decoder.spec)
        except Exception as error:
            job.finish(None, error)
            return Handle(self, job)
        request, expectation = job.run.request, self.meter.expectation
        job.work = expectation.work(job.run.source_tokens, request.rows_per_source, request.lengths.max_new_tokens)
        with self._changed:
            self._require_open()
            self._waiting.add(job, job.work * expectation.row_seconds)
            self.wake()
        return Handle(self, job)

    def _require_open(self) -> None:
        if self._is_closing:
            raise GenerationError("The engine is closed.", hint="submit requests inside of `with Engine(model)`.")

    def joins(self, **request: Any) -> bool:
        """True if such a request runs together with others; False if it would run alone."""
        with torch.inference_mode():
            return native_search(checked(self.model, request)) is not None

    def step(self) -> bool:
        """Admit what waits, advance what runs, and hand out what is done; False if there was nothing to do."""
        with self._turn, torch.inference_mode():
            self._interrupt.value = 0
            self._drop_cancelled()
            self._admit()
            if not self._active:
                return bool(self._waiting)
            for dtype in {active.dtype for active in self._active}:
                self._advance([active for active in self._active if active.dtype == dtype], dtype)
            return True

    def run(self) -> None:
        """Run until every request is done."""
        while self.step():
            pass

    @property
    def rows(self) -> int:
        """Hypotheses that run now."""
        return sum(active.hypotheses for active in self._active)

    @property
    def running(self) -> int:
        """Requests that run now."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Requests that wait for room."""
        return len(self._waiting)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the caches of running requests, their longest results assumed."""
        return sum(active.run.cache_bytes for active in list(self._active))

    @property
    def backlog_seconds(self) -> float:
        """Expected seconds until all that waits has run."""
        return self._waiting.work * self.meter.expectation.row_seconds

    def __enter__(self) -> Self:
        self._is_closing = False
        self.thread = threading.Thread(target=self._serve, name="conjoin-engine", daemon=True)
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(cancel=error is not None)

    def close(self, *, cancel: bool = False) -> None:
        """Finish every request, or cancel all of them, and end the engine's thread."""
        with self._changed:
            self._is_closing = True
            if cancel:
                for job in [*self._waiting, *(active.job for active in self._active)]:
                    self.cancel(job, Cancelled("The engine was closed."))
            self.wake()
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        else:
            self.run()

    def cancel(self, job: Job, error: BaseException) -> None:
        """Give a request up: `Handle.cancel`."""
        with self._changed:
            job.cancelled = error
            self._has_cancelled = True
            self.wake()

    def wake(self) -> None:
        """Let the kernels return after the step that they are in."""
        with self._changed:
            self._interrupt.value = 1
            self._changed.notify_all()

    def run_until(self, done: threading.Event, timeout: float | None) -> None:
        """Run until an event is set; with a thread of the engine's own, wait for it, `timeout` seconds at most."""
        if self.thread is not None:
            done.wait(timeout)
            return
        while not done.is_set() and self.step():
            pass

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._active or self._is_closing):
                    self._changed.wait()
                if self._is_closing and not (self._waiting or self._active):
                    return
            try:
                self.step()
            except Exception as error:  # of a step that all requests share: none of them can go on, others can
                gone, self._active = self._active, []
                for active in gone:
                    active.job.finish(None, error)

    def _drop_cancelled(self) -> None:
        if not self._has_cancelled:
            return
        with self._lock:
            self._has_cancelled = False
            gone = self._waiting.cancelled()
        gone += [active.job for active in self._active if active.job.cancelled is not None]
        self._active = [active for active in self._active if active.job.cancelled is None]
        for job in gone:
            job.finish(None, job.cancelled)

    def _admit(self) -> None:
        """Start requests as long as there is room for them."""
        if not self._is_worth_a_break():
            self._is_gathering = bool(self._waiting)
            return
        self._is_gathering, self._waited, encoded = False, 0, 0
        while encoded < MOST_ENCODED or not self._active:
            with self._lock:
                job = self._next()
                upcoming = [] if job is None or job.active is not None else self._waiting.upcoming(self.max_rows)
            if job is None:
                return
            assert job.run is not None
            try:
                if upcoming:
                    begun = time.perf_counter()
                    encoded += prepare(self.model, [job, *(other for other in upcoming if other is not job)])
                    self.meter.encode_seconds += time.perf_counter() - begun
                error = None
            except Exception as problem:
                error = problem
            with self._lock:
                self._waiting.take(job)
            job.started = time.monotonic()
            if error is not None:
                job.finish(None, error)
            elif job.active is not None:
                self._active.append(job.active)
            else:
                run_alone(self.model, job, job.run)

    def _is_worth_a_break(self) -> bool:
        """True if waiting requests should be encoded now, during which running ones stand still.

        A few of them cost less together than one by one. Where nothing runs, nobody waits.
        """
        with self._lock:
            waiting = len(self._waiting)
            return bool(waiting) and (
                not self._active or waiting * _GATHERED >= self.rows or self._waited >= _PATIENCE or self._is_closing
            )

    def _next(self) -> Job | None:
        """Return the request to start next, if there is room for it."""
        bulk = sum(active.hypotheses for active in self._active if active.job.priority == "bulk")
        job = self._waiting.first()
        if job is not None and job.priority == "bulk" and self._active and job.run is not None:
            rows = job.run.request.rows_per_source
            if bulk + rows > max(1, int(_BULK_SHARE * self.max_rows)):
                job = self._waiting.first(only="interactive")
        if job is None or (self._active and not self._fits(job)):
            return None
        return job

    def _fits(self, job: Job) -> bool:
        assert job.run is not None
        if self.rows + job.run.request.rows_per_source > self.max_rows:
            return False
        return self.max_bytes is None or self.cache_bytes + job.run.cache_bytes <= self.max_bytes

    def _advance(self, actives: list[Active], dtype: torch.dtype) -> None:
        stack = actives[0].run.readers[-1].steps
        assert stack is not None
        followed = any(active.job.listeners for active in actives)
        lengths = sum(active.length * active.hypotheses for active in actives)
        begun = time.perf_counter()
        steps = run(
            stack.stack,
            dtype,
            [active.address for active in actives],
            sum(active.hypotheses for active in actives),
            steps=1 if followed else _PATIENCE - self._waited if self._is_gathering else 2**62,
            until_all=False,
            interrupt=self._interrupt,
        )
        self._waited += steps if self._is_gathering else 0
        grown = sum(active.length * active.hypotheses for active in actives) - lengths
        self.meter.saw_steps(time.perf_counter() - begun, steps, sum(active.hypotheses for active in actives), grown)
        for active in actives:
            if active.rows is not None and active.is_running:
                draw(active)
            if active.job.first is None:
                active.job.first = time.monotonic()
            emit(active)
            if active.job.error is not None or not active.is_running:
                self._active.remove(active)
                self.meter.saw_result(active)
                hand_out(active)
