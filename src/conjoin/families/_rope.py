"""Rotary positions as configs spell them: rope_theta + rope_scaling (transformers 4), rope_parameters (5)."""

import math
from typing import Any

from conjoin import spec
from conjoin.errors import ConfigError
from conjoin.families._config import PretrainedConfig


def rotary(
    config: PretrainedConfig, size: int, *, layer_type: str | None = None, theta: float = 10000.0, fraction: float = 1.0
) -> spec.Rotary:
    """The rotary positions of one kind of layer.

    Args:
        size: Head size E.
        layer_type: Key of a nested `rope_parameters` ("full_attention", "sliding_attention").
        theta, fraction: Used where the config says nothing.

    Raises:
        ConfigError: an unknown rope_type, a missing number, or an odd number of turning dimensions.
    """
    words = _words(config, layer_type)
    base = float(words.get("rope_theta") or theta)
    turning = int(size * float(words.get("partial_rotary_factor") or fraction))
    if turning % 2 or turning < 2:
        raise ConfigError(f"{config.model_type}: {turning} of {size} head dimensions would turn; expected an even number.")
    return spec.Rotary(base=base, rotary_size=turning, scaling=_scaling(config, words))


def _words(config: PretrainedConfig, layer_type: str | None) -> dict[str, Any]:
    """Both spellings, merged into the newer one."""
    words: dict[str, Any] = {}
    for key in ("rope_theta", "partial_rotary_factor"):
        if getattr(config, key, None) is not None:
            words[key] = getattr(config, key)
    words |= getattr(config, "rope_scaling", None) or {}
    newer = getattr(config, "rope_parameters", None) or {}
    if newer and all(isinstance(value, dict) for value in newer.values()):
        newer = newer.get(layer_type or "full_attention") or {}
    return words | newer


def _scaling(
    config: PretrainedConfig, words: dict[str, Any]
) -> spec.PlainScaling | spec.Llama3Scaling | spec.YarnScaling:
    kind = words.get("rope_type", words.get("type", "default"))
    original = words.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
    try:
        match kind:
            case "default" | None:
                return spec.PlainScaling()
            case "linear":
                return spec.PlainScaling(factor=float(words["factor"]))
            case "llama3":
                return spec.Llama3Scaling(
                    factor=float(words["factor"]),
                    low_freq_factor=float(words["low_freq_factor"]),
                    high_freq_factor=float(words["high_freq_factor"]),
                    original_max_positions=int(original),
                )
            case "yarn":
                return _yarn(config, words, int(original))
            case _:
                raise ConfigError(
                    f'{config.model_type}: rope_type = "{kind}", which conjoin does not know.\n'
                    "Expected one of: default, linear, llama3, yarn."
                )
    except KeyError as missing:
        raise ConfigError(f'{config.model_type}: rope_type = "{kind}" needs {missing}, which the config lacks.') from None


def _yarn(config: PretrainedConfig, words: dict[str, Any], original: int) -> spec.YarnScaling:
    factor = words.get("factor")
    if factor is None:
        factor = config.max_position_embeddings / original
    attention_factor = words.get("attention_factor")
    if attention_factor is None:
        top, bottom = words.get("mscale"), words.get("mscale_all_dim")
        both = bool(top and bottom)
        attention_factor = _mscale(factor, top) / _mscale(factor, bottom) if both else _mscale(factor, 1.0)
    return spec.YarnScaling(
        factor=float(factor),
        beta_fast=float(words.get("beta_fast") or 32),
        beta_slow=float(words.get("beta_slow") or 1),
        original_max_positions=original,
        attention_factor=float(attention_factor),
        truncate=bool(words.get("truncate", True)),
    )


def _mscale(factor: float, weight: Any) -> float:
    """YaRN's attention temperature (arXiv:2309.00071, equation 22)."""
    return 1.0 if factor <= 1 else 0.1 * float(weight) * math.log(factor) + 1.0
