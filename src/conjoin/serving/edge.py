"""What every HTTP request meets first: its id, its key, the size and the pace of its body, the log.

Pure ASGI. Starlette's BaseHTTPMiddleware must not be used: behind it no route learns that a client has left.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

from starlette.exceptions import HTTPException

from conjoin.serving.page import PATHS
from conjoin.serving.refusal import Kind, Refusal

Scope = MutableMapping[str, Any]
log = logging.getLogger("conjoin.serve")
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
_PLAIN_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C's traceparent; another value may hold what looks like further fields of the log."""
PUBLIC = (*PATHS, "/health", "/ready", "/metrics", "/ping", "/languages", "/frontend/settings")
"""Paths that need no key, for GET: they hold no text of anybody. LibreTranslate's clients send none to the last two."""
KEY_IN_BODY = ("/translate", "/detect")
"""LibreTranslate's clients send their key in the body; the route looks at it."""
_PROBES = ("/health", "/ping", "/ready", "/metrics")
"""Asked every few seconds by machines; not worth a line of the log."""
_DRAINED = 16 << 20
"""Bytes of a refused body that are read, so that its sender gets to the answer; beyond, the connection breaks."""
_DRAIN_SECONDS = 5.0
_OPEN = 2048
"""Requests that are read, wait or run at a time; more are refused, and probes answered all the same."""
_RETRY_SECONDS = 5.0


class Keys:
    """The keys of a server, compared in constant time."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    @property
    def are_needed(self) -> bool:
        """True if requests must carry a key."""
        return bool(self._digests)

    def number(self, key: str) -> int | None:
        """Return the number of a key; None for an unknown one. Every key is compared, whatever is found."""
        digest, found = hashlib.sha256(key.encode("utf-8", "replace")).digest(), None
        for number, known in enumerate(self._digests):
            if hmac.compare_digest(digest, known):
                found = number
        return found


def key_of(headers: dict[str, str]) -> str:
    """Return the key in a request's headers: `Authorization: Bearer KEY` or `X-API-Key: KEY`; "" if there is none."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")


class Edge:
    """The outermost layer of the application.

    Args:
        body_seconds: Seconds that a client may take to send a body.
        root_path: Path under which a proxy serves the application, whether or not it takes it off.
        refuse: Makes the response of a refusal, in the form of the route's dialect.
        seen: Told of every request: route, status, seconds.
    """

    def __init__(
        self,
        app: Any,
        *,
        keys: Keys,
        max_body: int,
        body_seconds: float,
        root_path: str,
        refuse: Callable[[str, Refusal], Any],
        seen: Callable[[str, int], None],
    ) -> None:
        self._app, self._keys, self._max_body, self._body_seconds = app, keys, max_body, body_seconds
        self._root, self._refuse, self._seen = root_path, refuse, seen
        self._open = 0

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        if self._root:
            scope["root_path"] = self._root
        request_id = given if _PLAIN_ID.fullmatch(given) else uuid.uuid4().hex
        REQUEST_ID.set(request_id)
        scope["state"] = {**scope.get("state", {}), "request_id": request_id, "client": _host(scope)}
        body = _Body(receive, headers, most=self._max_body, seconds=self._body_seconds)
        answer = _Answer(send, request_id, body)
        begun = time.monotonic()
        self._open += 1
        try:
            self._check(scope, headers)
            await self._app(scope, body.receive, answer.send)
        except Refusal as refusal:
            await self._refused(scope, body, answer, refusal)
        except Exception as error:
            log.exception("%s %s: unexpected %s", scope["method"], _route(scope), type(error).__name__)
            refusal = Refusal(Kind.INTERNAL, "An unexpected error ended this request; the server's log has it.")
            await self._refused(scope, body, answer, refusal)
        finally:
            self._open -= 1
            self._seen(_route(scope), answer.status)
            _write_log(scope, headers, request_id, answer.status, time.monotonic() - begun)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        if self._open > _OPEN and route_path(scope) not in _PROBES:
            raise Refusal(Kind.OVERLOADED, f"{_OPEN:,} requests are open already.", retry_after_s=_RETRY_SECONDS)
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length) > self._max_body:
            raise _too_large(self._max_body)
        path, method = route_path(scope), scope["method"]
        if not self._keys.are_needed or method == "OPTIONS" or (path in PUBLIC and method in ("GET", "HEAD")):
            return
        number = self._keys.number(key_of(headers))
        if number is not None:
            scope["state"]["client"] = f"key {number}"
        elif path not in KEY_IN_BODY:
            raise Refusal(Kind.UNAUTHORIZED, "A key is needed: `Authorization: Bearer KEY` or `X-API-Key: KEY`.")

    async def _refused(self, scope: Scope, body: "_Body", answer: "_Answer", refusal: Refusal) -> None:
        if not answer.has_begun:
            await self._refuse(route_path(scope), refusal)(scope, body.receive, answer.send)


class _Answer:
    """Passes an answer on, with the request's id and safe headers; knows its status."""

    def __init__(self, send: Any, request_id: str, body: "_Body") -> None:
        self._send, self._id, self._body = send, request_id, body
        self.status = 499  # the client left before there was an answer
        self.has_begun = False

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.has_begun, self.status = True, message["status"]
            more = [(b"x-request-id", self._id.encode()), (b"x-content-type-options", b"nosniff")]
            if not await self._body.drain():
                more.append((b"connection", b"close"))
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await self._send(message)


class _Body:
    """Passes a body on, as long as it is not too large and comes fast enough."""

    def __init__(self, receive: Any, headers: dict[str, str], *, most: int, seconds: float) -> None:
        self._receive, self._most, self._seconds = receive, most, seconds
        self._size = 0
        self._is_whole = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        self._is_held_back = "expect" in headers  # it is sent only if somebody begins to read it
        self._end = time.monotonic() + seconds

    async def receive(self) -> Any:
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.001, self._end - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"The body was not there after {self._seconds:g} seconds.") from None
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            if self._size > self._most:
                raise HTTPException(413, str(_too_large(self._most)))
        return message

    async def drain(self) -> bool:
        """Read what is left of a body that nobody wants, within bounds; return True if all of it is there.

        A sender whose connection breaks while it sends does not get to the answer that says why.
        """
        end = min(self._end, time.monotonic() + _DRAIN_SECONDS)
        while not self._is_whole and not self._is_held_back and self._size < _DRAINED and time.monotonic() < end:
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    message = await self._receive()
            except TimeoutError:
                break
            self._size += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
        return self._is_whole


def _too_large(most: int) -> Refusal:
    return Refusal(Kind.TOO_LARGE, f"The body is larger than {most:,} bytes.", hint="send fewer texts at a time.")


def _host(scope: Scope) -> str:
    return (scope.get("client") or ("", 0))[0]


def route_path(scope: Scope) -> str:
    """Return the path without that under which a proxy serves the application, as the routes see it."""
    path, root = scope["path"], scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _route(scope: Scope) -> str:
    """Return the pattern of the route, of which there are few; "other" where there is none."""
    route = scope.get("route")
    return getattr(route, "path", "other")


def _write_log(scope: Scope, headers: dict[str, str], request_id: str, status: int, seconds: float) -> None:
    if route_path(scope) in _PROBES and status in (200, 503):
        return
    fields: dict[str, Any] = {
        "request_id": request_id,
        "method": scope["method"],
        "route": _route(scope),
        "status": status,
        "seconds": round(seconds, 4),
        **scope["state"].get("log", {}),
    }
    if _TRACE.fullmatch(headers.get("traceparent", "")):
        fields["traceparent"] = headers["traceparent"]
    log.info("%s", " ".join(f"{name}={value}" for name, value in fields.items()), extra={"fields": fields})


class JsonLines(logging.Formatter):
    """One JSON object per line of the log."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON."""
        told: dict[str, Any] = {"time": self.formatTime(record), "level": record.levelname.lower()}
        fields = getattr(record, "fields", None)
        told |= fields if isinstance(fields, dict) else {"message": record.getMessage()}  # pyright: ignore
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)
