"""The settings of `generate` as fields of a JSON body, made from the table of settings."""

from typing import Annotated, Any

from pydantic import Field, create_model

from conjoin.generation.settings import DEFAULTS, SETTINGS, Settings
from conjoin.serving.dialects.call import Body
from conjoin.serving.limits import settable

_IN_JSON: dict[str, Any] = {
    "sequence_bias": list[list[Any]],
    "exponential_decay_length_penalty": list[float],
    "watermarking_config": dict[str, Any],
}
"""Settings whose Python type JSON lacks."""
_TYPES: dict[str, Any] = {name: kind for name, kind in Settings.__annotations__.items()}


def _field(name: str) -> tuple[Any, Any]:
    setting = SETTINGS[name]
    kind = _IN_JSON[name] | None if name in _IN_JSON else _TYPES[name]
    told = [setting.range.description if setting.range else "", f"most {setting.most}" if setting.most else ""]
    told.append(f"default {DEFAULTS[name]!r}, unless the model has its own" if name in DEFAULTS else "")
    return Annotated[kind, Field(description="; ".join(each for each in told if each))], None


SETTABLE = tuple(name for name in settable(SETTINGS) if not SETTINGS[name].unsupported and not SETTINGS[name].unused)
"""Settings that a request may set."""

_FIELDS: Any = {name: _field(name) for name in (*SETTABLE, "cache_implementation")}
GenerateFields: type[Body] = create_model("GenerateFields", __base__=Body, **_FIELDS)
"""A body with every setting."""


def settings_of(body: Body) -> dict[str, Any]:
    """Return the settings that a body sets, by name."""
    given = body.model_fields_set
    values = {name: getattr(body, name) for name in _FIELDS if name in given}
    return {name: value for name, value in values.items() if value is not None}
