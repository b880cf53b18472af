"""Replace a folder by a finished one, and clean up after saves that were killed.

A save works in a hidden sibling, `.NAME.saving-TOKEN`, and holds a lock on it. The system drops the lock when the
process ends, so a staging folder without a lock is left over from a killed save. If the system cannot exchange two
folders in one step, the old one is `.NAME.replaced-TOKEN` for a moment; if the process dies in that moment, `repair`
brings it back.
"""

import ctypes
import errno
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Self

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_CANNOT_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV}


class Lock:
    """A lock of this process on a folder, dropped by the system if the process dies.

    If the folder is gone or the system has no such locks (Windows, some network folders), neither `ours` nor
    `held_elsewhere` is True: a live save cannot be told from a dead one, and nothing is swept.
    """

    def __init__(self, folder: Path) -> None:
        self.ours = self.held_elsewhere = False
        self._descriptor = None
        try:
            import fcntl

            self._descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.ours = True
        except BlockingIOError:
            self.held_elsewhere = True
        except (ImportError, OSError):
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def make_staging(target: Path) -> tuple[Path, Lock]:
    """Create and lock a staging folder beside the target; the caller closes the lock."""
    while True:
        folder = target.parent / f".{target.name}.saving-{secrets.token_hex(4)}"
        folder.mkdir()
        lock = Lock(folder)
        if not lock.held_elsewhere and folder.exists():
            return folder, lock
        lock.close()  # another save swept it between the two steps above


def sweep(target: Path) -> None:
    """Remove staging folders whose process is gone."""
    for folder in _siblings(target, "saving"):
        with Lock(folder) as lock:
            if lock.ours:
                shutil.rmtree(folder, ignore_errors=True)
    if target.exists():
        for folder in _siblings(target, "replaced"):
            shutil.rmtree(folder, ignore_errors=True)


def repair(target: Path) -> None:
    """Bring the old folder back if a save was killed between moving it aside and moving the new one in."""
    if target.exists() or not target.name:
        return
    for aside in _siblings(target, "replaced"):
        staging = aside.with_name(aside.name.replace(".replaced-", ".saving-"))
        with Lock(staging) as lock:
            if lock.ours and not target.exists():
                aside.rename(target)


def put_in_place(folder: Path, target: Path) -> None:
    """Swap the folder with the target; afterwards `folder` holds what the target held, or is gone."""
    if not target.exists():
        folder.rename(target)
    elif not _exchanged(folder, target):
        _move_aside(folder, target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows cannot open folders; a file without read permission is the user's choice
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # file systems that cannot sync folders
            raise
    finally:
        os.close(descriptor)


def _exchanged(first: Path, second: Path) -> bool:
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code))


def _move_aside(folder: Path, target: Path) -> None:
    aside = folder.with_name(folder.name.replace(".saving-", ".replaced-"))
    target.rename(aside)
    try:
        folder.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _siblings(target: Path, state: str) -> list[Path]:
    return sorted(target.parent.glob(f".{_literal(target.name)}.{state}-*"))


def _literal(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
