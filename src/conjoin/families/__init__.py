"""Checkpoint families: config.json -> spec, and tensor names <-> canonical names. No arrays, no framework."""

from conjoin._lazy import public_dir
from conjoin.families.config import HUB_KEYWORDS, PretrainedConfig, parts_hidden
from conjoin.families.ids import is_id, is_id_field, without_negative
from conjoin.families.known_keys import GENERATION_KEYS, known_keys
from conjoin.families.layers import KeptLayers, Layers, keep_layers, parse_indices, parse_layers, spread
from conjoin.families.record import Family, Role, Whole, whole_names
from conjoin.families.registry import config_from_dict, families, family
from conjoin.families.wrappers import WRAPPERS, text_part
from conjoin.model_types import MODULES

__all__ = [
    "GENERATION_KEYS",
    "HUB_KEYWORDS",
    "MODULES",
    "WRAPPERS",
    "Family",
    "KeptLayers",
    "Layers",
    "PretrainedConfig",
    "Role",
    "Whole",
    "config_from_dict",
    "families",
    "family",
    "is_id",
    "is_id_field",
    "keep_layers",
    "known_keys",
    "parse_indices",
    "parse_layers",
    "parts_hidden",
    "spread",
    "text_part",
    "whole_names",
    "without_negative",
]

__dir__ = public_dir(__all__)
