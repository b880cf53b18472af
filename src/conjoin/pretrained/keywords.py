"""Keyword arguments of from_pretrained and of joining: sorted, refused, and turned into a config."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conjoin.checkpoint import FROM_KEYWORDS
from conjoin.configuration import AutoConfig, EncoderDecoderConfig
from conjoin.errors import ConfigError, listing, near, warn
from conjoin.families import HUB_KEYWORDS, PretrainedConfig, known_keys
from conjoin.generation import GENERATION_WORDS

_OF_THE_PAIR = {"decoder_start_token_id", *(n for n in GENERATION_WORDS if n.startswith(("encoder_", "decoder_")))}
_IDLE = ("attn_implementation", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors")
"""These choose among ways of loading and computing of which there is only one here."""
_REFUSED = (
    "force_download",
    "ignore_mismatched_sizes",
    "max_memory",
    "offload_folder",
    "output_loading_info",
    "proxies",
    "quantization_config",
    "return_unused_kwargs",
    "state_dict",
    "tp_plan",
    "variant",
)
"""Loading in a way that is not built here."""


@dataclass(frozen=True, slots=True)
class Placing:
    """Who decides where a framework's arrays lie, and how a user has a say."""

    rule: str
    hint: str


def reject_loading_kwargs(keywords: dict[str, Any]) -> None:
    """Take out of `keywords` what tells transformers how to load.

    Raises:
        ConfigError: a keyword asks for what is not built here.
    """
    idle = [name for name in _IDLE if keywords.pop(name, None) is not None]
    if idle:
        warn(f"{', '.join(idle)}: no effect here.")
    refused = [f"{name}={value!r}" for name in _REFUSED if (value := keywords.pop(name, None))]
    if refused:
        raise ConfigError(
            f"{', '.join(refused)}: no such way of loading.",
            hint="tensors of other shapes are always an error; model.quantize makes 8 bits of a loaded model.",
        )


def pop_half_kwargs(role: str, keywords: dict[str, Any]) -> None:
    """`reject_loading_kwargs` of one half, which has no dtype of its own.

    Raises:
        ConfigError: it is asked to have one, or for what is not built here.
    """
    for name in ("dtype", "torch_dtype"):
        if name in keywords:
            raise ConfigError(f"{role}_{name}: both halves of a pair have one dtype.", hint="dtype= sets it.")
    reject_loading_kwargs(keywords)


def pop_generation_kwargs(keywords: dict[str, Any]) -> dict[str, Any]:
    """Take out of the keywords of from_pretrained the settings of `generate`, which win over what the files say."""
    return {name: keywords.pop(name) for name in sorted(GENERATION_WORDS & keywords.keys())}


def reject_unsupported_kwargs(keywords: dict[str, Any], placing: Placing) -> None:
    """Take out of `keywords` what Hugging Face's users know and what is no config value here.

    Raises:
        ConfigError: a keyword asks for what models of plain arrays do not do.
    """
    reject_loading_kwargs(keywords)
    keywords.pop("input_shape", None)  # transformers' Flax class needs it, to trace a first call
    if keywords.pop("_do_init", True) is False:
        raise ConfigError(
            "_do_init=False: a model without parameters.", hint="leave it out; a call may be given others."
        )
    for name in ("device", "device_map"):
        if name in keywords:
            raise ConfigError(f"{name} = {keywords[name]!r}: {placing.rule}", hint=placing.hint)


def find_config(
    folder: Path, config: PretrainedConfig | None, values: dict[str, Any], prefix: str = ""
) -> PretrainedConfig:
    """The config that is given, or the folder's, with values that override it.

    Args:
        prefix: What the user wrote before the names of values.

    Raises:
        ConfigError: unknown model_type, bad JSON, or values of the wrong type, or that no config.json can hold.
    """
    _refuse_unwritable(values, prefix)
    kind = type(config) if config is not None else type(AutoConfig.from_pretrained(folder))
    values = _without_misspelt(kind, values, prefix)
    if config is None:
        return AutoConfig.from_pretrained(folder, **values)
    return config.copy(**values) if values else config


def _refuse_unwritable(values: dict[str, Any], prefix: str) -> None:
    for name, value in values.items():
        try:
            json.dumps(value.to_dict() if isinstance(value, PretrainedConfig) else value)
        except (TypeError, ValueError):
            raise ConfigError(f"{prefix}{name}: config.json cannot hold a {type(value).__name__}.") from None


def _without_misspelt(kind: type[PretrainedConfig], values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Values that the config takes. One that no field takes is kept, as config.json's are, unless it is misspelt."""
    known = known_keys(kind)
    loading = {*HUB_KEYWORDS, *FROM_KEYWORDS, "dtype", "torch_dtype", "config", "model"}
    meant = {name: near(name, {*known, *loading}) for name in values if name not in known}
    told = [
        f"{prefix}{name}: {kind.__name__} has no such field; "
        + (f"left out. Did you mean {prefix}{other}?" if other else "kept in the config, without effect.")
        for name, other in meant.items()
    ]
    if told:
        warn("\n".join(told))
    return {name: value for name, value in values.items() if meant.get(name) is None}


def refuse_misspelt(values: Iterable[str]) -> None:
    """Refuse keywords of a join, without prefix, that are nearly fields of a pair's config.

    Raises:
        ConfigError: names what was likely meant.
    """
    known = known_keys(EncoderDecoderConfig)
    meant = {
        name: near(name, {*known, *HUB_KEYWORDS, *FROM_KEYWORDS, "device"}) for name in values if name not in known
    }
    if told := [f"{name}: did you mean {other}?" for name, other in meant.items() if other]:
        raise ConfigError(f"Keywords that nothing takes:\n{listing(told)}")


def route(keywords: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Sort keywords by prefix; words of the pair's own that begin with one (`decoder_start_token_id`,
    `encoder_no_repeat_ngram_size`) stay with the pair.
    """
    routed: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = ({}, {}, {})
    for name, value in keywords.items():
        side, _, rest = name.partition("_")
        if name in _OF_THE_PAIR or side not in ("encoder", "decoder"):
            routed[2][name] = value
        else:
            routed[0 if side == "encoder" else 1][rest] = value
    return routed


def pair_values(config: PretrainedConfig) -> dict[str, Any]:
    """What a pair's config says besides its halves."""
    values = config.to_dict()
    for name in ("encoder", "decoder", "model_type"):
        values.pop(name, None)
    return values
