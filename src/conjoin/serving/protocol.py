"""HTTP/1.1 on a connection: uvicorn's protocol over httptools, with bounds on what stands before a body.

httptools' parser is C code, several times as fast as h11's Python, but bounds neither the size of headers nor the time
that they take.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_HEAD_BYTES = 32 * 1024
"""Of a request's line and headers, at most."""
_PIECE_BYTES = 8 * 1024
"""That are parsed at once: a request's line and headers that do not end are refused by this many bytes late."""
_HEAD_SECONDS = 15
"""That a client may take for them, from its connection on, or from their first byte."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head = 0
        self._is_in_head = True
        self._has_begun = False  # a request, in the bytes that are read now
        self._is_refused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what the client has sent, in pieces, since of the piece that a request begins in no byte is counted."""
        for begin in range(0, len(data), _PIECE_BYTES):
            if self._is_refused or self.transport.is_closing():
                return
            self._read(data[begin : begin + _PIECE_BYTES])

    def _read(self, piece: bytes) -> None:
        self._has_begun = False
        super().data_received(piece)
        if self._is_in_head and not self._has_begun:  # else a part of these bytes belongs to what was before
            self._head += len(piece)
            if self._head > _HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._head, self._is_in_head, self._has_begun = 0, True, True
        self._wait_for_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start to answer a request."""
        self._is_in_head = False
        self._stop_waiting()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > _HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if not self._is_refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Read a part of a body."""
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request's body."""
        if not self._is_refused:
            super().on_message_complete()

    def _wait_for_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(_HEAD_SECONDS, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer that a request is not read, and close the connection; requests before it are answered first."""
        self._is_refused = True
        self._stop_waiting()
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle  # None before the first request
        if cycle is not None and not cycle.response_complete:
            self.shutdown()
            return
        text = status.phrase.encode()
        head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(text)
        self.transport.write(STATUS_LINE[status.value] + head + text)
        self.transport.close()
