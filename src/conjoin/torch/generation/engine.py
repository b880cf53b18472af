"""Generation for requests that come and go: each joins the running batch at any step and leaves it when it is done.

A request's tokens are those that `model.generate` returns for it alone, whatever its neighbours are: every source is
encoded on its own, and the kernels compute a row in the same way, bit by bit, in any batch.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from ctypes import c_int64
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import torch
from jaxtyping import Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.generation import FORBIDDEN, BeamSearch, Greedy, Sampling
from conjoin.torch.cpu.native.decode import DONE, NO_TOKEN, RUNNING, Requests, run
from conjoin.torch.generation.generate import Callers, Run, generate
from conjoin.torch.generation.loop import Control
from conjoin.torch.generation.loops.native import result_of
from conjoin.torch.generation.loops.sample import pick_best, pick_randomly
from conjoin.torch.generation.outputs import GenerateOutput
from conjoin.torch.generation.rows import Rows
from conjoin.torch.generation.streamers import stable_prefix
from conjoin.torch.model.outputs import EncoderOutput
from conjoin.torch.model.route import kernels_of

MOST_ROWS = 64
"""Hypotheses that run together, where the caller does not say."""
_MOST_ENCODED = 1024
"""Source tokens that are encoded between two steps of running requests."""
_END = object()


class Cancelled(GenerationError):
    """A request was cancelled before it was done."""


class Handle:
    """A request that was submitted.

    Iteration yields the ids after the prompt as soon as no later step can change them: with greedy search and sampling
    each token, with beams what all hypotheses share.
    """

    def __init__(self, engine: "Engine", job: "_Job") -> None:
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

    def done(self) -> bool:
        """True if the request is done, has failed or was cancelled."""
        return self._job.done.is_set()

    def cancel(self) -> None:
        """Give the request up: its rows leave the batch before the next step."""
        self._job.is_cancelled = True
        self._engine.wake()

    def add_done_callback(self, callback: Callable[["Handle"], object]) -> None:
        """Call a function with this handle when the request is done, in the engine's thread; at once if it is."""
        self._job.when_done(lambda: callback(self))

    def __iter__(self) -> Iterator[int]:
        """Yield the ids after the prompt as they become certain. Follow a request from one place only.

        Raises:
            GenerationError: as in `result`.
        """
        engine, job = self._engine, self._job
        tokens = job.follow()
        engine.wake()
        while True:
            while engine.thread is None and tokens.empty() and not job.done.is_set():
                engine.step()
            token = tokens.get()
            if token is _END:
                break
            yield token
        if job.error is not None:
            raise job.error


class _Job:
    """What a handle and the engine share of a request."""

    def __init__(self, inputs: dict[str, Any], seed: int | None) -> None:
        self.inputs, self.seed = inputs, seed
        self.run: Run | None = None
        self.done = threading.Event()
        self.is_cancelled = False
        self.result: Int[Tensor, "n t"] | GenerateOutput | None = None
        self.error: BaseException | None = None
        self.tokens: queue.SimpleQueue[Any] | None = None
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []

    def follow(self) -> "queue.SimpleQueue[Any]":
        """Return the queue of certain tokens, which ends with _END."""
        with self._lock:
            if self.tokens is None:
                self.tokens = queue.SimpleQueue()
                if self.done.is_set():
                    self.tokens.put(_END)
            return self.tokens

    def when_done(self, callback: Callable[[], object]) -> None:
        """Call a function once the job is done."""
        with self._lock:
            if not self.done.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def finish(self, result: Tensor | GenerateOutput | None, error: BaseException | None = None) -> None:
        """Set the result, or an error."""
        self.result, self.error = result, error
        self.inputs, self.run = {}, None
        with self._lock:
            self.done.set()
            callbacks, self._callbacks = self._callbacks, []
            if self.tokens is not None:
                self.tokens.put(_END)
        for callback in callbacks:
            callback()


@dataclass(slots=True, eq=False)
class _Active:
    """A request in the batch.

    Args:
        rows: The hypotheses of a request whose tokens are drawn; None if the kernels choose them.
        emitted: Number of tokens that were passed on.
    """

    job: _Job
    run: Run
    control: Control
    requests: Requests
    rows: Rows | None = None
    generator: torch.Generator | None = None
    emitted: int = 0
    dtype: torch.dtype = torch.float32
    address: int = field(init=False)

    def __post_init__(self) -> None:
        self.address = self.requests.addresses[0]

    @property
    def state(self) -> int:
        return int(self.requests.entries["state"][0])

    @property
    def hypotheses(self) -> int:
        return int(self.requests.entries["hypotheses"][0])


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
    """

    def __init__(self, model: Any, *, max_rows: int = MOST_ROWS, max_bytes: int | None = None) -> None:
        if max_rows < 1:
            raise GenerationError(f"max_rows = {max_rows}; expected 1 or more.")
        self.model = model
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.thread: threading.Thread | None = None
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[_Job] = deque()
        self._active: list[_Active] = []
        self._turn = threading.Lock()  # held by the thread that runs the model
        self._interrupt = c_int64(0)
        self._is_closing = False

    def submit(self, input_ids: Tensor | None = None, *, seed: int | None = None, **inputs: Any) -> Handle:
        """Ask for the generation of one source.

        Args:
            input_ids: [length] or [1, length].
            seed: With sampling, the tokens are those of `torch.manual_seed(seed)` and `generate`.
            inputs: As for `generate`: the source's other inputs (attention_mask, ...) and settings.

        Returns:
            A handle; errors in the request are raised by its `result`.
        """
        if input_ids is not None:
            inputs["input_ids"] = input_ids[None] if input_ids.dim() == 1 else input_ids
        job = _Job(inputs, seed)
        with self._changed:
            if self._is_closing:
                raise GenerationError("The engine is closed.", hint="submit requests inside of `with Engine(model)`.")
            self._waiting.append(job)
            self.wake()
        return Handle(self, job)

    def joins(self, **request: Any) -> bool:
        """True if such a request runs together with others; False if it would run alone."""
        with torch.inference_mode():
            return self._begin(_checked(self.model, request)) is not None

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
    def waiting(self) -> int:
        """Requests that wait for room."""
        return len(self._waiting)

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
                    job.is_cancelled = True
            self.wake()
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        else:
            self.run()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._active or self._is_closing):
                    self._changed.wait()
                if self._is_closing and not (self._waiting or self._active):
                    return
            self.step()

    def wake(self) -> None:
        """Let the kernels return after the step that they are in."""
        with self._changed:
            self._interrupt.value = 1
            self._changed.notify_all()

    def run_until(self, done: threading.Event, timeout: float | None) -> None:
        if self.thread is not None:
            done.wait(timeout)
            return
        while not done.is_set() and self.step():
            pass

    def _drop_cancelled(self) -> None:
        with self._lock:
            cancelled = [job for job in self._waiting if job.is_cancelled]
            self._waiting = deque(job for job in self._waiting if not job.is_cancelled)
        gone = [active for active in self._active if active.job.is_cancelled]
        self._active = [active for active in self._active if not active.job.is_cancelled]
        for job in [*cancelled, *(active.job for active in gone)]:
            job.finish(None, Cancelled("The request was cancelled."))

    def _admit(self) -> None:
        """Start requests, in their order, as long as there is room for them."""
        encoded = 0
        while self._waiting and (encoded < _MOST_ENCODED or not self._active):
            with self._lock:
                job = self._waiting[0]
            try:
                job.run = run_ = job.run or _checked(self.model, job.inputs)
                if self._active and not self._fits(run_):
                    return
                if run_.inputs.encoded is None:
                    encoded += self._encode_next()
                active = self._start(job, run_)
            except Exception as error:
                active = None
                job.finish(None, error)
            with self._lock:
                self._waiting.popleft()
            if active is not None:
                self._active.append(active)

    def _encode_next(self) -> int:
        """Encode the sources of the next requests together, which is faster and changes no bit; return their tokens."""
        with self._lock:
            waiting = list(self._waiting)[: self.max_rows]
        runs: list[Run] = []
        total = 0
        for job in waiting:
            try:
                job.run = job.run or _checked(self.model, job.inputs)
            except Exception:  # it is raised in the job's turn
                continue
            total += job.run.source_tokens
            if runs and (total > _MOST_ENCODED or not _shares_passes(job.run)):
                break
            runs.append(job.run)
        if len(runs) > 1 and _shares_passes(runs[0]) and kernels_of(self.model.encoder) is not None:
            _encode_together(self.model, runs)
        return sum(run_.source_tokens for run_ in runs)

    def _fits(self, run_: Run) -> bool:
        rows = self.rows + run_.request.rows_per_source
        if rows > self.max_rows:
            return False
        if self.max_bytes is None:
            return True
        held = sum(active.run.cache_bytes for active in self._active)
        return held + run_.cache_bytes <= self.max_bytes

    def _start(self, job: _Job, run_: Run) -> _Active | None:
        """Encode a source and join the batch; None if the request ran alone."""
        begun = self._begin(run_)
        if begun is None:
            self._run_alone(job)
            return None
        steps = run_.readers[-1].steps
        assert steps is not None
        active = _Active(job, run_, *begun, dtype=steps.dtype)
        if active.requests.scores.numel():
            copies = run_.request.num_return_sequences
            active.rows = Rows(run_.prompt.repeat_interleave(copies, 0), run_.limits, copies)
            if job.seed is not None:
                active.generator = torch.Generator().manual_seed(job.seed)
        return active

    @staticmethod
    def _begin(run_: Run) -> tuple[Control, Requests] | None:
        if run_.request.outputs.as_dict or not isinstance(run_.request.mode, Greedy | BeamSearch | Sampling):
            return None
        run_.encode()
        control = run_.control()
        requests = run_.native_requests(control) or run_.native_requests(control, hands_out=True)
        return None if requests is None else (control, requests)

    def _run_alone(self, job: _Job) -> None:
        inputs = dict(job.inputs)
        with torch.random.fork_rng(enabled=job.seed is not None):
            if job.seed is not None:
                torch.manual_seed(job.seed)
            result = generate(self.model, **inputs)
        if job.tokens is not None and isinstance(result, Tensor) and len(result) == 1:
            for token in result[0].tolist():
                job.tokens.put(token)
        job.finish(result)

    def _advance(self, actives: list[_Active], dtype: torch.dtype) -> None:
        stack = actives[0].run.readers[-1].steps
        assert stack is not None
        followed = any(active.job.tokens is not None for active in actives)
        run(
            stack.stack,
            dtype,
            [active.address for active in actives],
            steps=1 if followed else 2**62,
            until_all=False,
            interrupt=self._interrupt,
        )
        for active in actives:
            if active.rows is not None and active.state == RUNNING:
                self._draw(active)
            self._emit(active)
            if active.state != RUNNING:
                self._active.remove(active)
                self._hand_out(active)

    def _draw(self, active: _Active) -> None:
        """Choose a token for every hypothesis of a request, as `sample` does."""
        rows, entry, control = active.rows, active.requests.entries, active.control
        assert rows is not None
        try:
            scores = control.processed(rows.ids, active.requests.scores[0], ~rows.ended)
            if isinstance(active.run.request.mode, Sampling):
                tokens = pick_randomly(scores, rows, control.watch, active.generator)
            else:
                tokens = pick_best(scores, rows, control.watch)
            tokens = rows.add(tokens)
            control.put(tokens)
            rows.end(tokens, control.stopped(rows.ids))
        except Exception as error:  # of the caller's own processors and criteria, too
            active.job.error = error
            entry["state"] = NO_TOKEN
            return
        active.requests.tokens[0, :, rows.length - 1] = tokens
        entry["total"] = rows.length
        if rows.at_limit or rows.all_ended:
            control.end_stream()
            entry["state"] = DONE

    def _emit(self, active: _Active) -> None:
        """Pass on the tokens that became certain, if anybody follows the request."""
        job = active.job
        if job.tokens is None or (active.hypotheses > 1 and active.rows is not None):
            return
        requests, prompt = active.requests, active.run.limits.prompt
        if active.rows is not None or active.run.request.num_beams == 1:
            known = requests.tokens[0, 0, prompt : int(requests.lengths[0])]
        elif active.state == RUNNING:
            ids, scores = requests.running(0)
            running = ids[scores > FORBIDDEN][:, : int(requests.lengths[0])]
            best = [requests.finished[0, 0, : int(requests.finished_lengths[0, 0])]] * bool(requests.is_finished[0, 0])
            if not len(running):
                return
            known = running[0, prompt : stable_prefix(running, best)]
        else:
            known = requests.finished[0, 0, prompt : int(requests.finished_lengths[0, 0])]
        for token in known[active.emitted :].tolist():
            job.tokens.put(token)
        active.emitted = max(active.emitted, len(known))

    def _hand_out(self, active: _Active) -> None:
        error = active.job.error
        if error is None:
            try:
                if active.rows is not None:
                    sequences = active.rows.result()
                else:
                    returned = active.run.request.num_return_sequences
                    sequences = result_of(active.requests, active.control, returned).sequences
                active.job.finish(sequences.clone())
                return
            except GenerationError as dead_end:
                error = dead_end
        active.job.finish(None, error)


def _checked(model: Any, inputs: dict[str, Any]) -> Run:
    """Check the arguments of a request."""
    keywords = dict(inputs)
    names = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "streamer", "tokenizer")
    callers = Callers(*(keywords.pop(name, None) for name in (*names, "assistant_model")))
    run_ = Run.of(model, None, keywords.pop("generation_config", None), callers, keywords)
    if len(run_.prompt) != 1:
        raise GenerationError(
            f"A request of {len(run_.prompt)} sources; expected one.", hint="submit every source on its own."
        )
    return run_


def _shares_passes(run_: Run) -> bool:
    """True if a source is nothing but ids and a mask."""
    given = run_.inputs
    return given.encoded is None and given.ids is not None and not given.keywords and not run_.request.truncation


def _encode_together(model: Any, runs: list[Run]) -> None:
    """Give every call the encoder's output of its source."""
    inputs = [run_.inputs.with_mask(model.encoder.config) for run_ in runs]
    lengths = [each.source.shape[1] for each in inputs]
    shape = (len(runs), max(lengths))
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    for row, (each, length) in enumerate(zip(inputs, lengths, strict=True)):
        ids[row, :length] = each.ids[0]
        mask[row, :length] = 1 if each.mask is None else each.mask[0]
    states = model.encoder(ids, mask).last_hidden_state
    for row, (run_, each, length) in enumerate(zip(runs, inputs, lengths, strict=True)):
        run_.inputs = replace(each, encoded=EncoderOutput(states[row : row + 1, :length]))
