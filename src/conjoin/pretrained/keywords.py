"""Keywords of from_pretrained and of joining, sorted; and the config that they leave."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conjoin.configuration import AutoConfig
from conjoin.errors import ConfigError, ConjoinWarning
from conjoin.families import PretrainedConfig
from conjoin.generation import GenerationConfig

_IDLE = ("attn_implementation", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors")
"""They choose among ways of loading and computing of which arrays have one."""


@dataclass(frozen=True, slots=True)
class Placing:
    """Who decides where a framework's arrays lie, and how a user has a say."""

    rule: str
    hint: str


def refuse_torch_words(keywords: dict[str, Any], placing: Placing) -> None:
    """Take out of `keywords` what Hugging Face's users know and what is no config value here.

    Raises:
        ConfigError: a keyword asks for what models of plain arrays do not do.
    """
    idle = [name for name in _IDLE if keywords.pop(name, None) is not None]
    if idle:
        warnings.warn(f"{', '.join(idle)}: no effect here.", ConjoinWarning, stacklevel=3)
    if keywords.pop("_do_init", True) is False:
        raise ConfigError(
            "_do_init=False: a model without parameters.", hint="leave it out; a call may be given others."
        )
    if keywords.pop("ignore_mismatched_sizes", False):
        raise ConfigError("ignore_mismatched_sizes=True: tensors of other shapes are an error here.")
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
        ConfigError: unknown model_type, bad JSON, or values of the wrong type.
    """
    if config is None:
        found = AutoConfig.from_pretrained(folder, **values)
    else:
        found = config.copy(**values) if values else config
    _warn_of_unknown(found, values, prefix)
    return found


def _warn_of_unknown(config: PretrainedConfig, names: Iterable[str], prefix: str) -> None:
    """Tell of values that no field of the config takes: they are kept, as config.json's are, and change nothing."""
    fields = {name for base in type(config).__mro__ for name in vars(base).get("__annotations__", {})}
    older = {*config.attribute_map, "conjoin", "tie_encoder_decoder", *GenerationConfig().to_dict()}
    unknown = [prefix + name for name in names if name not in fields | older]
    if unknown:
        warnings.warn(
            f"{', '.join(unknown)}: {type(config).__name__} has no such field; kept in the config, without effect.",
            ConjoinWarning,
            stacklevel=5,
        )


def route(keywords: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Sort keywords by prefix; ids of the pair that start with `decoder_` stay with the pair."""
    routed: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = ({}, {}, {})
    for name, value in keywords.items():
        side, _, rest = name.partition("_")
        if name == "decoder_start_token_id" or side not in ("encoder", "decoder"):
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
