"""Tokenized data in files that runs and processes share: made once, whole or not at all, and read as memory maps.

An entry is a folder whose name is a hash of everything that its contents depend on. It is filled beside its place and
then renamed, so that nobody ever reads half of one, and while it is made the others wait for its lock.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

import conjoin
from conjoin.checkpoint import expanded, replacing_folder
from conjoin.errors import FileError
from conjoin.native.place import cache_folder
from conjoin.texts.pairs import is_dataset
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.training.data.store import SUMMARY_FILE
from conjoin.training.terminal import say

T = TypeVar("T")
FORMAT = 1
"""Raised when files of earlier versions must not be read any more."""
KEPT_DAYS = 30
"""Days after which an entry that nobody has used is deleted, when another is written."""
_DAY_S = 86_400
WHOLE_BYTES = 1 << 24
"""Files up to this size are known by all of their contents; larger ones by size, time of change and samples."""
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 14
_OURS = re.compile(
    r"conjoin-[0-9a-f]{32}(\.lock)?|\.conjoin-[0-9a-f]{32}\.(saving|replaced)-[0-9a-f]{8}|\.conjoin-unnamed-\w+"
)
"""Names of what this module writes: a folder that users name may hold other things."""
VARIABLE = "CONJOIN_DATA_CACHE"
"""Environment variable with the folder of the cache."""
_HINT = "--data-cache-dir DIR puts tokenized data elsewhere; --no-data-cache keeps them in memory."


@dataclass(frozen=True, slots=True)
class DataCache:
    """A folder of tokenized data."""

    folder: Path

    @classmethod
    def of(cls, folder: str | None) -> "DataCache":
        """Return the cache in this folder; by default that of the environment, or the user's.

        Raises:
            FileError: there is no folder to write to.
        """
        named = folder or os.environ.get(VARIABLE)
        try:
            path = expanded(named) if named else cache_folder() / "data"
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{named or 'The cache folder'} cannot be written: {_reason(error)}.", hint=_HINT) from None
        return cls(path.resolve())

    def get(
        self, key: str | None, write: Callable[[Path], None], read: Callable[[Path], T | None], *, shown: bool
    ) -> T:
        """Return what is read of the entry under a key; it is written if it is not there, or damaged.

        Args:
            key: None of data that cannot be recognised when they come again; their files end with the process.
            read: Returns None if the folder holds nothing, or is damaged.
            shown: True to say so when another process writes it.

        Raises:
            FileError: it cannot be written.
            DataError: the data cannot be used.
        """
        if key is None:
            return self._unnamed(write, read)
        entry = self.folder / f"conjoin-{key}"
        if (value := _used(entry, read)) is not None:
            return value
        with _one_at_a_time(self.folder / f"{entry.name}.lock", shown):
            if (value := _used(entry, read)) is not None:
                return value
            with _explained(self.folder):
                shutil.rmtree(entry, ignore_errors=True)
                with replacing_folder(entry) as staging:
                    write(staging.folder)
        self.sweep()
        return _required(_used(entry, read), entry)

    def _unnamed(self, write: Callable[[Path], None], read: Callable[[Path], T | None]) -> T:
        with _explained(self.folder):
            folder = Path(tempfile.mkdtemp(prefix=".conjoin-unnamed-", dir=self.folder))
            try:
                write(folder)
                return _required(read(folder), folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)  # what is mapped stays until it is not needed any more

    def sweep(self) -> None:
        """Delete entries that nobody has used for long, and what killed processes left."""
        now = time.time()
        for path in self.folder.iterdir():
            if not _OURS.fullmatch(path.name):
                continue
            days = 1 if path.name.startswith(".") else KEPT_DAYS
            if now - _last_use(path) > days * _DAY_S:
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _used(entry: Path, read: Callable[[Path], T | None]) -> T | None:
    """Return what is read of an entry, and mark it as used."""
    value = read(entry)
    if value is not None:
        with suppress(OSError):  # a cache that others write
            os.utime(entry / SUMMARY_FILE)
    return value


def _required(value: T | None, folder: Path) -> T:
    if value is None:
        raise FileError(f"{folder}: the tokenized data are damaged as soon as they are written.", hint=_HINT)
    return value


def _last_use(path: Path) -> float:
    """Return the time at which a file, or a file of a folder, was last written."""
    try:
        return max(inner.stat().st_mtime for inner in [path, *(path.iterdir() if path.is_dir() else ())])
    except OSError:
        return time.time()


@contextmanager
def _explained(folder: Path) -> Generator[None]:
    """Say of a failed write what can be done."""
    try:
        yield
    except FileError as error:
        raise FileError(f"Tokenized data cannot be kept. {error}", hint=_HINT) from None
    except OSError as error:
        raise FileError(f"{folder}: tokenized data cannot be written: {_reason(error)}.", hint=_HINT) from None


def _reason(error: OSError) -> str:
    return str(error.strerror or error).rstrip(".")


@contextmanager
def _one_at_a_time(path: Path, shown: bool) -> Generator[None]:
    """Wait until no other process is inside; where there are no locks (Windows, some network folders), do not wait."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        file = open(path, "wb")  # noqa: SIM115
    except OSError as error:
        raise FileError(f"{path.parent}: tokenized data cannot be written: {_reason(error)}.", hint=_HINT) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if shown:
                say("Another process tokenizes the same data; waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        yield


def key_of(contents: Mapping[str, Any]) -> str:
    """Return the key of an entry that depends on these values."""
    versions = {"format": FORMAT, "conjoin": conjoin.__version__, "tokenizers": tokenizers.__version__}
    text = json.dumps({**versions, **contents}, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def data_digest(data: Any) -> str | None:
    """Return what tells these data from others: a file, or a `datasets.Dataset`; None of anything else.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(data, str | Path):
        return _file_digest(Path(data))
    return f"dataset {data._fingerprint}" if is_dataset(data) else None


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256("".join(path.suffixes).encode())
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        digest.update(f"{status.st_size}".encode())
        if status.st_size <= WHOLE_BYTES:
            digest.update(file.read())
            return digest.hexdigest()
        digest.update(f"{status.st_mtime_ns}".encode())
        for number in range(_SAMPLES + 1):
            file.seek(max(0, status.st_size - _SAMPLE_BYTES) * number // _SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Tokenizer | TokenizerPair | None) -> list[Any]:
    """Return what the ids of a tokenizer depend on."""
    if tokenizer is None:
        return []
    if isinstance(tokenizer, TokenizerPair):
        rules = [asdict(tokenizer.rules), asdict(tokenizer.source_rules)]
        template = None if tokenizer.template is None else asdict(tokenizer.template)  # a chat template as it reads now
        return [*map(tokenizer_digest, (tokenizer.source, tokenizer.target)), *rules, template]
    digest = hashlib.sha256(tokenizer.backend.to_str().encode())
    for name, content in sorted(tokenizer.contents.items()):
        digest.update(name.encode() + hashlib.sha256(content).digest())
    pipeline = digest.hexdigest()
    probe = tokenizer(text_target="a", verbose=False)["input_ids"]  # which shows the target's language
    ends = [tokenizer.start_token_id, tokenizer.end_token_id, tokenizer.pad_token_id]
    limits = [tokenizer.truncation_side, tokenizer.model_max_length]
    return [type(tokenizer).__name__, pipeline, probe, ends, limits, tokenizer.settings.options]
