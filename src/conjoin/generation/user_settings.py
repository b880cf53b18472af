"""Generation settings by who set them: the model's file, the call's generation_config, its keyword arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

from conjoin.errors import GenerationError, listing, shown
from conjoin.families import is_id
from conjoin.generation.config import METADATA, GenerationConfig
from conjoin.generation.settings import DEFAULTS, SETTINGS
from conjoin.join import SpecialTokens

GENERATE_ARGUMENTS = (
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "synced_gpus",
    "assistant_model",
    "streamer",
    "tokenizer",
    "negative_prompt_ids",
    "negative_prompt_attention_mask",
)
"""Arguments of `generate` itself, which no config may hold."""


@dataclass(frozen=True, slots=True)
class UserSettings:
    """Settings of one call.

    Args:
        values: The settings that are set, in the order of the table; the call's keyword arguments win over its
            generation_config, and that over the model's.
        by_caller: Names of the settings that this call sets, by keyword argument or generation_config.
        unknown: Keys of the call's generation_config that are not settings.
    """

    values: Mapping[str, Any]
    by_caller: frozenset[str]
    unknown: tuple[str, ...] = ()

    def get(self, name: str) -> Any:
        """Return the setting's value, or its default, or None if it has no default."""
        value = self.values.get(name)
        return DEFAULTS.get(name) if value is None else value

    def has(self, name: str) -> bool:
        """True if this call sets the setting to another value than its default."""
        return name in self.by_caller and self.values.get(name) not in (None, DEFAULTS.get(name))


def collect(config: GenerationConfig, overrides: Mapping[str, Any], given: Any | None = None) -> UserSettings:
    """Merge the settings of a call.

    Args:
        config: The model's own.
        overrides: The call's keyword arguments. None means "not set".
        given: The call's `generation_config=`.

    Raises:
        GenerationError: keyword arguments are not settings; it names all of them, and similar names.
    """
    wrong = [_unknown(name) for name in overrides if name not in SETTINGS]
    if wrong:
        raise GenerationError(f"generate() does not know these arguments:\n{listing(wrong)}")
    own = None if given is None or given is config else GenerationConfig.of(given)
    caller = own.set_values() if own is not None else {}
    caller |= {name: value for name, value in overrides.items() if value is not None}
    extras = own.extras if own is not None else {}
    inherited = config.extras
    unknown = tuple(
        name for name, value in extras.items() if name not in METADATA and inherited.get(name, extras) != value
    )
    values = {**config.set_values(), **caller}
    return UserSettings({name: values[name] for name in SETTINGS if name in values}, frozenset(caller), unknown)


def _unknown(name: str) -> str:
    close = get_close_matches(name, GenerationConfig.FIELDS, n=1)
    return f"{name}: did you mean {close[0]}?" if close else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Special token ids of one call, in the decoder's vocabulary.

    Args:
        start: One id for all sources, or one per source; () if unknown.
        pad: Fills results after their end.
        eos: Each of these ends a result; () for none.
    """

    start: tuple[int, ...]
    pad: int | None
    eos: tuple[int, ...]
    bos: int | None


def resolve_tokens(settings: UserSettings, known: SpecialTokens) -> Tokens:
    """Return the call's special tokens, or else the model's.

    The start falls back to bos, and pad to the first eos, as in transformers.

    Raises:
        GenerationError: ids are not whole numbers, or larger than any vocabulary; it names all of them.
    """
    bos = _single(_first(settings.values.get("bos_token_id"), known.bos))
    eos = _ids(_first(settings.values.get("eos_token_id"), known.eos))
    start = _first(settings.values.get("decoder_start_token_id"), known.start, bos)
    pad = _single(_first(settings.values.get("pad_token_id"), known.pad, eos[0] if eos else None))
    tokens = Tokens(start=() if start is None else _ids(start), pad=pad, eos=eos, bos=bos)
    single = {"pad_token_id": pad, "bos_token_id": bos}
    ids = {"decoder_start_token_id": tokens.start, "eos_token_id": eos}
    ids |= {name: (value,) for name, value in single.items() if value is not None}
    wrong = [f"{name} holds {shown(i)}; expected token ids" for name in ids for i in ids[name] if not is_id(i)]
    if wrong:
        raise GenerationError(f"generate() cannot use these special tokens:\n{listing(wrong)}")
    return tokens


def _ids(value: Any) -> tuple[int, ...]:
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(cast(Sequence[int], value)) if isinstance(value, list | tuple) else (value,)


def _single(value: Any) -> Any:
    if not hasattr(value, "tolist"):
        return value
    ids = _ids(value)
    return ids[0] if len(ids) == 1 else ids


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
