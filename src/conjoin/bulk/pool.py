"""Several workers that share one queue of sources, of which any may die: no source is lost, none is done twice.

A worker is whatever generates for a list of sources: a process, an actor of Ray, a server. Each has a thread here.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from conjoin.errors import ConjoinError, warn
from conjoin.evaluation.texts import WINDOW, Failed, Outcome, describe, windows

DEATHS = 2
"""Workers that may die of the same sources, before these are tried one by one, and then given up."""
STARTS = 3
"""Workers in a row that may die before they are ready, before the run gives up."""


Texts = Sequence[tuple[int, str]]
"""Sources by index."""
Divide = Callable[[Texts, int], Iterator[Texts]]


class WorkerDied(ConjoinError):
    """A worker ended before it answered."""


class Worker(Protocol):
    """Generates for lists of sources."""

    def generate(self, texts: Texts) -> tuple[list[Outcome], list[str]]:
        """Return the outcomes of sources, and warnings.

        Raises:
            WorkerDied: it can do no more.
        """
        ...

    def close(self) -> None:
        """End it, in whatever it does, from any thread."""
        ...


@dataclass(slots=True, eq=False)
class _Chunk:
    texts: Texts
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class _Answer:
    chunk: _Chunk
    outcomes: list[Outcome]
    warnings: list[str]
    error: BaseException | None = None


def by_length(window: Texts, size: int) -> Iterator[Texts]:
    """Divide sources into batches of similar length, longest first."""
    order = sorted(window, key=lambda pair: -len(pair[1]))
    return (order[start : start + size] for start in range(0, len(order), size))


class Pool:
    """Workers that share a run.

    Sources are read in windows, sorted by length, and handed out in batches. A batch whose worker dies goes to another
    worker, and a new one takes the place of the dead. A source that ends two workers when it is alone becomes a
    `Failed`.

    Args:
        start: Starts a worker, given its number from 0.
        size: Number of workers.
        batch_size: Sources that a worker gets at once, at most.
        divide: Divides a window of sources into batches of at most some size; sorted by length by default.
    """

    def __init__(
        self, start: Callable[[int], Worker], size: int, batch_size: int, divide: Divide | None = None
    ) -> None:
        self._start, self._size, self._batch_size, self._divide = start, size, batch_size, divide or by_length
        self._todo: queue.SimpleQueue[_Chunk | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._workers: dict[int, Worker] = {}
        self._lock = threading.Lock()
        self._running = 0
        self._failure: BaseException | None = None
        self._lost_starts = 0
        self._broken: ConjoinError | None = None
        self._is_over = False

    def run(self, texts: Iterable[tuple[int, str]]) -> Iterator[list[Outcome]]:
        """Generate for sources, read as needed, by index; results come batch by batch, not in order.

        If reading fails, what was read is generated first; if a worker does, what the others have begun.

        Raises:
            ConjoinError: a worker's error, or no worker starts.
        """
        threads = [threading.Thread(target=self._serve, args=(number,), daemon=True) for number in range(self._size)]
        for thread in threads:
            thread.start()
        chunks = self._chunks(texts)
        try:
            self._feed(chunks)
            while self._running:
                answer = self._answers.get()
                self._running -= 1
                if outcomes := self._outcomes(answer):
                    yield outcomes
                self._feed(chunks)
            if self._failure is not None:
                raise self._failure
        finally:
            self._end(threads)

    def _feed(self, chunks: Iterator[_Chunk]) -> None:
        """Keep a chunk waiting for each worker besides the one that it has."""
        while self._failure is None and self._running < 2 * self._size:
            try:
                chunk = next(chunks, None)
            except Exception as error:
                self._failure = error
                return
            if chunk is None:
                return
            self._hand_out(chunk)

    def _take_back(self) -> None:
        """Take back the chunks that no worker has begun."""
        with suppress(queue.Empty):
            while True:
                self._todo.get_nowait()
                self._running -= 1

    def _hand_out(self, chunk: _Chunk) -> None:
        self._running += 1
        self._todo.put(chunk)

    def _outcomes(self, answer: _Answer) -> list[Outcome]:
        """Return the outcomes of an answer; hand its chunk out again if the worker died."""
        for text in answer.warnings:
            warn(text)
        if answer.error is None:
            return answer.outcomes
        if not isinstance(answer.error, WorkerDied):
            self._failure = self._failure or answer.error
            self._take_back()
            return []
        again = self._after_death(answer.chunk)
        for chunk in again:
            self._hand_out(chunk)
        return [] if again else [Failed(answer.chunk.texts[0][0], describe(answer.error))]

    def _chunks(self, texts: Iterable[tuple[int, str]]) -> Iterator[_Chunk]:
        for window in windows(texts, self._batch_size * WINDOW):
            size = min(self._batch_size, -(-len(window) // self._size))
            yield from map(_Chunk, self._divide(window, size))

    @staticmethod
    def _after_death(chunk: _Chunk) -> list[_Chunk]:
        """Return what to hand out again after a worker died of a chunk."""
        chunk.deaths += 1
        if chunk.deaths < DEATHS:
            return [chunk]
        return [] if len(chunk.texts) == 1 else [_Chunk([pair]) for pair in chunk.texts]

    def _serve(self, number: int) -> None:
        """Hand chunks to one worker, and to those that follow it."""
        while (chunk := self._todo.get()) is not None and not self._is_over:
            try:
                worker = self._worker(number)
                self._answers.put(_Answer(chunk, *worker.generate(chunk.texts)))
            except WorkerDied as death:
                self._lose(number)
                self._answers.put(_Answer(chunk, [], [], death))
            except BaseException as error:
                self._answers.put(_Answer(chunk, [], [], error))
        self._lose(number)

    def _worker(self, number: int) -> Worker:
        """Return a worker that lives, started now if there is none.

        Raises:
            ConjoinError: none starts.
        """
        while number not in self._workers:
            if self._broken is not None:
                raise self._broken
            try:
                worker = self._start(number)
            except WorkerDied as death:
                self._count_lost_start(death)
                continue
            with self._lock:
                self._lost_starts = 0
                self._workers[number] = worker
                if self._is_over:
                    worker.close()
        return self._workers[number]

    def _count_lost_start(self, death: WorkerDied) -> None:
        with self._lock:
            self._lost_starts += 1
            if self._lost_starts < STARTS and not self._is_over:
                return
            self._broken = ConjoinError(f"{STARTS} workers in a row ended before they were ready. {death}")
        raise self._broken from death

    def _lose(self, number: int) -> None:
        with self._lock:
            worker = self._workers.pop(number, None)
        if worker is not None:
            worker.close()

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        """End all workers, whatever they do."""
        with self._lock:
            self._is_over = True
            workers = list(self._workers.values())
        for worker in workers:
            worker.close()
        for _ in threads:
            self._todo.put(None)
        for thread in threads:
            thread.join(timeout=10)
