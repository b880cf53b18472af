"""A folder for what all processes of a user run or trust: one that nobody else can write, as ssh sees to its own."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_OTHERS_WRITE = 0o022


def cache_folder() -> Path:
    """The user's cache, or a folder of its own among temporary ones where that cannot be had; free of links.

    Raises:
        OSError: neither can be written by this user, and by nobody else.
    """
    for place in _candidates():
        try:
            if not place.parent.is_dir():
                place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = Path(os.path.realpath(place.parent)) / place.name  # a link may lead elsewhere later
            folder.mkdir(mode=0o700, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK) and is_ours(folder) and all(map(_is_safe_parent, folder.parents)):
                return folder
        except OSError:
            continue
    raise OSError("no folder can be written by this user alone")


def _candidates() -> Iterator[Path]:
    asked = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError):  # no HOME, and a user without an entry in passwd
        yield (Path(asked) if asked else Path.home() / ".cache") / "conjoin"
    yield Path(tempfile.gettempdir()) / f"conjoin-{_user()}"


def is_ours(path: Path) -> bool:
    """Whether a file or folder is there, no link, this user's, and writable by nobody else."""
    try:
        found = path.lstat()
    except OSError:
        return False
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return False
    return os.name != "posix" or (found.st_uid == _user() and not found.st_mode & _OTHERS_WRITE)


def _is_safe_parent(folder: Path) -> bool:
    """Whether nobody else can exchange what lies in a folder: root's and the user's own, or a sticky one of root's."""
    if os.name != "posix":
        return True
    found = folder.lstat()
    closed = not found.st_mode & _OTHERS_WRITE or bool(found.st_mode & stat.S_ISVTX)
    return stat.S_ISDIR(found.st_mode) and found.st_uid in (0, _user()) and closed


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0
