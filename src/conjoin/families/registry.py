"""model_type -> family, imported when first asked for."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from conjoin.errors import ConfigError
from conjoin.families.config import PretrainedConfig
from conjoin.families.record import Family
from conjoin.families.wrappers import text_part
from conjoin.model_types import ALIASES, MODULES, ROTARY


@cache
def family(model_type: str) -> Family:
    """The family of a config.json's model_type.

    Raises:
        ConfigError: conjoin does not know it.
    """
    model_type = ALIASES.get(model_type, model_type)
    if model_type not in MODULES:
        raise ConfigError(
            f"model_type = {model_type!r} is not a family that conjoin knows.\nKnown: {', '.join(sorted(MODULES))}.",
            hint="a family is one file of about 100 lines; CONTRIBUTING.md shows how to add one.",
        )
    module = import_module(f"conjoin.families.{MODULES[model_type].split('.')[0]}")
    families: tuple[Family, ...] = getattr(module, "FAMILIES", None) or (module.FAMILY,)
    return next(f for f in families if f.model_type == model_type)


def families() -> dict[str, Family]:
    """Every family, by model_type."""
    return {name: family(name) for name in sorted(MODULES)}


def config_from_dict(values: Mapping[str, Any], **overrides: Any) -> PretrainedConfig:
    """The config object of what a single model's config.json holds; of a multimodal one's, that of its text part.

    Args:
        overrides: Values in place of the file's, whichever of a field's names either has.

    Raises:
        ConfigError: no model_type, or an unknown one.
    """
    values = text_part(values)
    values = {**values, "model_type": overrides.pop("model_type", values.get("model_type"))}
    model_type = values["model_type"]
    if not isinstance(model_type, str):
        raise ConfigError(
            f"The config has model_type = {model_type!r}; expected one of: {', '.join(sorted(MODULES))}.",
            hint='very old checkpoints lack it: add "model_type": "bert" (or what it is) to config.json.',
        )
    positions = overrides.get("position_embedding_type", values.get("position_embedding_type"))
    if positions == "rotary" and model_type in ROTARY:
        values = {**values, "model_type": (model_type := ROTARY[model_type])}
    return family(model_type).config.from_dict(values, **overrides)
