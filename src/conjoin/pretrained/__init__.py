"""What every backend does around its arrays: keyword arguments, sources of parameters, settings, tokenizers."""

from conjoin._lazy import public_dir
from conjoin.pretrained.keywords import (
    find_config,
    pair_values,
    pop_generation_kwargs,
    pop_half_kwargs,
    refuse_misspelt,
    reject_loading_kwargs,
    route,
)
from conjoin.pretrained.model import JoinedModel

__all__ = [
    "JoinedModel",
    "find_config",
    "pair_values",
    "pop_generation_kwargs",
    "pop_half_kwargs",
    "refuse_misspelt",
    "reject_loading_kwargs",
    "route",
]

__dir__ = public_dir(__all__)
