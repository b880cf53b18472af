"""Ids back to text."""

from tokenizers import Tokenizer as Backend

from conjoin.errors import TokenizerError
from conjoin.tokenizer._warn import warn

CLEAN_UP_BPE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
"""transformers' key for tokenizer_config.json; the name is its own warning."""

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
        roles: ids that are skipped as special tokens are, though the vocabulary has them as ordinary ones.
    Raises:
        TokenizerError: a row holds something that is not an id.
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
    """Whether removing spaces before punctuation restores text; in BPE those spaces are the text's own."""
    return type(backend.model).__name__ != "BPE"


def clean_up_spaces(text: str) -> str:
    """Remove the spaces that WordPiece puts before punctuation and English endings, in transformers' order."""
    for spaced, joined in _CLEAN_UP:
        text = text.replace(spaced, joined)
    return text


def warn_no_clean_up() -> None:
    """Say that clean-up was asked of a BPE tokenizer."""
    warn(
        "clean_up_tokenization_spaces=True has no effect on a BPE tokenizer: its spaces are those of the text. "
        "Leave the argument out."
    )
