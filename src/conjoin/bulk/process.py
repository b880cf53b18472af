"""A worker process on this machine, and what is said through its pipes: one object of JSON a line, each way.

Pipes and no queues of `multiprocessing`, because a process that is killed may hold a queue's lock for ever.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

import conjoin
from conjoin.bulk.messages import outcomes_of, raise_error
from conjoin.bulk.pool import Pool, WorkerDied
from conjoin.bulk.spec import WorkerSpec
from conjoin.evaluation.texts import Outcome

_COMMAND = "from conjoin.bulk.worker import main; main()"
_SHOWN = 600
"""Characters of a dead worker's stderr that an error shows."""


class WorkerProcess:
    """Generates in a process of its own.

    Attributes:
        limit: Tokens of a source at most; None if there is no limit.

    Raises:
        ConjoinError: the model cannot be loaded.
        WorkerDied: the process ended before it had loaded.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the process
        root = str(Path(conjoin.__file__).parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            self._send(spec.to_dict())
            self.limit: int | None = self._receive()["limit"]
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def generate(self, texts: Sequence[tuple[int, str]]) -> tuple[list[Outcome], list[str]]:
        """Return the outcomes of sources, and warnings.

        Raises:
            WorkerDied: the process ended.
            ConjoinError, RuntimeError: its error.
        """
        self._send({"texts": texts})
        return outcomes_of(self._receive())

    def close(self) -> None:
        """End the process, in whatever it does."""
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._stderr):
            with suppress(OSError):  # of what was still to be sent
                cast("IO[bytes]", file).close()

    def _send(self, message: Mapping[str, Any]) -> None:
        stdin = cast("IO[bytes]", self._process.stdin)
        try:
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()
        except (OSError, ValueError):
            raise self._death() from None

    def _receive(self) -> dict[str, Any]:
        try:
            line = cast("IO[bytes]", self._process.stdout).readline()
        except ValueError:  # it was closed
            line = b""
        if not line.endswith(b"\n"):
            raise self._death()
        message: dict[str, Any] = json.loads(line)
        raise_error(message)
        return message

    def _death(self) -> WorkerDied:
        """Return how the process ended, with the last that it wrote to stderr."""
        code = self._process.wait()
        how = f"was ended by signal {-code} ({_signal_name(-code)})" if code < 0 else f"ended with code {code}"
        told = ""
        with suppress(ValueError):  # it was closed
            self._stderr.seek(0)
            told = self._stderr.read().decode("utf-8", "replace").strip()[-_SHOWN:]
        return WorkerDied(f"A worker process {how}." + (f"\nIt wrote: {told}" if told else ""))


class Processes:
    """Processes of this machine that share a run, each with its share of the cores.

    Attributes:
        limit: Tokens of a source at most, once a process has loaded the model; None if there is no limit.
    """

    def __init__(self, spec: WorkerSpec, count: int) -> None:
        self._spec, self._count = spec, count
        self.limit: int | None = None

    def run(self, texts: Iterable[tuple[int, str]]) -> Iterator[list[Outcome]]:
        """Generate for sources; see `Pool.run`."""
        yield from Pool(self._start, self._count, self._spec.settings.batch_size).run(texts)

    def _start(self, number: int) -> WorkerProcess:
        process = WorkerProcess(replace(self._spec, number=number, share=self._count))
        self.limit = process.limit
        return process


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
