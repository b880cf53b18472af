"""Answers the requests of a batch file by running servers: each goes to the endpoint that it names."""

from collections.abc import Iterable, Iterator, Sequence

from conjoin.bulk.batch_files import request_of, response_text
from conjoin.bulk.fleet import Fleet
from conjoin.bulk.http import Client
from conjoin.bulk.pool import Pool
from conjoin.bulk.server import ask, consecutive, require_own_fault
from conjoin.evaluation.texts import Failed, Generated, Outcome

TOGETHER = 32
"""Requests at a time for each server."""


class BatchServers:
    """Servers that share a batch file.

    Attributes:
        limit: None: each response says what was cut.

    Args:
        urls: Their addresses.
        model: The name by which they serve the model; the lines' own are replaced.
        seed: Of the run: a request without a seed gets one that is made of it and of its line.
        key: Sent as a Bearer token.
    """

    limit: int | None = None

    def __init__(self, urls: Sequence[str], model: str, seed: int, key: str | None = None) -> None:
        self._fleet, self._size = Fleet(urls), TOGETHER * len(urls)
        self._model, self._seed, self._key = model, seed, key

    def run(self, texts: Iterable[tuple[int, str]]) -> Iterator[list[Outcome]]:
        """Answer requests; see `Pool.run`.

        Raises:
            ConjoinError: no server answers, or one refuses every request.
        """
        yield from Pool(self._start, self._size, 1, divide=consecutive).run(texts)

    def _start(self, number: int) -> "_Lines":
        return _Lines(self._fleet, Client(self._key), self._model, self._seed)


class _Lines:
    """Sends requests, one after another."""

    def __init__(self, fleet: Fleet, client: Client, model: str, seed: int) -> None:
        self._fleet, self._client, self._model, self._seed = fleet, client, model, seed

    def generate(self, texts: Sequence[tuple[int, str]]) -> tuple[list[Outcome], list[str]]:
        """Return the outcomes of requests, and no warnings: responses have their own."""
        return [self._outcome(index, text) for index, text in texts], []

    def close(self) -> None:
        """End the request that is under way, and all waiting."""
        self._fleet.close()
        self._client.cut_off()

    def _outcome(self, index: int, text: str) -> Outcome:
        request = request_of(text, self._model, self._seed, index)
        reply = ask(self._fleet, self._client, request["url"], request["body"])
        if reply.status != 200:
            require_own_fault(reply)
        told = response_text(reply.status, reply.id, reply.value)
        return Generated(index, [told], False) if reply.status == 200 else Failed(index, told)
