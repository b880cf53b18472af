"""Server-sent events, which stop the work as soon as their reader leaves."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from starlette.responses import Response

PING_SECONDS = 15.0
"""Pause after which a comment is sent, so that proxies keep the connection."""
T = TypeVar("T")


class EventStream(Response):
    """A response of server-sent events.

    Args:
        events: Yields lines of `event`, already in their form.
        left: Called when the client leaves before the end.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], left: Callable[[], None]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._left = events, left

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the events until they end or the client leaves."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        gone = asyncio.create_task(until_gone(receive))
        queue: asyncio.Queue[str | None] = asyncio.Queue(64)
        feeder = asyncio.create_task(self._feed(queue))
        try:
            await self._send(queue, gone, send)
        except OSError:
            self._left()
        finally:
            gone.cancel()
            feeder.cancel()
            for task in (gone, feeder):
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def _send(self, queue: "asyncio.Queue[str | None]", gone: "asyncio.Task[None]", send: Any) -> None:
        while True:
            item = asyncio.create_task(queue.get())
            done, _ = await asyncio.wait({item, gone}, timeout=PING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if gone in done:
                item.cancel()
                self._left()
                return
            if item not in done:
                item.cancel()
                await send({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})
                continue
            event = item.result()
            if event is None:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})

    async def _feed(self, queue: "asyncio.Queue[str | None]") -> None:
        async for event in self._events:
            await queue.put(event)
        await queue.put(None)


async def until_gone(receive: Any) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(work: Awaitable[T], receive: Any) -> T | None:
    """Return what some work returns; None, and the work is cancelled, if the client leaves before."""
    task, gone = asyncio.ensure_future(work), asyncio.create_task(until_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            return None
        return task.result()
    finally:
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone


def event(data: Any, *, name: str | None = None) -> str:
    """Return an event that holds JSON."""
    lines = [] if name is None else [f"event: {name}"]
    return "\n".join([*lines, f"data: {json.dumps(data, ensure_ascii=False)}", "", ""])


DONE = "data: [DONE]\n\n"
"""The end of OpenAI's streams."""
