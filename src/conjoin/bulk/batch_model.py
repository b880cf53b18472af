"""Answers the requests of a batch file in this process, by the application that `conjoin serve` has behind a socket."""

import asyncio
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conjoin.bulk.batch_files import request_of, response_text
from conjoin.bulk.pool import Pool
from conjoin.bulk.spec import WorkerSpec
from conjoin.errors import ConjoinError, MissingBackend
from conjoin.evaluation.texts import Failed, Generated, Outcome
from conjoin.limits import LINE_BYTES, RESULT_TOKENS, ROWS_PER_SOURCE

_TOGETHER = 64
"""Requests that are answered together: as many rows as the engine runs."""
_FOREVER_S = 1e9


class BatchModel:
    """Answers requests with a model in this process.

    Attributes:
        limit: None: each endpoint says what it cut.

    Raises:
        ConjoinError: the model cannot be loaded.
        MissingBackend: FastAPI is not installed.
    """

    limit: int | None = None

    def __init__(self, spec: WorkerSpec) -> None:
        try:
            from conjoin.serving.app import Application
            from conjoin.serving.settings import ServeSettings
        except ImportError:
            raise MissingBackend("Batch files need the server: pip install 'conjoin[serve]'") from None
        spec.set_threads()
        self._seed = spec.settings.seed
        model, self._name = spec.model, Path(spec.model.name.rstrip("/")).name or "model"
        self._application: Any = Application(
            ServeSettings(
                models=(f"{model.name}={self._name}",),
                dtype=model.dtype,
                device=model.device,
                max_rows=_TOGETHER,
                max_queue=_TOGETHER * 1024,
                max_queue_characters=_TOGETHER * LINE_BYTES,
                max_inputs=_TOGETHER * 1024,
                max_beams=ROWS_PER_SOURCE,
                max_results=ROWS_PER_SOURCE,
                max_new_tokens=RESULT_TOKENS,
                max_body=LINE_BYTES,
                timeout=_FOREVER_S,
                page=False,
            )
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="conjoin-batch", daemon=True).start()
        self._call(self._application.models.load_all())
        entry = self._application.models.entries[self._name]
        if entry.served is None:
            raise ConjoinError(f"{model.name} cannot be loaded: {entry.error}")

    def run(self, texts: Iterable[tuple[int, str]]) -> Iterator[Sequence[Outcome]]:
        """Answer requests, read as needed; outcomes come in any order."""
        threads = 16
        yield from Pool(lambda number: _Shared(self), threads, _TOGETHER // threads).run(texts)

    def generate(self, texts: Sequence[tuple[int, str]]) -> tuple[list[Outcome], list[str]]:
        """Return the outcomes of a few requests, answered together, and no warnings: responses have their own."""
        return self._call(self._all(texts)), []

    async def _all(self, texts: Sequence[tuple[int, str]]) -> list[Outcome]:
        return list(await asyncio.gather(*(self._one(index, text) for index, text in texts)))

    async def _one(self, index: int, text: str) -> Outcome:
        request = request_of(text, self._name, self._seed, index)
        reply = await _Exchange.of(self._application, request["url"], request["body"])
        told = response_text(reply.status, reply.id, reply.value)
        return Generated(index, [told], False) if reply.status == 200 else Failed(index, told)

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class _Shared:
    """A thread's view of the model, which is closed by nobody."""

    def __init__(self, model: BatchModel) -> None:
        self.generate = model.generate

    def close(self) -> None:
        """Do nothing: others use the model."""


@dataclass(frozen=True, slots=True)
class _Exchange:
    """A request to an ASGI application, and what it answered."""

    status: int
    id: str
    value: Any

    @classmethod
    async def of(cls, application: Any, path: str, body: Mapping[str, Any]) -> "_Exchange":
        raw = json.dumps(body).encode()
        sent: list[Mapping[str, Any]] = []
        given = [{"type": "http.request", "body": raw, "more_body": False}]

        async def receive() -> Any:
            if given:
                return given.pop()
            return await asyncio.Event().wait()  # the client never leaves

        async def send(message: Mapping[str, Any]) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 0),
        }
        await application(scope, receive, send)
        start = sent[0]
        names = {bytes(name).lower(): bytes(value).decode("latin-1") for name, value in start["headers"]}
        value = json.loads(b"".join(message.get("body", b"") for message in sent[1:]))
        return cls(start["status"], names.get(b"x-request-id", ""), value)
