"""Generation by running servers (`conjoin serve`): the same journal, and no model here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from conjoin.bulk.fleet import Fleet
from conjoin.bulk.http import Client, NoAnswer, Reply, fields, items
from conjoin.bulk.pool import Pool
from conjoin.errors import ConjoinError, GenerationError
from conjoin.evaluation.texts import Failed, Generated, Outcome, TextSettings, source_seed

REQUESTS = 2
"""Requests at a time for each server: one runs while the next waits for its rows."""
TRIES = 3
"""How often sources are tried at which a server fails."""
_BUSY = (408, 425, 429, 503)
_FAULTS = (500, 502, 504)
_OF_SOURCES = (400, 413, 422)
"""Statuses that may be the fault of one source among several."""


class Servers:
    """Servers that share a run.

    Attributes:
        limit: None: only the servers know how long sources may be.

    Args:
        urls: Their addresses.
        model: The name by which they serve the model.
        settings: Settings of generating; a batch is one request.
        languages: Language codes of sources and of targets.
        key: Sent as a Bearer token.
        requests: Requests at a time for each server.
    """

    limit: int | None = None

    def __init__(
        self,
        urls: Sequence[str],
        model: str,
        settings: TextSettings,
        *,
        languages: tuple[str | None, str | None] = (None, None),
        key: str | None = None,
        requests: int = REQUESTS,
    ) -> None:
        self._urls, self._model, self._key = urls, model, key
        self._chosen, self._settings = settings.chosen_outcomes, settings.of_candidates()
        self._size = requests * len(urls)
        self._fleet = Fleet(urls)
        source, target = languages
        self._parameters: dict[str, Any] = {
            **self._settings.generation,
            "priority": "bulk",
            **({} if settings.max_source_length is None else {"truncate": settings.max_source_length}),
            **({} if source is None else {"src_lang": source}),
            **({} if target is None else {"tgt_lang": target}),
        }

    def fingerprint(self) -> str | None:
        """Return the fingerprint of the model that they serve; None if none tells it.

        Raises:
            ConjoinError: they serve different models.
        """
        found: dict[str, str] = {}
        for url in self._urls:
            try:
                reply = Client(self._key, timeout_s=20).send(url, "/info")
            except NoAnswer:
                continue
            if (told := _fingerprint(reply.value, self._model)) is not None:
                found[url] = told
        if len({*found.values()}) > 1:
            lines = "\n".join(f"  {url}: {told}" for url, told in found.items())
            raise ConjoinError(f"The servers have different models under the name {self._model!r}:\n{lines}")
        return next(iter(found.values()), None)

    def run(self, texts: Iterable[tuple[int, str]]) -> Iterator[list[Outcome]]:
        """Generate for sources; see `Pool.run`.

        Raises:
            ConjoinError: no server answers, or one refuses every request.
        """
        pool = Pool(self._start, self._size, self._settings.batch_size, divide=consecutive)
        for outcomes in pool.run(texts):
            yield self._chosen(outcomes)

    def _start(self, number: int) -> "_Requests":
        return _Requests(self._fleet, Client(self._key), self._model, self._parameters, self._settings)


class _Requests:
    """Sends requests, one after another."""

    def __init__(
        self, fleet: Fleet, client: Client, model: str, parameters: Mapping[str, Any], settings: TextSettings
    ) -> None:
        self._fleet, self._client, self._model = fleet, client, model
        self._parameters, self._settings = parameters, settings

    def generate(self, texts: Sequence[tuple[int, str]]) -> tuple[list[Outcome], list[str]]:
        """Return the outcomes of sources with consecutive indices, and warnings.

        Raises:
            ConjoinError: no server answers, or one refuses every request.
        """
        copies = int(self._settings.generation.get("num_return_sequences") or 1)
        empty: list[Outcome] = [Generated(index, [""] * copies, False) for index, text in texts if not text.strip()]
        outcomes, warnings = empty, list[str]()
        for chunk in consecutive([(index, text) for index, text in texts if text.strip()], len(texts)):
            more, told = self._answers(chunk)
            outcomes += more
            warnings += told
        return outcomes, list(dict.fromkeys(warnings))

    def close(self) -> None:
        """End the request that is under way, and all waiting."""
        self._fleet.close()
        self._client.cut_off()

    def _answers(self, texts: Sequence[tuple[int, str]]) -> tuple[list[Outcome], list[str]]:
        reply = self._reply(texts)
        if reply.status == 200:
            return self._outcomes(texts, reply)
        require_own_fault(reply)
        if len(texts) == 1:
            return [Failed(texts[0][0], reply.error)], []
        half = len(texts) // 2
        parts = [self._answers(part) for part in (texts[:half], texts[half:])]
        return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]

    def _reply(self, texts: Sequence[tuple[int, str]]) -> Reply:
        # a server adds the place in the list to the seed, as `source_seed` adds the index
        seed = source_seed(self._settings.seed, texts[0][0])
        body = {
            "model": self._model,
            "inputs": [text for _, text in texts],
            "parameters": {**self._parameters, "seed": seed},
        }
        return ask(self._fleet, self._client, "/generate", body)

    def _outcomes(self, texts: Sequence[tuple[int, str]], reply: Reply) -> tuple[list[Outcome], list[str]]:
        answers = [*map(fields, items(reply.value))]
        if len(answers) != len(texts) or not all(isinstance(each.get("generated_text"), str) for each in answers):
            raise GenerationError(
                f"A server answers {len(texts)} sources with something else than as many results.",
                hint="--server takes servers that conjoin serve started.",
            )
        outcomes = [self._outcome(index, answer) for (index, _), answer in zip(texts, answers, strict=True)]
        return outcomes, [str(text) for answer in answers for text in items(answer.get("warnings"))]

    def _outcome(self, index: int, answer: Mapping[str, Any]) -> Outcome:
        results = [*map(fields, items(answer.get("sequences")))] or [answer]
        scores = None
        if self._settings.scores:
            scores = [float(result["score"]) for result in results if result.get("score") is not None]
            if len(scores) < len(results):
                raise GenerationError("Only beam search has scores of results.", hint="ask for 2 beams or more.")
        texts = [str(result.get("generated_text", "")) for result in results]
        return Generated(index, texts, answer.get("source_was_cut") is True, scores)


def require_own_fault(reply: Reply) -> None:
    """Check that an error may be the fault of what was sent, or of one server.

    Raises:
        GenerationError: it is one that every request would meet, such as an unknown model.
    """
    if reply.status not in (*_OF_SOURCES, *_FAULTS):
        raise GenerationError(f"A server refuses: {reply.error}")


def ask(fleet: Fleet, client: Client, path: str, body: Mapping[str, Any]) -> Reply:
    """Return the answer of whichever server gives one; the last of several that say they failed.

    Raises:
        ConjoinError: no server answers.
    """
    faults = 0
    while True:
        url = fleet.take()
        try:
            reply = client.send(url, path, body)
        except NoAnswer as error:
            fleet.failed(url, str(error))
            faults += error.was_reached
            if faults < TRIES:
                continue
            return Reply(_FAULTS[0], {"error": str(error)})
        if reply.status in _BUSY:
            fleet.failed(url, reply.error, reply.retry_after_s)
            continue
        fleet.answered(url)
        faults += reply.status in _FAULTS
        if reply.status not in _FAULTS or faults >= TRIES:
            return reply


def consecutive(window: Sequence[tuple[int, str]], size: int) -> Iterator[Sequence[tuple[int, str]]]:
    """Divide sources into lists of consecutive indices, of at most `size`: their seeds are consecutive too."""
    chunk: list[tuple[int, str]] = []
    for pair in window:
        if chunk and (len(chunk) == size or pair[0] != chunk[-1][0] + 1):
            yield chunk
            chunk = []
        chunk.append(pair)
    if chunk:
        yield chunk


def _fingerprint(info: Any, model: str) -> str | None:
    for entry in map(fields, items(fields(info).get("models"))):
        told = entry.get("fingerprint")
        if entry.get("id") == model and isinstance(told, str):
            return told
    return None
