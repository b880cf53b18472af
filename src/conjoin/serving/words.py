"""Texts of single tokens, as they stand in the text that the tokens make together."""

from collections.abc import Sequence
from typing import Any

from conjoin.serving.request import Likely

_WINDOW = 4
"""Tokens before one that decide how it is written: its space, the bytes of a character."""

_INCOMPLETE = "\ufffd"
"""What stands for bytes that are no character yet."""


def token_texts(tokenizer: Any, ids: Sequence[int], before: Sequence[int] = (), *, is_end: bool = False) -> list[str]:
    """Return what each token adds to the text; together they are the text, but for what tokenizers clean up.

    A character of several tokens is added by the last of them.

    Args:
        before: Ids that stand before these.
        is_end: No tokens follow, which could complete a character: what there is of it is added too.
    """
    if not ids:
        return []
    whole = [*before, *ids]
    first = len(before)
    windows = [whole[max(0, place - _WINDOW) : place + 1] for place in range(first, len(whole))]
    rows = tokenizer.batch_decode([*windows, *(window[:-1] for window in windows)], skip_special_tokens=True)
    texts: list[str] = []
    special = set(tokenizer.all_special_ids)
    for place, (token, *pair) in enumerate(zip(ids, rows[: len(windows)], rows[len(windows) :], strict=True)):
        # A window that does not begin with the text may begin inside a character.
        text, shorter = pair if first + place <= _WINDOW else [each.lstrip(_INCOMPLETE) for each in pair]
        known = shorter.rstrip(_INCOMPLETE)
        added = text[len(known) :] if text.startswith(known) else text[-1:]
        is_last = is_end and place == len(ids) - 1
        texts.append("" if token in special else added if is_last else added.rstrip(_INCOMPLETE))
    return _with_rest(tokenizer, texts, whole, first) if is_end else texts


def _with_rest(tokenizer: Any, texts: list[str], whole: Sequence[int], first: int) -> list[str]:
    """Give the last token what a window was too short to show: an end of many bytes that are no character."""
    text, before, joined = (*tokenizer.batch_decode([whole, whole[:first]], skip_special_tokens=True), "".join(texts))
    rest = text.removeprefix(before)
    return [*texts[:-1], texts[-1] + rest[len(joined) :]] if rest.startswith(joined) else texts


def likeliest(tokenizer: Any, tops: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[Likely, ...]]:
    """Return the likeliest tokens of each place, from their ids and log-probabilities."""
    ids = sorted({token for top in tops for token, _ in top})
    texts = dict(zip(ids, tokenizer.batch_decode([[token] for token in ids], skip_special_tokens=False), strict=True))
    special = set(tokenizer.all_special_ids)
    return [
        tuple(Likely(id=id, text=texts[id], logprob=logprob, special=id in special) for id, logprob in top)
        for top in tops
    ]
