"""Decode ids to text."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from tokenizers import Tokenizer as Backend

from conjoin.errors import TokenizerError, warn
from conjoin.tokenizer.pad import as_lists
from conjoin.tokenizer.rust import in_turn
from conjoin.tokenizer.special import SpecialTokens

CLEAN_UP_BPE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
"""transformers' key in tokenizer_config.json."""

_IDS = 1 << 32  # Rust's ids are 32 bits wide

_CLEAN_UP = (
    *((f" {mark}", mark) for mark in (".", "?", "!", ",")),
    (" ' ", "'"),
    *((f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")),
)


def decode_rows(
    backend: Backend, rows: list[list[int]], *, skip_special_tokens: bool, roles: frozenset[int] = frozenset()
) -> list[str]:
    """Decode many rows at once.

    Args:
        roles: ids to skip like special tokens, although the vocabulary does not mark them as special.
    Raises:
        TokenizerError: a row holds a value that is not an id.
    """
    for index, row in enumerate(rows):
        bad = [token for token in row if not (isinstance(token, int) and 0 <= token < _IDS)]  # pyright: ignore[reportUnnecessaryIsInstance]
        if bad:
            raise TokenizerError(
                f"row {index} holds {bad[0]!r}, which is not a token id.",
                hint="labels hide positions with -100; drop those: [[i for i in row if i >= 0] for row in labels].",
            )
    if skip_special_tokens and roles:
        rows = [[token for token in row if token not in roles] for row in rows]
    return backend.decode_batch(rows, skip_special_tokens=skip_special_tokens)


def can_clean_up(backend: Backend) -> bool:
    """True if removing spaces before punctuation restores text; with BPE these spaces belong to the text."""
    return type(backend.model).__name__ != "BPE"


def clean_up_spaces(text: str) -> str:
    """Remove the spaces that WordPiece puts before punctuation and English endings, in transformers' order."""
    for spaced, joined in _CLEAN_UP:
        text = text.replace(spaced, joined)
    return text


def warn_no_clean_up() -> None:
    """Warn that clean-up has no effect on a BPE tokenizer."""
    warn(
        "clean_up_tokenization_spaces=True has no effect on a BPE tokenizer: its spaces are those of the text. "
        "Leave the argument out."
    )


class Decoding(SpecialTokens):
    """Decoding of ids; `Tokenizer` adds encoding."""

    @property
    def clean_up_tokenization_spaces(self) -> bool:
        """True if decoding removes spaces before punctuation by default."""
        return bool(self.settings.options.get("clean_up_tokenization_spaces", False))

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> Any:
        """Decode ids, as lists, arrays or tensors: return a string for one row, a list for many.

        Raises:
            TokenizerError: a value is not an id, such as -100.
        """
        ids = as_lists(token_ids["input_ids"] if isinstance(token_ids, Mapping) else token_ids)
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            return self._decode(cast(list[list[int]], ids), skip_special_tokens, clean_up_tokenization_spaces)
        row = cast(list[int], [ids] if isinstance(ids, int) else ids)
        return self._decode([row], skip_special_tokens, clean_up_tokenization_spaces)[0]

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """Decode rows of ids; see `decode`."""
        if not len(sequences):
            return []
        texts = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [texts] if isinstance(texts, str) else texts

    @in_turn
    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Return the ids of one token or many; that of the unknown token, or None, for those not in the vocabulary."""
        return self.id_of(tokens) if isinstance(tokens, str) else [self.id_of(token) for token in tokens]

    @in_turn
    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the tokens of one id or many; None for an id outside the vocabulary."""
        if isinstance(ids, int):
            return self.token_of(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else set[int | None]()
        return [self.token_of(index) for index in as_lists(ids) if index not in skipped]

    @in_turn
    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens into text."""
        return self.backend.decoder.decode(tokens) if self.backend.decoder is not None else " ".join(tokens)

    @in_turn
    def _decode(self, rows: list[list[int]], skip_special_tokens: bool, clean_up: bool | None) -> list[str]:
        texts = self.texts_of(rows, skip_special_tokens=skip_special_tokens)
        if clean_up is None:
            clean_up = self.clean_up_tokenization_spaces
            cleans = clean_up and (can_clean_up(self.backend) or self.settings.options.get(CLEAN_UP_BPE))
            return [clean_up_spaces(text) for text in texts] if cleans else texts
        if clean_up and not can_clean_up(self.backend) and not self.settings.options.get(CLEAN_UP_BPE):
            warn_no_clean_up()
            return texts
        return [clean_up_spaces(text) for text in texts] if clean_up else texts

    def texts_of(self, rows: list[list[int]], *, skip_special_tokens: bool) -> list[str]:
        """Decode rows without removing spaces."""
        return decode_rows(self.backend, rows, skip_special_tokens=skip_special_tokens, roles=self.roles)
