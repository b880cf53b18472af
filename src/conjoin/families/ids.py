"""Ids of special tokens as other people's configs spell them."""

from typing import Any, cast

from conjoin.limits import VOCAB


def is_id_field(name: str) -> bool:
    """Whether a config's key holds ids of tokens: pad_token_id, eos_token_id, decoder_start_token_id ...

    Models of images call them indices: image_token_index.
    """
    return name.endswith(("_token_id", "_token_ids", "_token_index"))


def is_id(value: Any) -> bool:
    """Whether some vocabulary could have this id; a negative one may stand for "none"."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < VOCAB


def without_negative(value: Any) -> Any:
    """An id, or a list of them, where a negative one means "none", as in LLaMA's first configs: pad_token_id = -1."""
    if isinstance(value, list | tuple):
        kept = [item for item in cast("list[Any]", value) if not _is_negative(item)]
        return kept if len(kept) == len(cast("list[Any]", value)) else kept or None
    return None if _is_negative(value) else value


def _is_negative(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value < 0
