"""What transformers' config classes have: their own fields and defaults."""

from dataclasses import MISSING, fields
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

__all__ = ["default_fields"]


def default_fields(model_type: str) -> dict[str, Any]:
    """The fields that a family's class adds to the base class, with their defaults."""
    kind = type(AutoConfig.for_model(model_type))
    shared = {field.name for field in fields(PreTrainedConfig)}
    return {f.name: f.default for f in fields(kind) if f.name not in shared and f.default is not MISSING}
