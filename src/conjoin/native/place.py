"""A cache folder that nobody else can write, for code that every process of the user runs."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_OTHERS_WRITE = 0o022


def cache_folder() -> Path:
    """Return the user's cache folder, or else a private folder among temporary files, with symbolic links resolved.

    Raises:
        OSError: neither of them is writable by this user and by nobody else.
    """
    for candidate in _candidates():
        try:
            if not candidate.parent.is_dir():
                candidate.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = Path(os.path.realpath(candidate.parent)) / candidate.name  # a link may lead elsewhere later
            folder.mkdir(mode=0o700, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK) and is_ours(folder) and all(map(_is_safe_parent, folder.parents)):
                return folder
        except OSError:
            continue
    raise OSError("there is no cache folder that only this user can write")


def _candidates() -> Iterator[Path]:
    cache_home = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):  # no HOME, and a user without an entry in passwd
        yield (Path(cache_home) if cache_home else Path.home() / ".cache") / "conjoin"
    yield Path(tempfile.gettempdir()) / f"conjoin-{_user()}"


def is_ours(path: Path) -> bool:
    """True if a file or folder exists, is not a symbolic link, belongs to this user, and nobody else can write it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return False
    return os.name != "posix" or (status.st_uid == _user() and not status.st_mode & _OTHERS_WRITE)


def _is_safe_parent(folder: Path) -> bool:
    """True if nobody else can replace entries of a folder: root's or the user's, and closed to others or sticky."""
    if os.name != "posix":
        return True
    status = folder.lstat()
    closed = not status.st_mode & _OTHERS_WRITE or bool(status.st_mode & stat.S_ISVTX)
    return stat.S_ISDIR(status.st_mode) and status.st_uid in (0, _user()) and closed


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0
