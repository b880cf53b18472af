"""Check the texts to tokenize, and convert them into the form that Rust accepts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from conjoin.errors import TokenizerError, listing


@dataclass(frozen=True, slots=True)
class Texts:
    """Rows for `encode_batch`: a text, or a (text, pair) tuple, where a text may be a list of words."""

    rows: list[Any]
    is_batch: bool


def as_texts(text: Any, pair: Any, *, is_split_into_words: bool) -> Texts:
    """Accept one text or many, with or without second texts.

    Raises:
        TokenizerError: a row is not text, or the two lists differ in length.
    """
    words = is_split_into_words
    first, second = _as_list(text, "text"), None if pair is None else _as_list(pair, "text_pair")
    is_batch = is_many(first, is_split_into_words=words)
    rows = _checked(first, "text", is_batch, words=words, pairs=second is None)
    if second is None:
        return Texts([tuple(row) if is_batch and _is_pair(row, words) else row for row in rows], is_batch)
    pairs = _checked(second, "text_pair", is_batch, words=words, pairs=False)
    if not is_batch:  # an empty second text is ignored, as in transformers
        return Texts([(rows[0], pairs[0])] if pairs[0] else rows, is_batch)
    if len(pairs) != len(rows):
        raise TokenizerError(f"text has {len(rows)} items but text_pair has {len(pairs)}; expected one pair per text.")
    return Texts(list(zip(rows, pairs, strict=True)), is_batch)


def is_many(text: Any, *, is_split_into_words: bool) -> bool:
    """True for many texts: a list of strings, or of lists if texts are lists of words."""
    if isinstance(text, str) or not isinstance(text, Sequence):
        return False
    rows = cast(Sequence[Any], text)
    return not is_split_into_words or (len(rows) > 0 and isinstance(rows[0], list | tuple))


def _as_list(value: Any, name: str) -> str | list[Any]:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return list(cast(Sequence[Any], value))
    hint = f"{name}=list({name})" if hasattr(value, "__iter__") and not isinstance(value, bytes | dict) else None
    raise TokenizerError(f"{name} is {_show(value)}, expected a string or a list of strings.", hint=hint)


def _checked(value: str | list[Any], name: str, is_batch: bool, *, words: bool, pairs: bool) -> list[Any]:
    """Return the rows of `value`, and check that each is text."""
    if is_batch != is_many(value, is_split_into_words=words):
        raise TokenizerError(
            f"{name} is {_show(value)}, but the other text is {'a batch' if is_batch else 'one text'}."
        )
    rows = value if is_batch and isinstance(value, list) else [value]
    bad = [
        f"{name}[{index}] is {_show(row)}" if is_batch else f"{name} is {_show(row)}"
        for index, row in enumerate(rows)
        if not (_is_words(row) if words else isinstance(row, str)) and not (pairs and _is_pair(row, words))
    ]
    if bad:
        expected = "a list of words" if words else "a string"
        is_list = not words and any(isinstance(row, list | tuple) for row in rows)
        raise TokenizerError(
            f"{len(bad)} of {len(rows)} inputs are not {expected}:\n{listing(bad, limit=5)}\nExpected {expected} each.",
            hint="pass is_split_into_words=True if the inner lists are words." if is_list else None,
        )
    return rows


def _is_words(row: Any) -> bool:
    return isinstance(row, list | tuple) and all(isinstance(word, str) for word in cast(Sequence[Any], row))


def _is_pair(row: Any, words: bool) -> bool:
    if not isinstance(row, list | tuple):
        return False
    parts = cast(Sequence[Any], row)
    return len(parts) == 2 and all(_is_words(part) if words else isinstance(part, str) for part in parts)


def _show(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"
