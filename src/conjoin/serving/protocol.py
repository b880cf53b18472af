"""HTTP/1.1 on a connection: uvicorn's protocol over httptools, with bounds on what stands before a body.

httptools' parser is C code, several times as fast as h11's Python, but bounds neither the size of headers nor the time
that they take, and loses the body of a request that asks for another protocol.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

_HEAD_BYTES = 32 * 1024
"""Of a request's line and headers, at most."""
_PIECE_BYTES = 8 * 1024
"""Parsed at once: a request's line and headers that do not end are refused at most this many bytes too late."""
_WISHES = (b"upgrade", b"http2-settings")
"""Headers, and words of the header `connection`, with which a request asks for another protocol."""
_HEAD_SECONDS = 15
"""That a client may take for them, from its connection on, or from their first byte."""


class _Parser:
    """httptools' parser, for which a request that asks for another protocol is one that does not.

    By itself it takes the body of such a request for the other protocol. Java's HttpClient, and `curl --http2`, ask for
    HTTP/2 with a request that is otherwise HTTP/1.1, and servers may ignore that (RFC 9110, 7.8).

    Args:
        protocol: Hears what is parsed, but neither the end of the headers nor of a request that `asks`.
    """

    def __init__(self, protocol: "Protocol") -> None:
        self._protocol = protocol
        self._parser = self._new()

    def _new(self) -> Any:
        parser: Any = HttpRequestParser(self._protocol)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return parser

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    @property
    def asks(self) -> bool:
        """True if the request asks for another protocol; to CONNECT is none that could be answered here."""
        return self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT"

    def feed_data(self, data: bytes) -> None:
        """Parse bytes."""
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as wish:
            if not self.asks:
                raise
            head = self._head_without_wish()
            self._parser = self._new()
            self.feed_data(head + data[wish.args[0] :])

    def _head_without_wish(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.get_method(), self._protocol.url, self.get_http_version().encode())]
        for name, value in self._protocol.headers:
            if name == b"connection":
                lines += [b"connection: " + word for word in value.split(b",") if word.strip().lower() not in _WISHES]
            elif name not in _WISHES:
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.parser: Any = _Parser(self)  # None once the connection is lost
        self._head = 0
        self._is_in_head = True
        self._has_begun = False  # a request, in the bytes that are read now
        self._is_in_body, self._has_body = False, False
        self._between = 0  # bytes since the last ones of a body: sizes of chunks, and what follows the last chunk
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
        """Read what the client has sent, in pieces: of the one in which a request begins, no bytes are counted."""
        for begin in range(0, len(data), _PIECE_BYTES):
            if self._is_refused or self.transport.is_closing():
                return
            self._read(data[begin : begin + _PIECE_BYTES])

    def _read(self, piece: bytes) -> None:
        self._has_begun, self._has_body = False, False
        super().data_received(piece)
        self._between = self._between + len(piece) if self._is_in_body and not self._has_body else 0
        if self._between > _HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
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
        if self.parser.asks:
            return
        self._is_in_head = False
        self._stop_waiting()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > _HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if not self._is_refused:
            self._is_in_body = True
            super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read a header; those behind a body, which nobody asked for, are dropped."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Read a part of a body."""
        self._has_body = True
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request's body."""
        if not self.parser.asks:
            self._is_in_body = False
        if not (self._is_refused or self.parser.asks):
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
            begins = self._is_in_body and not self.pipeline and not cycle.response_started
            if not begins:  # another request's answer is under way, or this one's
                self.shutdown()
                return
        text = status.phrase.encode()
        head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(text)
        self.transport.write(STATUS_LINE[status.value] + head + text)
        self.transport.close()
