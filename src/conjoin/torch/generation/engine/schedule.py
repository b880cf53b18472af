"""The order in which waiting requests start.

Two classes share the model by weight (weighted fair queueing), the clients of a class share it equally (a counter of
work for each, Sheng et al. 2024, arXiv:2401.00588), and of one client's requests the one with the least expected work
goes first, unless another has waited long for its size.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count

from conjoin.torch.generation.engine.job import Job, Priority

PRIORITIES: dict[Priority, float] = {"interactive": 0.9, "bulk": 0.1}
"""Share of the work that each class gets while both have requests waiting."""
AGEING = 4.0
"""Seconds that a request waits at most for later ones, per second of work that they save."""


class Expectation:
    """Learns how long results are and how long a row's step takes, to foresee the work of a request.

    Attributes:
        ratio: Tokens of a result per token of its source.
        row_seconds: Seconds of a step, divided by its rows.
    """

    _RATE = 0.05

    def __init__(self) -> None:
        self.ratio = 1.0
        self.row_seconds = 1e-3

    def work(self, source_tokens: int, rows: int, most_new_tokens: int) -> float:
        """Return the expected steps of rows."""
        return rows * max(1.0, min(self.ratio * source_tokens, most_new_tokens))

    def saw_result(self, source_tokens: int, new_tokens: int) -> None:
        """Learn from a finished request."""
        self.ratio += self._RATE * (new_tokens / max(1, source_tokens) - self.ratio)

    def saw_steps(self, seconds: float, steps: int, rows: int) -> None:
        """Learn from steps that ran."""
        if steps and rows:
            self.row_seconds += self._RATE * (seconds / (steps * rows) - self.row_seconds)


@dataclass(slots=True)
class _Client:
    """One client's requests of a class: (key, number, job), the least key first."""

    served: float = 0.0
    heap: list[tuple[float, int, Job]] = field(default_factory=list[tuple[float, int, Job]])


class _Class:
    """The clients of a class.

    Attributes:
        served: Work that it was charged with.
        clock: What the client that was taken last had been charged with before; afterwards, where nobody else waited.
    """

    def __init__(self) -> None:
        self.served = self.clock = 0.0
        self.clients: dict[str, _Client] = {}

    @property
    def is_busy(self) -> bool:
        return any(client.heap for client in self.clients.values())

    def lift(self, client: _Client) -> None:
        """A client that comes, or comes back, has no claim for the time that it was away."""
        least = min((c.served for c in self.clients.values() if c.heap), default=self.clock)
        client.served = max(client.served, least)

    def charge(self, client: _Client, work: float) -> None:
        """Charge a client with the work of a request that starts."""
        before, client.served = client.served, client.served + work
        self.served += work
        self.clock = max(self.clock, before if self.is_busy else client.served)

    def next(self) -> _Client | None:
        return min((c for c in self.clients.values() if c.heap), key=lambda c: c.served, default=None)

    def drop_idle(self) -> None:
        """Forget clients without requests whose counters others, or the clock, have passed."""
        least = min((client.served for client in self.clients.values() if client.heap), default=self.clock)
        self.clients = {n: c for n, c in self.clients.items() if c.heap or c.served > least}


class Waiting:
    """Requests that wait. Not safe for threads: the engine holds its lock."""

    def __init__(self) -> None:
        self._classes: dict[Priority, _Class] = {name: _Class() for name in PRIORITIES}
        self._numbers = count()
        self._clock = 0.0  # as of _Class, of the classes: their work by their shares
        self._size = 0
        self.work = 0.0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Job]:
        heaps = (client.heap for each in self._classes.values() for client in each.clients.values())
        return (job for _, _, job in chain.from_iterable(heaps))

    def add(self, job: Job, expected_seconds: float) -> None:
        """Add a request.

        Args:
            expected_seconds: Of its work; a shorter one may overtake it within AGEING times the difference.
        """
        group = self._classes[job.priority]
        if not group.is_busy:
            others = [each.served / PRIORITIES[name] for name, each in self._classes.items() if each.is_busy]
            group.served = max(group.served, min(others, default=self._clock) * PRIORITIES[job.priority])
        client = group.clients.setdefault(job.client, _Client())
        if not client.heap:
            group.lift(client)
        heapq.heappush(client.heap, (job.arrived + AGEING * expected_seconds, next(self._numbers), job))
        self._size += 1
        self.work += job.work

    def first(self, *, only: Priority | None = None) -> Job | None:
        """Return the request that should start next.

        Args:
            only: Look at this class alone.
        """
        client = self._client(only)
        return None if client is None else client.heap[0][2]

    def _client(self, only: Priority | None) -> _Client | None:
        names: list[Priority] = [name for name in self._classes if only in (None, name)]
        names.sort(key=lambda name: self._classes[name].served / PRIORITIES[name])
        return next((client for name in names if (client := self._classes[name].next()) is not None), None)

    def take(self, job: Job) -> None:
        """Remove a request that starts, and charge its class and client with its work."""
        group = self._classes[job.priority]
        client = group.clients[job.client]
        self._remove(client, job)
        before, share = group.served, PRIORITIES[job.priority]
        group.charge(client, job.work)
        self._clock = max(self._clock, (before if self._size else group.served) / share)
        if len(group.clients) > 64:
            group.drop_idle()

    def _remove(self, client: _Client, job: Job) -> None:
        if client.heap[0][2] is job:
            heapq.heappop(client.heap)
        else:
            client.heap = [entry for entry in client.heap if entry[2] is not job]
            heapq.heapify(client.heap)
        self._size -= 1
        self.work -= job.work

    def cancelled(self) -> list[Job]:
        """Remove and return requests that were cancelled."""
        gone = [job for job in self if job.cancelled is not None]
        for job in gone:
            self._remove(self._classes[job.priority].clients[job.client], job)
        return gone

    def upcoming(self, most: int) -> list[Job]:
        """Return about the next requests, the first one first."""
        first = self.first()
        if first is None:
            return []
        rest = (job for job in self if job is not first)
        return [first, *heapq.nsmallest(most - 1, rest, key=lambda job: (job.priority != first.priority, job.arrived))]
