"""Find the tokenizer files of a folder or of a hub repository."""

from dataclasses import dataclass
from pathlib import Path

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
MODEL_CONFIG = "config.json"
CHAT_TEMPLATE = "chat_template.jinja"
CHAT_TEMPLATES = "additional_chat_templates"
PAIR_FILE = "tokenizer_pair.json"
TARGET_FOLDER = "target_tokenizer"

OWN_CLASS = "conjoin_tokenizer_class"
"""The key of our class if `tokenizer_class` names another, with which transformers uses tokenizer.json as it is."""

# On the hub a `*` crosses folders, so these match a pair's target_tokenizer/ too.
_PATTERNS = ("*token*.json", "config.json", "*vocab.*", "merges.txt", "*.model", "*.spm", "*.jinja")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where to load a tokenizer from: the arguments of `from_pretrained`."""

    name: str | Path
    subfolder: str = ""
    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool | None = None
    token: str | bool | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """The tokenizer files that exist in one folder (or one single file, if the caller named a file)."""

    folder: Path
    only: str | None = None

    def get(self, name: str) -> Path | None:
        """Return the path of a file; None if it does not exist."""
        if self.only is not None and name != self.only:
            return None
        path = self.folder / name
        return path if path.is_file() else None

    def names(self) -> list[str]:
        """Return the sorted names of all files there, for error messages."""
        if self.only is not None:
            return [self.only]
        return sorted(path.name for path in self.folder.iterdir() if path.is_file())


def find_files(source: Source) -> Files:
    """Find a local folder or file, or download the tokenizer files of a hub id.

    Raises:
        FileError: there is no such folder, file or repository.
    """
    from conjoin.checkpoint import expanded, reading  # imported here because it needs numpy

    path = expanded(source.name)
    with reading(source.name):
        if path.is_file() and path.suffix != ".gguf":
            return Files(path.parent, only=path.name)
    from conjoin.checkpoint.find import resolve

    prefix = f"{source.subfolder}/" if source.subfolder else ""
    folder = resolve(
        source.name,
        revision=source.revision,
        cache_dir=source.cache_dir,
        local_files_only=source.local_files_only,
        token=source.token,
        subfolder=source.subfolder,
        allow_patterns=[prefix + pattern for pattern in _PATTERNS],
    )
    return Files(folder)
