"""Resolve the name of a folder or a Hugging Face hub id to a folder on this machine."""

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path

from conjoin.checkpoint import exchange
from conjoin.checkpoint.dialects import Framework
from conjoin.checkpoint.files import expanded, inside, reading
from conjoin.checkpoint.forms import is_weight_file, own_form
from conjoin.errors import FileError
from conjoin.gguf import SUFFIX, unpacked

DEFAULT_PATTERNS = (
    "config.json",
    "generation_config.json",
    "*.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*.model",
    "*.spm",
    "vocab.*",
    "merges.txt",
    "bpe.codes",
    "*.jinja",
)
_OTHER_WEIGHTS = (
    ("*.safetensors", ("pytorch_model*.bin", "pytorch_model*.bin.index.json")),
    ("*.bin", ("tf_model*.h5",)),
    ("*.h5", ("flax_model*.msgpack",)),
)
"""(pattern, fallback patterns): the fallbacks are fetched if a repository has no file of the first pattern."""
_NEVER = ("consolidated*.safetensors",)  # Mistral's repositories hold every weight a second time under this name
_PAIR_FILE, TARGET_FOLDER = "tokenizer_pair.json", "target_tokenizer"
"""A pair of tokenizers keeps the target's in this folder, the only subfolder that a model needs."""
_HUB_ID = re.compile(r"(?:[\w.-]{1,96}/)?[\w.-]{1,96}", re.ASCII)
_TRUE = {"1", "ON", "YES", "TRUE"}  # as in huggingface_hub


def resolve(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool | None = None,
    token: str | bool | None = None,
    subfolder: str = "",
    allow_patterns: Sequence[str] | None = None,
    framework: Framework | None = None,
) -> Path:
    """Find the folder that holds a checkpoint, downloading it if it is on the hub and not yet in the cache.

    A folder on this machine takes precedence over a hub id of the same name. A GGUF file, alone or as all that a folder
    has of a model, is found as a temporary folder with the same contents in Hugging Face's words.

    Args:
        local_files_only: None follows HF_HUB_OFFLINE.
        allow_patterns: Files to download instead of config, weights and tokenizer files.
        framework: Also download the weights that this framework wrote.
    Raises:
        FileError: the folder or repository does not exist or is not accessible; says which, and what to do.
    """
    name = os.fspath(name_or_path)
    inner = inside(subfolder) if subfolder else ""
    folder = expanded(name)
    with reading(name):
        if name and folder.is_file() and folder.suffix == SUFFIX:
            return unpacked(folder)
        exchange.repair(folder)
        if not name or not folder.is_dir():
            _check_hub_id(name, folder)
            offline = _offline() if local_files_only is None else local_files_only
            hub = _Hub(name, revision, cache_dir, offline, token)
            folder = hub.fetch(inner, allow_patterns, framework)
        return _in_our_words(_inner_folder(folder, inner))


def _in_our_words(folder: Path) -> Path:
    """Return the folder itself, unless all that it has of a model is one GGUF file."""
    files = [] if (folder / "config.json").exists() else sorted(folder.glob(f"*{SUFFIX}"))
    if len(files) > 1:
        raise FileError(
            f"{folder} has no config.json, but {len(files)} GGUF files: {', '.join(file.name for file in files)}.",
            hint="name one of the files",
        )
    return unpacked(files[0]) if files else folder


def _inner_folder(folder: Path, subfolder: str) -> Path:
    inner = folder / subfolder
    if not inner.is_dir():
        present = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise FileError(f"{folder} has no folder {subfolder!r}. It has: {', '.join(present) or 'no folders'}.")
    return inner


def _check_hub_id(name: str, path: Path) -> None:
    if path.is_file():
        raise FileError(f"{name} is a file, expected a folder.", hint=f"use the folder it is in: {path.parent}")
    looks_like_path = name.startswith((".", "~", "/", "\\")) or name.count("/") > 1
    if looks_like_path or not _HUB_ID.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
        raise FileError(
            f"No folder {name!r} on this machine (from {os.getcwd()}), and that is not a valid hub id either.",
            hint="a hub id has the form organisation/name, for example google-bert/bert-base-uncased",
        )


def _offline() -> bool:
    return any(os.environ.get(key, "").upper() in _TRUE for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


class _Hub:
    """One repository on the hub, with the settings of this call."""

    def __init__(
        self,
        name: str,
        revision: str | None,
        cache_dir: str | os.PathLike[str] | None,
        offline: bool,
        token: str | bool | None,
    ) -> None:
        self.name = name
        self.revision = revision
        self.cache_dir = None if cache_dir is None else os.fspath(cache_dir)
        self.offline = offline
        self.token = token

    def fetch(self, subfolder: str, patterns: Sequence[str] | None, framework: Framework | None) -> Path:
        """Download the repository or find it in the cache; other weight files only if it has no safetensors."""
        if patterns is not None:
            return self._snapshot(patterns, ())
        prefix = f"{subfolder}/" if subfolder else ""
        own = own_form(framework or "pt")
        patterns = (*DEFAULT_PATTERNS, f"{own.stem}*.{own.suffix}")
        wanted = [prefix + pattern for pattern in patterns]
        unwanted = [f"{prefix}*/*", *(prefix + pattern for pattern in _NEVER)]
        folder = self._snapshot(wanted, unwanted)
        for preferred, fallbacks in _OTHER_WEIGHTS:
            if any((folder / subfolder).glob(preferred)) or any((folder / subfolder).glob(f"*.{own.suffix}")):
                break
            wanted += [prefix + pattern for pattern in fallbacks]
            folder = self._snapshot(wanted, unwanted)
        if (folder / subfolder / _PAIR_FILE).is_file():
            folder = self._snapshot([f"{prefix}{TARGET_FOLDER}/*"], ())
        return folder

    def _snapshot(self, wanted: Sequence[str], unwanted: Sequence[str]) -> Path:
        import huggingface_hub

        try:
            return Path(
                huggingface_hub.snapshot_download(  # pyright: ignore[reportUnknownMemberType]: its dict has no types
                    self.name,
                    revision=self.revision,
                    cache_dir=self.cache_dir,
                    local_files_only=self.offline,
                    token=self.token,
                    allow_patterns=list(wanted),
                    ignore_patterns=list(unwanted) or None,
                )
            )
        except Exception as error:  # includes errors of its HTTP library, which we do not depend on
            if (folder := _usable_part(error)) is not None:
                return folder
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> FileError:
        from huggingface_hub import errors

        status = getattr(getattr(error, "response", None), "status_code", None)
        match error:
            case errors.GatedRepoError():
                return self._error("is gated: its terms must be accepted on the hub first.", self._login_hint())
            case errors.RevisionNotFoundError():
                return self._error(f"is on the hub, but has no revision {self.revision!r}.", "see its branches there")
            case errors.RepositoryNotFoundError():
                return self._error(
                    "is neither a folder on this machine nor a model on the hub that you can see.",
                    "check the spelling; if it is private, run `hf auth login` or pass token=",
                )
            case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
                return self._not_cached(error)
            case errors.HFValidationError():
                return self._error(f"is neither a folder on this machine nor a valid hub id: {error}", None)
            case _ if status in (401, 403):
                return self._error(f"may not be read: the hub answered {status}.", self._login_hint())
            case OSError(errno=errno.ENOSPC):
                return self._error("could not be downloaded: the disk is full.", "free some space or pass cache_dir=")
            case _:
                reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                return self._error(f"could not be fetched from the hub. {reason}", "try again later")

    def _not_cached(self, error: Exception) -> FileError:
        if self.offline:
            return self._error(
                "is not, or not completely, in the local cache, and downloads are disabled.",
                "unset HF_HUB_OFFLINE (or pass local_files_only=False) once while online",
            )
        cause = error.__cause__ or error
        return self._error(
            f"is not in the local cache, and the hub cannot be reached ({type(cause).__name__}).",
            "check the connection, or give a folder",
        )

    def _login_hint(self) -> str:
        return f"open https://huggingface.co/{self.name}, ask for access, then run `hf auth login` or pass token="

    def _error(self, problem: str, hint: str | None) -> FileError:
        return FileError(f"{self.name} {problem}", hint=hint)


def _usable_part(error: Exception) -> Path | None:
    """Return a cached snapshot that is incomplete but has config and weights, so that a model may load; else None."""
    folder = Path(getattr(error, "snapshot_path", ""))
    has_weights = any(is_weight_file(path.name) for path in folder.glob("*"))
    return folder if (folder / "config.json").exists() and has_weights else None
