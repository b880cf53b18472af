"""Texts of single tokens, as they stand in the text that the tokens make together."""

from collections.abc import Sequence
from typing import Any

from conjoin.serving.request import Likely

_WINDOW = 4
"""Tokens before one that decide how it is written: its space, the bytes of a character."""


def token_texts(tokenizer: Any, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    """Return what each token adds to the text; together they are the text, but for what tokenizers clean up.

    Args:
        before: Ids that stand before these.
    """
    if not ids:
        return []
    whole = [*before, *ids]
    first = len(before)
    windows = [whole[max(0, place - _WINDOW) : place + 1] for place in range(first, len(whole))]
    rows = tokenizer.batch_decode([*windows, *(window[:-1] for window in windows)], skip_special_tokens=True)
    texts: list[str] = []
    for token, text, shorter in zip(ids, rows[: len(windows)], rows[len(windows) :], strict=True):
        if token in set(tokenizer.all_special_ids):
            texts.append("")
        else:
            texts.append(text[len(shorter) :] if text.startswith(shorter) else text[-1:])
    return texts


def likeliest(tokenizer: Any, tops: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[Likely, ...]]:
    """Return the likeliest tokens of each place, from their ids and log-probabilities."""
    ids = sorted({token for top in tops for token, _ in top})
    texts = dict(zip(ids, tokenizer.batch_decode([[token] for token in ids], skip_special_tokens=False), strict=True))
    special = set(tokenizer.all_special_ids)
    return [
        tuple(Likely(id=id, text=texts[id], logprob=logprob, special=id in special) for id, logprob in top)
        for top in tops
    ]
