"""Refuse tokenizer files on which the Rust library would allocate gigabytes or crash."""

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from conjoin.errors import TokenizerError, listing
from conjoin.limits import VOCAB


def check_ids(ids: Iterable[Any], origin: Path | str) -> None:
    """Refuse ids far above any vocabulary size: a saved file would have an entry for every id below.

    Raises:
        TokenizerError: an id is no whole number, negative, or beyond `limits.VOCAB`.
    """
    for index in ids:
        if type(index) is not int or not 0 <= index < VOCAB:
            raise TokenizerError(
                f"{origin}: a token has the id {str(index)[:40]}, expected a whole number from 0 to {VOCAB - 1:,} "
                "(limits.VOCAB).",
                hint="number the tokens from 0 on, without large holes.",
            )


def check_vocab(vocab: Mapping[str, Any], origin: Path | str) -> None:
    """Refuse invalid ids, and ids of two tokens: Rust would decode to and save an arbitrary one of the two.

    Raises:
        TokenizerError: as `check_ids`; or two words have one id.
    """
    check_ids(vocab.values(), origin)
    words: dict[int, str] = {}
    shared = [
        f"{words[index]!r} and {word!r} have the id {index}"
        for word, index in vocab.items()
        if words.setdefault(index, word) != word
    ]
    if shared:
        raise TokenizerError(
            f"{origin}: tokens share an id, so text of that id could be either:\n{listing(shared, limit=5)}",
            hint="the file is damaged; fetch it again, or give each token an id of its own.",
        )


def check_document(document: Mapping[str, Any], origin: Path | str) -> None:
    """Check the ids and the normalisation tables of a tokenizer.json.

    Raises:
        TokenizerError: as `check_vocab`, `check_ids` and `check_charsmap`.
    """
    model = document.get("model")
    vocab = cast(dict[str, Any], model).get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        check_vocab(cast(dict[str, Any], vocab), origin)
    added = document.get("added_tokens")
    if isinstance(added, list):
        tokens = [cast(dict[str, Any], token) for token in cast(list[Any], added) if isinstance(token, dict)]
        check_ids((token["id"] for token in tokens if "id" in token), origin)
    for table in charsmaps(document.get("normalizer")):
        check_charsmap(_decoded(table, origin), origin)


def charsmaps(normalizer: Any) -> Iterator[Any]:
    """Yield every `precompiled_charsmap` of a normalizer, also of nested sequences."""
    if not isinstance(normalizer, dict):
        return
    step = cast(dict[str, Any], normalizer)
    if step.get("precompiled_charsmap"):
        yield step["precompiled_charsmap"]
    inner = step.get("normalizers")
    for child in cast(list[Any], inner) if isinstance(inner, list) else []:
        yield from charsmaps(child)


def check_charsmap(table: bytes, origin: Path | str) -> None:
    """Check that a SentencePiece normalisation table has the length that it states: four bytes of size, a trie, texts.

    Raises:
        TokenizerError: it is not.
    """
    size = int.from_bytes(table[:4], "little")
    if len(table) < 4 or size % 4 or size > len(table) - 4:
        raise TokenizerError(
            f"{origin}: the normalisation table says that {size:,} of its {len(table):,} bytes are a trie.",
            hint="the file is damaged; fetch it again.",
        )


def _decoded(table: Any, origin: Path | str) -> bytes:
    try:
        return base64.b64decode(table, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise TokenizerError(f"{origin}: precompiled_charsmap is not base64: {error}.") from error
