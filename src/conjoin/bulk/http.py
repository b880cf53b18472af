"""Requests of JSON over HTTP, by Python's own client: a bulk run needs no more, and any thread can cut it off."""

import http.client
import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

from conjoin.errors import ConfigError, ConjoinError

TIMEOUT_S = 600.0
"""Seconds of silence after which a server counts as dead; it bounds the time of a request itself."""


class NoAnswer(ConjoinError):
    """A server could not be reached, or ended before it had answered.

    Attributes:
        was_reached: True if it ended, or fell silent, over this request.
    """

    def __init__(self, message: str, *, was_reached: bool) -> None:
        super().__init__(message)
        self.was_reached = was_reached


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a server.

    Args:
        value: Its body; None if that is not JSON.
        retry_after_s: Seconds after which it wants to be asked again.
        id: Of the request, as the server's log has it.
    """

    status: int
    value: Any
    retry_after_s: float | None = None
    id: str = ""

    @property
    def error(self) -> str:
        """What the body says went wrong."""
        told = fields(self.value).get("error")
        told = fields(told).get("message", told)
        return f"HTTP {self.status}: {told}" if told else f"HTTP {self.status}"


def fields(value: Any) -> dict[str, Any]:
    """Return an object of JSON; {} of anything else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """Return a list of JSON; [] of anything else."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def checked_url(text: str) -> str:
    """Return the address of a server without a slash at its end.

    Raises:
        ConfigError: it is no http or https address.
    """
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ConfigError(f"{text!r} is no address of a server; expected one such as http://127.0.0.1:8000.")
    return text.rstrip("/")


class Client:
    """Sends one request at a time; another thread may cut it off.

    Args:
        key: Sent as a Bearer token.
    """

    def __init__(self, key: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._headers = {"content-type": "application/json", "connection": "close"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None

    def send(self, url: str, path: str, body: Mapping[str, Any] | None = None) -> Reply:
        """Post JSON, or get it without a body.

        Raises:
            NoAnswer: the server cannot be reached, or its answer ends too early.
        """
        parts = urlsplit(url)
        self._connection = _connection(parts, self._timeout_s)
        payload, was_reached = None if body is None else json.dumps(body).encode(), False
        try:
            self._connection.connect()
            was_reached = True
            self._connection.request("GET" if body is None else "POST", parts.path + path, payload, self._headers)
            response = self._connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoAnswer(f"{url}: {reason}", was_reached=was_reached) from None
        finally:
            self._connection.close()
        told = response.headers
        return Reply(response.status, _value(raw), _seconds(told.get("retry-after")), told.get("x-request-id", ""))

    def cut_off(self) -> None:
        """End the request that is under way."""
        sock: socket.socket | None = getattr(self._connection, "sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _connection(parts: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(str(parts.hostname), parts.port, timeout=timeout_s)


def _value(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _seconds(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which may be a date."""
    if text is None:
        return None
    with suppress(ValueError, TypeError):
        return max(0.0, float(text))
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return None
