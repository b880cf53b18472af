"""JSON files and whole folders: read with clear errors, written atomically, so that a killed save breaks nothing."""

import errno
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

from conjoin.checkpoint import exchange
from conjoin.errors import ConfigError, FileError
from conjoin.jsons import JsonError, parse_json
from conjoin.limits import JSON_BYTES

_SHOWN = 300  # characters of a path in an error


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileError: the file does not exist, cannot be read, or is a pipe.
        ConfigError: not JSON (with line and column), or not an object.
    """
    path = Path(path)
    try:
        data = parse_json(_text(path))
    except JsonError as error:
        raise ConfigError(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds a JSON {type(data).__name__}, expected an object: {{...}}.")
    return cast(dict[str, Any], data)


def _text(path: Path) -> str:
    size = require_file(path)
    if size > JSON_BYTES:
        raise FileError(f"{path}: {size:,} bytes of JSON; expected at most {JSON_BYTES:,}.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}.") from None


def require_file(path: Path) -> int:
    """Check that a path is a regular file: reading a pipe or a device could block for ever.

    Returns:
        Its size in bytes.
    Raises:
        FileError: it is not.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise FileError(f"{path}: no such file.") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise FileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if not stat.S_ISREG(status.st_mode):
        if stat.S_ISDIR(status.st_mode):
            raise FileError(f"{path}: cannot be read: {os.strerror(errno.EISDIR)}.")
        raise FileError(f"{path}: not a file, but a pipe or a device.")
    return status.st_size


def write_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write an object as JSON the way transformers does: two spaces, sorted keys, a newline at the end.

    The write is atomic: the file is replaced whole or not at all.

    Raises:
        ConfigError: a value has no JSON form.
        FileError: the file cannot be written.
    """
    try:
        text = json.dumps(dict(data), indent=2, sort_keys=True) + "\n"
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be written as JSON: {error}.") from None
    with replacing_file(path) as file:
        file.write(text)


@contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Generator[IO[str]]:
    """Replace a text file atomically: whole or not at all.

    Raises:
        FileError: the file cannot be written (disk full, no permission, ...).
    """
    with replacing_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as file:
        yield file


@contextmanager
def replacing_bytes(path: str | os.PathLike[str]) -> Generator[IO[bytes]]:
    """Replace a file atomically: whole or not at all.

    Raises:
        FileError: the file cannot be written (disk full, no permission, ...).
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with _as_file_error(path):
        try:
            with open(unfinished, "wb") as file:
                yield file
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


class Staging(os.PathLike[str]):
    """A new folder that is filled before it replaces the old one.

    It starts empty, so writing to it cannot touch the old files. Files that are neither written nor removed here are
    kept from the old folder at the end. It can be used as a path.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self._target = target
        self._removed: set[str] = set()

    def __fspath__(self) -> str:
        return str(self.folder)

    def __truediv__(self, name: str) -> Path:
        return self.path(name)

    def path(self, name: str) -> Path:
        """Return the path of a file to write, and create its parent folders.

        Raises:
            FileError: the name leads out of the folder.
        """
        path = self.folder / inside(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def remove(self, name: str) -> None:
        """Do not keep a file or folder of the old folder, and delete it if it was written here."""
        written = self.folder / inside(name)
        self._removed.add(str(PurePosixPath(name)))
        if written.is_dir():
            shutil.rmtree(written)
        else:
            written.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Return the top-level files that the new folder would have if the save ended now."""
        old = {path.name for path in self._target.glob("*")} - self._removed
        return sorted(old | {path.name for path in self.folder.glob("*")})

    def keep_the_rest(self) -> None:
        """Link (or copy, if links are impossible) the files of the old folder that this one lacks."""
        if self._target.is_dir():
            _keep(self._target, self.folder, PurePosixPath(), self._removed)


def inside(name: str) -> str:
    """Check that an untrusted name stays inside its folder, on any operating system, and return it.

    Raises:
        FileError: the name is absolute or empty, or has a drive or `..`.
    """
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
        raise FileError(f"{name!r} does not name a file inside its folder.")
    return name


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Generator[Staging]:
    """Replace a folder atomically: at any moment, readers see all of the old folder or all of the new one.

    Files that the caller neither writes nor removes are kept. If anything fails, the old folder stays as it was.

    Example:
        with replacing_folder("out") as staging:
            write_json(staging / "config.json", config)

    Raises:
        FileError: the folder cannot be written (disk full, no permission, ...).
    """
    path = Path(path)
    with _as_file_error(path):
        target = _checked_target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        exchange.repair(target)
        exchange.sweep(target)
        folder, lock = exchange.make_staging(target)
    try:
        with _as_file_error(target):
            staging = Staging(folder, target)
            yield staging
            _sync(folder)
            staging.keep_the_rest()
            _sync(folder)
            exchange.put_in_place(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a failed save, or the old folder after the exchange
        lock.close()


def expanded(path: str | os.PathLike[str]) -> Path:
    """Expand `~` to a home folder.

    Raises:
        FileError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise FileError(f"{os.fspath(path)}: cannot be found: {error}") from None


def lock_file(file: IO[bytes], path: Path) -> None:
    """Keep a second process out of `path` until the file is closed; where there are no locks (Windows), the user does.

    Raises:
        FileError: another process has the lock; the file is closed.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise FileError(
            f"{path}: another process is writing it.", hint="wait for it, or name another output."
        ) from None
    except OSError:  # a file system without locks, as some network folders are
        return


@contextmanager
def reading(path: str | os.PathLike[str]) -> Generator[None]:
    """Turn errors of the operating system while reading a path into a FileError.

    Raises:
        FileError: no permission, a name that is too long, circular links, ...
    """
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename and str(error.filename) != os.fspath(path) else ""
        shown = os.fspath(path)[:_SHOWN]
        raise FileError(f"{shown}: cannot be read: {error.strerror or error}{where[:_SHOWN]}.") from None


def _checked_target(path: Path) -> Path:
    target = Path(os.path.realpath(expanded(path)))
    if target.exists() and not target.is_dir():
        raise FileError(f"{path} is a file, expected a folder.")
    if os.path.ismount(target):
        raise FileError(f"{path} is a mount point, which cannot be replaced atomically.", hint=f"save to {path}/model")
    working = Path(os.path.realpath(os.curdir))
    if working == target or target in working.parents:
        raise FileError(
            f"{path} is, or holds, the working folder of this process; a save replaces the whole folder.",
            hint="save to a folder inside it, for example ./model",
        )
    return target


@contextmanager
def _as_file_error(path: Path) -> Generator[None]:
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        reason = f"{error.strerror or error}{where}"
        raise FileError(f"{path}: cannot be written: {reason}. What was there before is untouched.") from error


def _keep(old: Path, new: Path, inner: PurePosixPath, removed: set[str]) -> None:
    for entry in os.scandir(old / inner):
        name = inner / entry.name
        target = new / name
        if str(name) in removed:
            continue
        if entry.is_dir(follow_symlinks=False):
            untouched = not target.exists()
            target.mkdir(exist_ok=True)
            _keep(old, new, name, removed)
            if untouched:  # trainers choose the checkpoints to delete by age
                shutil.copystat(old / name, target)
        elif not os.path.lexists(target):
            _link(Path(entry.path), target)
    shutil.copymode(old / inner, new / inner)


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError:  # hard links are impossible on FAT, some network folders and files of other owners
        shutil.copy2(old, new, follow_symlinks=False)


def _sync(folder: Path) -> None:
    """Flush a folder tree to disk. Files that are on disk already cost next to nothing."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            if not os.path.islink(os.path.join(root, name)):
                exchange.sync(Path(root, name))
        exchange.sync(Path(root))
