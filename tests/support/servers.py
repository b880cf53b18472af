"""`conjoin serve` as a process of its own, for tests that need a real socket."""

import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from command_line import start

_START_SECONDS = 480.0
"""Kernels may have to be compiled first, on a machine that runs other tests beside."""
_STOP_SECONDS = 40.0


class Server:
    """A running server; a context manager that stops it.

    Attributes:
        url: Where it listens, without a slash at the end.
        process: Its process.
        flags: Options that it was started with.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", flags: tuple[str, ...] = ()) -> None:
        self.process, self.flags = process, flags
        self.url = ""
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        """All that the server has written to stderr."""
        return "".join(self._lines)

    def get(self, path: str) -> str:
        """Return the body of GET `path`; raises urllib's errors."""
        with urllib.request.urlopen(self.url + path, timeout=20) as response:
            return response.read().decode()

    def info(self) -> dict[str, Any]:
        """Return what GET /info tells."""
        return json.loads(self.get("/info"))

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels; 0.0 if it has none yet."""
        lines = (line for line in self.get("/metrics").splitlines() if line.split("{")[0].split(" ")[0] == name)
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code; kills a server that does not stop."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server did not stop:\n{self.log}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        self._reader.join(5)
        if self.process.stderr:
            self.process.stderr.close()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self._lines.append(line.decode("utf-8", "replace"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def start_server(folder: str | Path, *flags: str | Path) -> Server:
    """Start a server on a free port of this machine, and return it once /ready answers 200.

    Args:
        folder: The model: a folder, or "FOLDER=NAME".
        flags: Further words of the command line: options, and more models.

    Example:
        with start_server(folder, "--max-rows", "4") as server:
            server.info()
    """
    server = Server(start("serve", folder, "--port", "0", "--host", "127.0.0.1", *flags), tuple(map(str, flags)))
    end = time.monotonic() + _START_SECONDS
    try:
        while not _is_ready(server):
            assert server.process.poll() is None, f"the server ended:\n{server.log}"
            assert "cannot load" not in server.log, f"the server has no model:\n{server.log}"
            assert time.monotonic() < end, f"the server was not ready in time:\n{server.log}"
            time.sleep(0.1)
    except BaseException:
        server.kill()
        raise
    return server


def _is_ready(server: Server) -> bool:
    _, listening, rest = server.log.partition("listening on ")
    if not listening or "\n" not in rest:
        return False
    server.url = rest.split("\n", 1)[0].strip()
    try:
        server.get("/ready")
    except (urllib.error.URLError, ConnectionError):  # 503, not yet accepting, or ended meanwhile
        return False
    return True
