"""Rotary positions as configs spell them: rope_theta + rope_scaling (transformers 4), rope_parameters (5)."""

import math
from collections.abc import Mapping
from typing import Any, cast

from conjoin import spec
from conjoin.errors import ConfigError, shown
from conjoin.families.config import PretrainedConfig
from conjoin.families.layer_types import LAYER_TYPES, LayerType

Words = Mapping[str, Any]

KNOWN = ("default", "linear", "llama3", "longrope", "yarn")


class RopeFields(PretrainedConfig):
    """Fields of every config with rotary positions; each family names the base in its own way."""

    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None


def rotary(
    config: RopeFields, size: int, *, layer_type: LayerType | None = None, older: Words | None = None
) -> spec.Rotary:
    """The rotary positions of one kind of layer.

    Args:
        size: Head size E.
        layer_type: Which entry of a nested `rope_parameters` to read.
        older: What the config's older keys say, in the words of `rope_parameters`; `older_words(config)` by default.

    Raises:
        ConfigError: an unknown rope_type, a missing number, or an odd number of turning dimensions.
    """
    words = {**(older_words(config) if older is None else older), **_newer_words(config, layer_type)}
    if config.rope_scaling and config.rope_parameters and not set(config.rope_parameters) & set(LAYER_TYPES):
        scaling = config.rope_scaling  # the caller's, since files have one of the two
        words |= {"rope_type": scaling["type"], **scaling} if "type" in scaling else scaling
    base = float(words.get("rope_theta") or 10000.0)
    turning = int(size * float(words.get("partial_rotary_factor") or 1.0))
    if turning % 2 or turning < 2:
        raise ConfigError(
            f"{config.model_type}: {turning} of {size} head dimensions would turn; expected an even number."
        )
    return spec.Rotary(base=base, rotary_size=turning, scaling=_scaling(config, words, turning))


def older_words(config: RopeFields, theta: str = "rope_theta", fallback: float | None = None) -> dict[str, Any]:
    """What transformers 4's keys say, in the words of `rope_parameters`.

    Args:
        theta: The family's key for the base.
        fallback: The base where the key is absent or null.
    """
    base = getattr(config, theta, None)
    return {"rope_theta": fallback if base is None else base, **(config.rope_scaling or {})}


def _newer_words(config: RopeFields, layer_type: LayerType | None) -> dict[str, Any]:
    words: dict[str, Any] = config.rope_parameters or {}
    if any(name in words for name in LAYER_TYPES):
        words = words.get(layer_type or "full_attention") or {}
    return {name: value for name, value in words.items() if value is not None}


def _scaling(config: PretrainedConfig, words: Words, turning: int) -> spec.RotaryScaling:
    kind = words.get("rope_type") or words.get("type") or "default"
    try:
        match kind:
            case "default":
                return spec.PlainScaling()
            case "linear":
                return spec.PlainScaling(factor=float(words["factor"]))
            case "llama3":
                return spec.Llama3Scaling(
                    factor=float(words["factor"]),
                    low_freq_factor=float(words["low_freq_factor"]),
                    high_freq_factor=float(words["high_freq_factor"]),
                    original_max_positions=_original_max_positions(config, words),
                )
            case "yarn":
                return _yarn(config, words)
            case "longrope":
                return _longrope(config, words, turning // 2)
            case _:
                raise _unknown(config, kind)
    except KeyError as missing:
        raise ConfigError(
            f'{config.model_type}: rope_type = "{kind}" needs {missing}, which the config lacks.'
        ) from None


def _unknown(config: PretrainedConfig, kind: str) -> ConfigError:
    """Dynamic scaling is unknown by choice.

    Its angles depend on the length of the whole sequence: keys cached at an earlier length would not fit, and padding
    would change results.
    """
    limit = getattr(config, "max_position_embeddings", None)
    hint = f'up to {limit} positions it is plain rotation: set rope_type to "default" if your sequences are no longer.'
    return ConfigError(
        f'{config.model_type}: rope_type = "{kind}", which conjoin does not know.\nExpected: {", ".join(KNOWN)}.',
        hint=hint if kind == "dynamic" else None,
    )


def _original_max_positions(config: PretrainedConfig, words: Words) -> int:
    """Positions that the model was pretrained with, before its rotation was stretched."""
    outside = getattr(config, "original_max_position_embeddings", None)
    return int(outside or words.get("original_max_position_embeddings") or config.max_position_embeddings)


def _yarn(config: PretrainedConfig, words: Words) -> spec.YarnScaling:
    original = _original_max_positions(config, words)
    factor = float(words.get("factor") or config.max_position_embeddings / original)
    attention_factor = words.get("attention_factor")
    if attention_factor is None:
        top, bottom = words.get("mscale"), words.get("mscale_all_dim")
        attention_factor = _mscale(factor, top) / _mscale(factor, bottom) if top and bottom else _mscale(factor, 1.0)
    return spec.YarnScaling(
        factor=factor,
        beta_fast=float(words.get("beta_fast") or 32),
        beta_slow=float(words.get("beta_slow") or 1),
        original_max_positions=original,
        attention_factor=float(attention_factor),
        truncate=bool(words.get("truncate", True)),
    )


def _longrope(config: PretrainedConfig, words: Words, pairs: int) -> spec.LongRope:
    """The short or the long factors, once for all sequences: keys cached under one table do not fit the other.

    Args:
        pairs: Of turning dimensions.

    Raises:
        ConfigError: there is not one number per pair, or less than two original positions.
    """
    original = _original_max_positions(config, words)
    if original < 2:
        raise ConfigError(f"{config.model_type}: original_max_position_embeddings = {original}; expected 2 or more.")
    length: int = getattr(config, "longrope_length", None) or original
    name = "long_factor" if length > original else "short_factor"
    given: Any = words[name]
    factors = cast("list[float]", given) if isinstance(given, list | tuple) else []
    if len(factors) != pairs:
        raise ConfigError(f"{config.model_type}: {name} = {shown(words[name])}; expected {pairs} numbers.")
    stretch = float(words.get("factor") or config.max_position_embeddings / original)
    attention_factor = words.get("attention_factor")
    if attention_factor is None:
        attention_factor = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    return spec.LongRope(
        factors=tuple(map(float, factors)),
        attention_factor=float(attention_factor),
        max_positions=None if length > original else original,
    )


def _mscale(factor: float, weight: float) -> float:
    """YaRN's attention temperature (arXiv:2309.00071, equation 22)."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
