"""The tokenizers that travel with a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from conjoin.checkpoint import Staging
from conjoin.errors import ConjoinError, warn
from conjoin.join import OneFolder, TwoFolders

if TYPE_CHECKING:
    from conjoin.tokenizer import Tokenizer, TokenizerPair

_OF_A_PAIR = ("tokenizer_pair.json", "target_tokenizer")


class WithTokenizer:
    """A model that knows where its tokenizers lie."""

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """What transformers' class has and this one has not -> what does it here."""
    _tokenizer: "Tokenizer | TokenizerPair | None" = None
    _tokenizer_folders: OneFolder | TwoFolders = TwoFolders(None, None)

    @property
    def tokenizer(self) -> "Tokenizer | TokenizerPair":
        """The tokenizers of source and target, called as one; loaded when first asked for, saved with the model.

        Raises:
            NoTokenizerError: the model's folders have none, with the line to write.
        """
        return self._loaded_tokenizer()

    def _loaded_tokenizer(self) -> "Tokenizer | TokenizerPair":
        if self._tokenizer is None:
            self._tokenizer = self._tokenizer_folders.load()
        return self._tokenizer

    def __getattr__(self, name: str) -> Any:
        """Where `tokenizer` raises an AttributeError, since there is none, Python asks here: say it again."""
        if name == "tokenizer":
            return self._loaded_tokenizer()
        above = getattr(super(), "__getattr__", None)
        if above is None:
            kind = type(self).__name__
            hint = self.elsewhere.get(name)
            told = f"{kind!r} object has no attribute {name!r}" + (f"\n\nhint: {hint}" if hint else "")
            raise AttributeError(told, name=name, obj=self)
        return cast(Any, above)(name)

    @tokenizer.setter
    def tokenizer(self, tokenizer: "Tokenizer | TokenizerPair") -> None:
        self._tokenizer = tokenizer

    def save_tokenizers(self, staging: Staging) -> None:
        """Write the tokenizers, where there are any; those that cannot be loaded are left out with a warning."""
        if self._tokenizer is None and not self._tokenizer_folders.complete:
            return
        try:
            tokenizer = self.tokenizer
        except ConjoinError as error:
            warn(f"The model is saved without its tokenizers: {error}")
            return
        for name in _OF_A_PAIR:
            staging.remove(name)
        tokenizer.save_pretrained(Path(staging))
