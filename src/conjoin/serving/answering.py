"""From requests to a response: started, awaited or streamed, given up if the client leaves, counted."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from conjoin.serving.dialects.call import Call
from conjoin.serving.edge import route_path
from conjoin.serving.events import DONE, EventStream, event, unless_gone
from conjoin.serving.metrics import Metrics
from conjoin.serving.models import Models
from conjoin.serving.reading import as_refusal
from conjoin.serving.refusal import Refusal
from conjoin.serving.refusals import body_of
from conjoin.serving.request import Answer, Piece
from conjoin.serving.running import Running
from conjoin.serving.served import Served

_AHEAD = 64
"""Pieces that are made before the client has taken those before them."""
_LEFT = 499
"""Status in the log of a client that left; nobody reads it."""


class Stream(Protocol):
    """The events of a streamed answer in one dialect."""

    def begin(self) -> list[dict[str, Any]]:
        """Return the events before the first piece."""
        ...

    def piece(self, source: int, piece: Piece) -> list[dict[str, Any]]:
        """Return the events of a piece."""
        ...

    def answer(self, source: int, answer: Answer) -> list[dict[str, Any]]:
        """Return the events at the end of a source."""
        ...

    def end(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """Return the events at the end."""
        ...


class Answering:
    """Answers the calls of every route."""

    def __init__(self, models: Models, metrics: Metrics) -> None:
        self.models, self.metrics = models, metrics

    async def whole(self, http: HttpRequest, call: Call, write: Callable[[list[Answer], Served], Any]) -> Response:
        """Return the response to a call that is not streamed.

        Raises:
            Refusal: the call cannot be answered.
        """
        served, running = await self.models.get(call.model), list[Running]()

        async def answer() -> list[Answer]:
            running.extend(await served.start(call.requests, _client(http)))
            return await _all(running)

        answers = await unless_gone(answer(), http.receive)
        if answers is None:
            self._left(served, running, call)
            return Response(status_code=_LEFT)
        self._count(http, served, answers)
        return JSONResponse(write(answers, served))

    async def stream(
        self,
        http: HttpRequest,
        call: Call,
        make: Callable[[Served], Stream],
        *,
        is_named: bool = False,
        is_marked: bool = True,
    ) -> Response:
        """Return the response to a call that is streamed.

        Args:
            is_named: Give every event the name of its `type`.
            is_marked: End with OpenAI's [DONE].

        Raises:
            Refusal: the call cannot be honoured; what goes wrong later is told in the stream.
        """
        served = await self.models.get(call.model)
        running = await unless_gone(served.start(call.requests, _client(http)), http.receive)
        if running is None:
            self._left(served, [], call)
            return Response(status_code=_LEFT)
        stream = make(served)

        def spell(data: dict[str, Any]) -> str:
            return event(data, name=data["type"] if is_named else None)

        async def events() -> AsyncIterator[str]:
            for data in stream.begin():
                yield spell(data)
            answers: list[Answer | None] = [None] * len(running)
            try:
                async for source, what in _merged(running):
                    if isinstance(what, Answer):
                        answers[source] = what
                    parts = stream.answer(source, what) if isinstance(what, Answer) else stream.piece(source, what)
                    for data in parts:
                        yield spell(data)
            except Exception as error:
                for each in running:
                    each.cancel()
                yield _failed(http, stream, as_refusal(error), is_named)
                return
            done = [answer for answer in answers if answer is not None]
            self._count(http, served, done)
            for data in stream.end(done):
                yield spell(data)
            if is_marked:
                yield DONE

        return EventStream(events(), lambda: self._left(served, running, call))

    def _left(self, served: Served, running: Sequence[Running], call: Call) -> None:
        """Give up what runs for a client that has left; where nothing runs yet, all of its requests are given up."""
        open_ones = [each for each in running if not each.is_done]
        for each in open_ones:
            each.cancel()
        if given_up := len(open_ones) if running else len(call.requests):
            self.metrics.count("cancelled", served.name, "disconnect", by=given_up)

    def _count(self, http: HttpRequest, served: Served, answers: Sequence[Answer]) -> None:
        for answer in answers:
            self.metrics.answered(served.name, answer)
        http.scope["state"]["log"] = {
            "model": served.name,
            "source_tokens": sum(answer.source_tokens for answer in answers),
            "tokens": sum(answer.num_tokens for answer in answers),
            "queue_s": max((answer.queue_s for answer in answers), default=0.0),
        }


def _client(http: HttpRequest) -> str:
    return http.scope["state"].get("client", "")


async def _all(running: Sequence[Running]) -> list[Answer]:
    """Return the answers, in order; if one fails, the others are given up."""
    try:
        return [await each.answer() for each in running]
    except BaseException:
        for each in running:
            if not each.is_done:
                each.cancel()
        raise


async def _merged(running: Sequence[Running]) -> AsyncIterator[tuple[int, Piece | Answer]]:
    """Yield pieces and answers of several requests as they come, each with the number of its request."""
    queue: asyncio.Queue[Any] = asyncio.Queue(_AHEAD)

    async def follow(number: int, one: Running) -> None:
        try:
            async for piece in one.pieces():
                await queue.put((number, piece))
            await queue.put((number, await one.answer()))
        except Exception as error:
            await queue.put((number, as_refusal(error)))

    tasks = [asyncio.create_task(follow(number, one)) for number, one in enumerate(running)]
    left = len(tasks)
    try:
        while left:
            number, what = await queue.get()
            if isinstance(what, Refusal):
                raise what
            left -= isinstance(what, Answer)
            yield number, what
    finally:
        for task in tasks:
            task.cancel()


def _failed(http: HttpRequest, stream: Any, refusal: Refusal, is_named: bool) -> str:
    if hasattr(stream, "failed"):
        return event(stream.failed(refusal), name="response.failed")
    return f"data: {json.dumps(body_of(route_path(http.scope), refusal), ensure_ascii=False)}\n\n"
