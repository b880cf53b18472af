"""Processes that compute the parts of the data beside this one.

Pipes and a command of its own, and no `multiprocessing`, which would import the user's script a second time.
"""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, cast

import conjoin
from conjoin.errors import DataError
from conjoin.training.data.examples import Examples

_COMMAND = "from conjoin.training.data.workers import main; main()"
_AHEAD = 2
"""Parts that are read ahead for each process."""


class Workers:
    """Processes that share the parts of the data.

    Args:
        work: What they compute of a part; it is sent to each once.
    """

    def __init__(self, work: Callable[[Any], Examples], count: int) -> None:
        self._work, self._count = work, count

    def map(self, parts: Iterable[Any]) -> Iterator[Examples]:
        """Yield what is computed of every part, in their order.

        Raises:
            DataError: a process ended.
            Exception: an error of the work.
        """
        free: SimpleQueue[_Worker] = SimpleQueue()
        started: list[_Worker] = []

        def compute(part: Any) -> Examples:
            worker = free.get()
            try:
                return worker.compute(part)
            finally:
                free.put(worker)

        try:
            for _ in range(self._count):
                started.append(_Worker(self._work))
                free.put(started[-1])
            with ThreadPoolExecutor(self._count) as threads:
                yield from _in_order(threads, compute, parts, _AHEAD * self._count, started)
        finally:
            for worker in started:
                worker.close()


def _in_order(
    threads: ThreadPoolExecutor,
    compute: Callable[[Any], Examples],
    parts: Iterable[Any],
    ahead: int,
    started: list["_Worker"],
) -> Iterator[Examples]:
    """Yield the results in the order of the parts, with some parts on their way."""
    waiting: deque[tuple[Any, Future[Examples]]] = deque()
    is_done = False
    try:
        for part in parts:
            waiting.append((part, threads.submit(compute, part)))
            if len(waiting) > ahead:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())
        is_done = True
    finally:
        for _, future in waiting:
            future.cancel()
        if not is_done:
            for worker in started:  # which ends the threads that wait for them
                worker.close()


def _result(part: Any, future: Future[Examples]) -> Examples:
    """Return the examples of a part, with its texts, which the process does not send back."""
    return replace(future.result(), texts=part)


class _Worker:
    """One process."""

    def __init__(self, work: Callable[[Any], Examples]) -> None:
        paths = [str(Path(conjoin.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **own},
        )
        self._send(work)

    def compute(self, part: Any) -> Examples:
        """Return the examples of a part.

        Raises:
            DataError: the process ended.
            Exception: the error that it met.
        """
        self._send(part)
        try:
            answer = pickle.load(cast("IO[bytes]", self._process.stdout))
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            raise self._death() from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _send(self, message: Any) -> None:
        stdin = cast("IO[bytes]", self._process.stdin)
        try:
            pickle.dump(message, stdin, pickle.HIGHEST_PROTOCOL)
            stdin.flush()
        except (OSError, ValueError):
            raise self._death() from None

    def _death(self) -> DataError:
        code = self._process.wait()
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        return DataError(
            f"A process that tokenizes ended {how}.",
            hint="if the memory was too small: --preprocessing-num-workers 1 tokenizes in one process.",
        )

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                cast("IO[bytes]", file).close()


def main() -> None:
    """Compute what is asked for through stdin, until it ends."""
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    work = pickle.load(stdin)
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            pickle.dump(_answer(work, pickle.load(stdin)), stdout, pickle.HIGHEST_PROTOCOL)
            stdout.flush()


def _answer(work: Callable[[Any], Examples], part: Any) -> Examples | Exception:
    try:
        return replace(work(part), texts=None)
    except Exception as error:
        return error if _can_be_sent(error) else DataError(f"{type(error).__name__}: {error}")


def _can_be_sent(error: Exception) -> bool:
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        return False
