"""Servers of this machine that answer as a test says."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Answer = tuple[int, Any, dict[str, str]] | None
"""Status, value and headers; None closes the connection without an answer."""


def upper(body: Body) -> Answer:
    """Answer POST /generate with the sources in capitals."""
    return 200, [{"generated_text": text.upper(), "finish_reason": "eos_token"} for text in body["inputs"]], {}


ROUTES = ("/generate", "/v1/completions", "/v1/chat/completions", "/v1/responses")


class Fake:
    """A server that answers with a function of each body."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[Body] = []
        self.keys: list[str | None] = []
        self.info: Any = None


@contextmanager
def fake(answer: Callable[[Body], Answer] = upper) -> Iterator[Fake]:
    """Run a server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send((200, told.info, {}) if self.path == "/info" and told.info else (404, {"error": "no"}, {}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.bodies.append(body)
            told.keys.append(self.headers.get("authorization"))
            found = answer(body) if self.path in ROUTES else (404, {"error": "no such route"}, {})
            if found is not None:
                self._send(found)

        def _send(self, found: tuple[int, Any, dict[str, str]]) -> None:
            raw = found[1] if isinstance(found[1], bytes) else json.dumps(found[1]).encode()
            self.send_response(found[0])
            for name, value in {**found[2], "content-length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep stderr clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        told = Fake(f"http://127.0.0.1:{httpd.server_port}")
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield told
        finally:
            httpd.shutdown()
            thread.join()
