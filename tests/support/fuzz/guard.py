"""What a case must never do: run a program, reach for the network, touch files that are not its own."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NEVER = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "pty.spawn",
)
_NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.symlink",
    "shutil.rmtree",
    "shutil.move",
)
_OPEN_TO_ALL = ("/proc", "/sys", "/usr", "/lib", "/dev/null", "/dev/urandom", "/etc/mime.types")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Escape(BaseException):
    """A case did what it must not; no `except Exception` takes it."""


@contextmanager
def guarded(folder: Path, escapes: list[str]) -> Iterator[None]:
    """Raise Escape at whatever reaches out of `folder`, and note it, since a library may make another error of it.

    A hook cannot be taken back, so this is for a process that is to end.
    """
    own = [os.path.realpath(each) for each in (folder, _caches())]
    roots = (*sys.path, sys.prefix, sys.base_prefix, Path(__file__).parents[3])
    read = [*own, *(os.path.realpath(each) for each in roots), *_OPEN_TO_ALL]
    armed = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if armed and (found := _problem(event, arguments, own, read)):
            escapes.append(found)
            raise Escape(found)

    sys.addaudithook(hook)
    try:
        yield
    finally:
        armed = False


def _problem(event: str, arguments: tuple[Any, ...], own: list[str], read: list[str]) -> str | None:
    if event in _NEVER or event in _NETWORK:
        return f"{event} {arguments!r:.200}"
    if (event != "open" and event not in _CHANGES) or not isinstance(arguments[0], str | bytes | os.PathLike):
        return None
    if event == "open":
        path, mode, flags = arguments
        writes = bool((flags or 0) & _WRITING) or any(sign in (mode or "") for sign in "wax+")
        return None if _inside(path, own if writes else read) else f"open {path!r:.200}"
    beside = arguments[-1] if isinstance(arguments[-1], int) else -1  # a folder that the path starts from
    path = os.fsdecode(arguments[0])
    start = os.readlink(f"/proc/self/fd/{beside}") if beside >= 0 and event not in ("os.truncate", "os.mkdir") else ""
    return None if _inside(os.path.join(start, path), own) else f"{event} {path!r:.200}"


def _inside(path: Any, roots: list[str]) -> bool:
    real = os.path.realpath(os.fsdecode(path))
    return any(real == root or real.startswith(f"{root}{os.sep}") for root in roots if root)


def _caches() -> Path:
    """Where conjoin keeps what it compiled and measured."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    kept = Path(home) / "conjoin"
    return kept if kept.is_dir() else Path(tempfile.gettempdir()) / f"conjoin-{os.getuid()}"
