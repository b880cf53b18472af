"""What each value of a GGUF file's metadata must be, looked at before anything is made of it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from conjoin.errors import shown


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of value, and its name in messages."""

    name: str
    holds: Callable[[Any], bool]


def _whole(least: int) -> _Kind:
    return _Kind(f"a whole number of at least {least}", lambda value: type(value) is int and value >= least)


def _list_of(items: str, kind: _Kind) -> _Kind:
    return _Kind(f"a list of {items}", lambda value: type(value) is list and all(map(kind.holds, cast(Any, value))))


_COUNT, _ID = _whole(1), _whole(0)
_REAL = _Kind("a finite number", lambda value: type(value) in (int, float) and math.isfinite(value))
_TEXT = _Kind("a text", lambda value: isinstance(value, str))
_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_BYTE = _Kind("a byte", lambda value: type(value) is int and -128 <= value < 256)

_FILE = {"general.architecture": _TEXT, "general.alignment": _COUNT, "split.count": _ID}
_COUNTS = (
    "vocab_size", "context_length", "embedding_length", "feed_forward_length", "block_count", "decoder_block_count",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.sliding_window", "attention.relative_buckets_count", "rope.dimension_count",
    "rope.scaling.original_context_length",
)  # fmt: skip
_REALS = (
    "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "rope.freq_base", "rope.freq_base_swa",
    "rope.scaling.factor", "rope.scale_linear", "attn_logit_softcapping", "final_logit_softcapping",
)  # fmt: skip
_MODEL = {
    **dict.fromkeys(_COUNTS, _COUNT),
    **dict.fromkeys(_REALS, _REAL),
    "expert_count": _ID,
    "decoder_start_token_id": _ID,
    "rope.scaling.type": _TEXT,
}
_TOKENIZER = {
    "tokenizer.ggml.model": _TEXT,
    "tokenizer.ggml.pre": _TEXT,
    "tokenizer.ggml.tokens": _list_of("texts", _TEXT),
    "tokenizer.ggml.merges": _list_of("texts", _TEXT),
    "tokenizer.ggml.scores": _list_of("finite numbers", _REAL),
    "tokenizer.ggml.token_type": _list_of("whole numbers", _ID),
    "tokenizer.ggml.precompiled_charsmap": _list_of("bytes", _BYTE),
    **dict.fromkeys(
        (f"tokenizer.ggml.{name}" for name in ("add_bos_token", "add_eos_token", "add_space_prefix")), _FLAG
    ),
    **{f"tokenizer.ggml.{name}_token_id": _ID for name in ("bos", "eos", "unknown", "padding")},
    "tokenizer.chat_template": _TEXT,
}


def wrong_values(metadata: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the values that conjoin reads; others may be anything.

    A setting of the model may be a list too, a value for every layer.
    """
    prefix = f"{metadata.get('general.architecture')}."
    kinds = {**_FILE, **_TOKENIZER, **{prefix + key: kind for key, kind in _MODEL.items()}}
    return [
        f"{key} = {shown(value)}; expected {kinds[key].name}"
        for key, value in metadata.items()
        if key in kinds and not all(map(kinds[key].holds, _each_layers(value) if key.startswith(prefix) else [value]))
    ]


def _each_layers(value: Any) -> list[Any]:
    return cast("list[Any]", value) if type(value) is list and value else [value]
