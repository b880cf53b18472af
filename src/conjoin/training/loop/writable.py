"""Which of the targets the decoder's tokenizer can write: what is lost between text and ids, no model ever writes."""

import unicodedata
from collections import Counter
from typing import Any

from conjoin.errors import shown
from conjoin.join.diagnosis import Finding, failed, passed
from conjoin.texts.pairs import Pairs
from conjoin.training.data.tokenizing import Room, target_ids

CHECK = "targets"
MOST_CHANGED = 0.01
"""Largest share of targets that may come out otherwise without a word: a rare sign is nobody's worry."""
NAMED = 8
"""Characters that are named at most."""
_CONTEXT = 40
_FIX = "a decoder whose tokenizer keeps them writes them: a cased vocabulary, or one of bytes (byte-level BPE, ByT5)."


def check_targets(pairs: Pairs, tokenizer: Any, room: Room) -> Finding:
    """Compare targets with the texts that their ids stand for; spaces and forms of one character do not count.

    Args:
        room: Targets that fill it are not looked at: they may be cut.
    """
    rows = target_ids(tokenizer, list(pairs.targets), room)
    written: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
    whole = [room.target is None or len(row) < room.target for row in rows]
    compared = [two for two, is_whole in zip(zip(pairs.targets, written, strict=True), whole, strict=True) if is_whole]
    changed = [two for two in compared if _bare(two[0]) != _bare(two[1])]
    if len(changed) <= MOST_CHANGED * len(compared):
        return passed(CHECK, f"{len(compared) - len(changed):,} of {len(compared):,} come back from ids as they were.")
    before, after = (shown(part) for part in _difference(*changed[0]))
    detail = (
        f"{len(changed):,} of {len(compared):,} cannot be written as they are: the tokenizer loses {_losses(changed)}. "
        f"{before} becomes {after}."
    )
    return failed(CHECK, detail, _FIX)


def _bare(text: str) -> str:
    """Return the characters that can be seen, each in one form."""
    return "".join(char for char in unicodedata.normalize("NFKC", text) if unicodedata.category(char)[0] not in "CZ")


def _letters(text: str) -> Counter[str]:
    """Count characters without case and accents."""
    return Counter(char for char in unicodedata.normalize("NFKD", _bare(text).casefold()) if not _is_accent(char))


def _accents(text: str) -> int:
    return sum(map(_is_accent, unicodedata.normalize("NFD", text)))


def _is_accent(char: str) -> bool:
    return unicodedata.category(char) == "Mn"


def _losses(changed: list[tuple[str, str]]) -> str:
    """Say in words what the second text of the pairs lacks."""
    lost: Counter[str] = Counter()
    for text, written in changed:
        lost += _letters(text) - _letters(written)
    kinds: list[str] = []
    if any(any(map(str.isupper, text)) and not any(map(str.isupper, written)) for text, written in changed):
        kinds.append("capital letters")
    if any(_accents(text) > _accents(written) for text, written in changed):
        kinds.append("accents")
    if lost:
        named = " ".join(char for char, _ in lost.most_common(NAMED))
        kinds.append(f"characters ({named}{' ...' if len(lost) > NAMED else ''})")
    return " and ".join(kinds) or "or moves characters"


def _difference(text: str, written: str) -> tuple[str, str]:
    """Return both texts from the word in which they part."""
    words, others = text.split(), written.split()
    parts = (at for at, two in enumerate(zip(words, others, strict=False)) if two[0] != two[1])
    same = next(parts, min(len(words), len(others)))
    return " ".join(words[same:])[:_CONTEXT], " ".join(others[same:])[:_CONTEXT]
