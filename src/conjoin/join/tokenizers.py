"""The tokenizers of a model: found in the folders that it was loaded from, and loaded on first use."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConjoinError, NoTokenizerError, warn
from conjoin.families import PretrainedConfig, Role, family
from conjoin.join.tokens import fill_special_tokens, lacks_tokens

if TYPE_CHECKING:
    from conjoin.tokenizer import Tokenizer, TokenizerPair

_FILES = ("tokenizer.json", "tokenizer_pair.json", "vocab.*", "merges.txt", "*.model", "*.spm")
"""A folder with any of these files holds a tokenizer."""


@dataclass(frozen=True, slots=True)
class OneFolder:
    """The folder of a finished model, with a pair of tokenizers or a single one."""

    folder: Path

    @property
    def complete(self) -> bool:
        """True if there are tokenizers to load."""
        return has_tokenizer(self.folder)

    def load(self) -> "Tokenizer | TokenizerPair":
        """Load the tokenizer, or the pair, in the folder.

        Raises:
            TokenizerError: the folder holds none (with the line to write), or its files cannot be used.
        """
        return load_tokenizer(self.folder)


@dataclass(frozen=True, slots=True)
class TwoFolders:
    """The folders of two halves; None where a half did not come from a folder."""

    source: Path | None
    target: Path | None

    @property
    def complete(self) -> bool:
        """True if there are tokenizers to load."""
        return has_tokenizer(self.source) and has_tokenizer(self.target)

    def load(self) -> "TokenizerPair":
        """Load the pair of tokenizers; labels end in the target's end token, if it has one.

        Raises:
            TokenizerError: a folder has none (with the line to write), or its files cannot be used.
        """
        from conjoin.tokenizer import TokenizerPair

        source = _single(load_tokenizer(self.source), "source")
        target = _single(load_tokenizer(self.target), "target")
        return TokenizerPair(source, target, target_eos=target.end_token_id is not None)


def with_ends(tokenizer: "Tokenizer | TokenizerPair", config: PretrainedConfig) -> "Tokenizer | TokenizerPair":
    """Return the tokenizer of a finished model, as a pair where it would leave a whole model's labels without an end.

    Gemma's adds none (and puts bos before targets, with which T5Gemma's decoder starts anyway), so that a T5Gemma that
    is trained on its ids never stops.
    """
    from conjoin.tokenizer import TokenizerPair

    if isinstance(tokenizer, TokenizerPair) or isinstance(config, EncoderDecoderConfig):
        return tokenizer
    end = tokenizer.end_token_id
    if end is None or end in tokenizer(text_target="a", verbose=False)["input_ids"]:
        return tokenizer
    return TokenizerPair(tokenizer, tokenizer)


def has_tokenizer(folder: Path | None) -> bool:
    """True if a folder holds tokenizer files, or names a tokenizer that needs none."""
    if folder is None:
        return False
    return any(next(folder.glob(pattern), None) for pattern in _FILES) or _reads_bytes(folder)


def _reads_bytes(folder: Path) -> bool:
    """True if a settings file names ByT5's tokenizer, whose vocabulary is the bytes."""
    paths = [folder / name for name in ("tokenizer_config.json", "config.json")]
    if not any(path.is_file() and b"ByT5" in path.read_bytes() for path in paths):
        return False
    from conjoin.tokenizer import needs_no_vocabulary

    return needs_no_vocabulary(folder)


def load_tokenizer(folder: Path | None) -> "Tokenizer | TokenizerPair":
    """Load the tokenizer, or the pair, in a folder.

    Raises:
        NoTokenizerError: the folder holds none; with the line to write.
    """
    from conjoin.tokenizer import AutoTokenizer

    if folder is None or not has_tokenizer(folder):
        where = "No folder is known" if folder is None else f"{folder} has no tokenizer files"
        raise NoTokenizerError(
            f"This model has no tokenizer. {where}.",
            hint="model.tokenizer = TokenizerPair(source, target)  # each from AutoTokenizer.from_pretrained(...)\n"
            "Or copy the tokenizer's files into the model's folder.",
        )
    return AutoTokenizer.from_pretrained(folder)


def target_tokenizer(folder: Path | None) -> "Tokenizer | None":
    """Return the tokenizer in a decoder's folder; None if there is none, or (with a warning) if it is unusable."""
    if not has_tokenizer(folder):
        return None
    try:
        return _single(load_tokenizer(folder), "target")
    except ConjoinError as error:
        warn(f"The decoder's tokenizer cannot be used: {error}")
        return None


def complete_tokens(config: PretrainedConfig, folder: Path) -> None:
    """Fill special token ids that a finished model's config lacks from the tokenizers in its folder.

    A single tokenizer is used only if both halves have the same vocabulary; otherwise it belongs to the source.
    """
    fill_special_tokens(config, None)
    if not lacks_tokens(config) or not has_tokenizer(folder):
        return
    halves = (config.encoder, config.decoder) if isinstance(config, EncoderDecoderConfig) else (config, config)
    roles: tuple[Role, Role] = ("encoder", "decoder")
    sizes = {family(half.model_type).vocab_size_of(half, role) for half, role in zip(halves, roles, strict=True)}
    if len(sizes) == 1 or (folder / "tokenizer_pair.json").is_file():
        fill_special_tokens(config, target_tokenizer(folder))


def _single(loaded: "Tokenizer | TokenizerPair", role: str) -> "Tokenizer":
    """Return a single tokenizer; of a pair, the one of a side."""
    from conjoin.tokenizer import TokenizerPair

    return getattr(loaded, role) if isinstance(loaded, TokenizerPair) else loaded
