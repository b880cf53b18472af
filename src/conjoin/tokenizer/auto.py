"""`AutoTokenizer`: load the tokenizer that a folder holds."""

from pathlib import Path
from typing import Any

from conjoin.errors import TokenizerError
from conjoin.tokenizer.files.load import load_files
from conjoin.tokenizer.formats.find import PAIR_FILE, Source, find_files
from conjoin.tokenizer.pair import TokenizerPair, load_pair
from conjoin.tokenizer.registry import class_for
from conjoin.tokenizer.tokenizer import Tokenizer


class AutoTokenizer:
    """Loads the tokenizer of a folder or hub id; it cannot be instantiated."""

    def __init__(self) -> None:
        raise TokenizerError(
            "AutoTokenizer is not made, it loads.", hint="AutoTokenizer.from_pretrained(name_or_folder)"
        )

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        subfolder: str = "",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool | None = None,
        token: str | bool | None = None,
        use_fast: bool = True,
        **overrides: Any,
    ) -> Tokenizer | TokenizerPair:
        """Load a `TokenizerPair` if the folder holds one, else the family that its files name.

        The family is tokenizer_config.json's `tokenizer_class`, else that of config.json's `model_type`; for an
        encoder-decoder, the encoder's.

        Args:
            use_fast: accepted for old code; there is only one kind.
            overrides: as for `Tokenizer.from_pretrained`.
        Raises:
            FileError: no such folder or repository, or no tokenizer in it.
            TokenizerError: the files do not say which family they are of, or cannot be read.
        """
        del use_fast
        source = Source(
            name=name_or_folder,
            subfolder=subfolder,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        files = find_files(source)
        if files.get(PAIR_FILE) is not None:
            return load_pair(files.folder, overrides)
        return load_files(class_for(files), files, overrides)
