"""A request inside the engine: what was asked for, how far it is, and who is told."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.torch.cpu.native.decode import RUNNING, Requests
from conjoin.torch.generation.engine.scorer import Details, Scorer, TokenScore
from conjoin.torch.generation.generate import Run
from conjoin.torch.generation.loop import Control
from conjoin.torch.generation.outputs import GenerateOutput
from conjoin.torch.generation.rows import Rows

Priority = Literal["interactive", "bulk"]


class Cancelled(GenerationError):
    """A request was cancelled before it was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What became certain of a result, and what is likely to follow.

    Args:
        row: Number of the result: 0, but for several samples.
        tokens: Ids that no later step can change, behind those of earlier progress.
        guess: With beams, the ids of the best hypothesis behind them, which may still change.
        scores: Of `tokens`, where the request wants details.
    """

    row: int = 0
    tokens: list[int]
    guess: list[int] = field(default_factory=list[int])
    scores: list[TokenScore] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Moments of a request, in seconds of `time.monotonic`; None where it was not reached.

    Args:
        arrived: Submitted.
        started: Joined the batch, its source encoded.
        first: The first token was there.
    """

    arrived: float
    started: float | None = None
    first: float | None = None
    finished: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a request became.

    Args:
        sequences: What `generate` returns: ids of each result, padded after their ends.
        scores: Of beams: log-probability over length to the power of `length_penalty`.
        prompt: Tokens of the decoder's prompt, with which every row begins.
        limit: Length at which a row is cut.
        eos: Ids that end a row.
        details: For each result, a score per token behind the prompt, the end id included.
    """

    sequences: Int[Tensor, "n t"]
    scores: Float[Tensor, " n"] | None = None
    prompt: int
    limit: int
    eos: tuple[int, ...]
    details: list[list[TokenScore]] | None = None
    times: Times

    def tokens(self, row: int) -> list[int]:
        """Return the ids of a result behind the prompt, its end id included, without padding."""
        ids = self.sequences[row, self.prompt :].tolist()
        ends = [place for place, token in enumerate(ids) if token in self.eos]
        return ids[: ends[0] + 1] if ends else ids

    def ended(self, row: int) -> bool:
        """True if a result ends with an end id that it chose itself; False if it was cut at its maximum length."""
        ids = self.tokens(row)
        return bool(ids) and ids[-1] in self.eos and self.prompt + len(ids) < self.limit


class Listener(Protocol):
    """Who follows a request; called in the thread that runs the model."""

    def put(self, progress: Progress) -> None:
        """Take what became certain."""
        ...

    def end(self) -> None:
        """Take the news that the request is done, has failed or was cancelled."""
        ...


class Job:
    """What a handle and the engine share of a request.

    Args:
        inputs: Arguments of `generate`.
        run: The checked call; None until somebody has checked it.
        priority, client: Its class, and whose it is, for its place in the queue.

    Attributes:
        work: Expected steps of rows.
        active: Its place in the batch, once its source is encoded.
        cancelled: What the result raises, once it was given up.
    """

    def __init__(
        self,
        inputs: dict[str, Any],
        seed: int | None,
        *,
        details: Details | None = None,
        priority: Priority = "interactive",
        client: str = "",
    ) -> None:
        self.inputs, self.seed, self.details = inputs, seed, details
        self.priority: Priority = priority
        self.client = client
        self.run: Run | None = None
        self.active: Active | None = None
        self.done = threading.Event()
        self.cancelled: BaseException | None = None
        self.result: Int[Tensor, "n t"] | GenerateOutput | None = None
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self.work = 0.0
        self.arrived = time.monotonic()
        self.started: float | None = None
        self.first: float | None = None
        self.finished: float | None = None
        self.listeners: list[Listener] = []
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []

    @property
    def times(self) -> Times:
        """When it came, started, had its first token, and ended: now, unless it is done."""
        finished = time.monotonic() if self.finished is None else self.finished
        return Times(arrived=self.arrived, started=self.started, first=self.first, finished=finished)

    def follow(self, listener: Listener) -> None:
        """Tell a listener what becomes certain from here on."""
        with self._lock:
            if not self.done.is_set():
                self.listeners.append(listener)
                return
        listener.end()

    def tell(self, progress: Progress) -> None:
        """Tell every listener."""
        for listener in self.listeners:
            listener.put(progress)

    def when_done(self, callback: Callable[[], object]) -> None:
        """Call a function once the job is done."""
        with self._lock:
            if not self.done.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def finish(
        self,
        result: Tensor | GenerateOutput | None,
        error: BaseException | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        """Set the result, or an error."""
        self.finished = time.monotonic()
        self.result, self.error, self.outcome = result, error, outcome
        self.inputs, self.run, self.active = {}, None, None
        with self._lock:
            self.done.set()
            callbacks, self._callbacks = self._callbacks, []
            listeners, self.listeners = self.listeners, []
        for listener in listeners:
            listener.end()
        for callback in callbacks:
            callback()


@dataclass(slots=True, eq=False)
class Active:
    """A request whose source is encoded: in the batch, or about to join it.

    Args:
        rows: The hypotheses of a request whose tokens are drawn; None if the kernels choose them.
        dtype: Of its cache; the kernels advance requests of one dtype together.
        emitted: Number of tokens of each result that were passed on.
    """

    job: Job
    run: Run
    control: Control
    requests: Requests
    dtype: torch.dtype
    rows: Rows | None = None
    generator: torch.Generator | None = None
    emitted: list[int] = field(default_factory=lambda: [0])
    scorers: list[Scorer] = field(default_factory=list[Scorer])
    address: int = field(init=False)

    def __post_init__(self) -> None:
        self.address = self.requests.addresses[0]

    @property
    def state(self) -> int:
        """One of RUNNING, DONE, NO_TOKEN, NO_NUMBERS."""
        return int(self.requests.entries["state"][0])

    @property
    def is_running(self) -> bool:
        """True if it has steps to go."""
        return self.state == RUNNING

    @property
    def hypotheses(self) -> int:
        """Rows that a step computes."""
        return int(self.requests.entries["hypotheses"][0])

    @property
    def length(self) -> int:
        """Tokens of every hypothesis, the prompt included."""
        return int(self.requests.entries["total"][0])
