"""The process: sockets, signals and the log."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from conjoin.errors import FileError
from conjoin.serving.app import Application
from conjoin.serving.edge import JsonLines
from conjoin.serving.settings import ServeSettings

_DESCRIPTORS = 8192
_IDLE_SECONDS = 15
"""Seconds that an idle connection is kept."""
log = logging.getLogger("conjoin.serve")


def serve(settings: ServeSettings) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code: 0, or 1 if no model could be loaded.

    Raises:
        FileError: the address cannot be used.
    """
    import torch
    import uvicorn

    from conjoin.serving.protocol import Protocol

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    configure_log(settings.log)
    _allow_connections()
    bound = _bind(settings)
    application = Application(settings)
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.grace) + 5),
        http=Protocol,
        ws="none",
        lifespan="on",
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_run(_Server(config), application, bound))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes event loops: uvloop's, or asyncio's where there is none, as on Windows."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _allow_connections() -> None:
    """Raise the limit of file descriptors: every connection is one, and many systems begin with 1,024."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if most == resource.RLIM_INFINITY else min(_DESCRIPTORS, most)
    with suppress(ValueError, OSError):  # macOS says "unlimited" and means less
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(few, wanted), most))


def configure_log(form: str) -> None:
    """Send the server's log to stderr, in one of two forms."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("conjoin.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO if name == "conjoin.serve" else logging.WARNING)
        logger.propagate = False


def _bind(settings: ServeSettings) -> socket.socket:
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it: a reader that stops does not hold its answer
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(settings.client_timeout * 1000))
        bound.bind(address)
        bound.listen(1024)
    except OSError as error:
        raise FileError(f"{settings.host}:{settings.port} cannot be used: {error.strerror or error}.") from None
    return bound


class _Server:
    """uvicorn's server, whose stop the application hears of first, so that it can drain while it still answers."""

    def __init__(self, config: Any) -> None:
        import uvicorn

        class Server(uvicorn.Server):
            def capture_signals(self) -> Any:
                from contextlib import nullcontext

                return nullcontext()

        self.server = Server(config)


async def _run(holder: _Server, application: Application, bound: socket.socket) -> int:
    server, models, settings = holder.server, application.models, application.settings
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reloads: set[asyncio.Task[Any]] = set()
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, lambda: reloads.add(asyncio.create_task(_reload(application))))
    running = asyncio.create_task(server.serve(sockets=[bound]))
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    log.info("listening on http://%s:%d%s", shown, port, settings.root_path)
    ended = asyncio.create_task(stop.wait())
    announced = asyncio.create_task(_announce(models, f"http://{shown}:{port}{settings.root_path}", stop))
    await asyncio.wait({running, ended}, return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping: %d requests get %g seconds", sum(_busy(models)), settings.grace)
    announced.cancel()
    await models.stop()
    server.should_exit = True
    await running
    return int(all(entry.state == "failed" for entry in models.entries.values()))


def _busy(models: Any) -> list[int]:
    return [entry.served.gate.taken for entry in models.entries.values() if entry.served is not None]


async def _announce(models: Any, address: str, stop: asyncio.Event) -> None:
    """Say when requests are taken; stop the server if no model could be loaded."""
    while any(entry.state == "loading" for entry in models.entries.values()):
        await asyncio.sleep(0.05)
    if all(entry.state == "failed" for entry in models.entries.values()):
        stop.set()
    elif models.is_ready:
        log.info("ready: %s", address)


async def _reload(application: Application) -> None:
    try:
        await application.models.reload()
    except Exception as error:
        log.error("reload: %s", error)
