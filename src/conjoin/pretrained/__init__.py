"""What every backend does around its arrays: keywords, plans, tokenizers and settings that travel with a model."""

from conjoin._lazy import public_dir
from conjoin.pretrained.fresh import RemembersFresh
from conjoin.pretrained.keywords import (
    find_config,
    pair_values,
    refuse_misspelt,
    route,
    take_generation_words,
    take_loading_words,
    take_words_of_half,
)
from conjoin.pretrained.plans import joining_offer, loosen_sharing, untie_head
from conjoin.pretrained.settings import WithGenerationConfig, without_generation_words
from conjoin.pretrained.tokenizing import WithTokenizer

__all__ = [
    "RemembersFresh",
    "WithGenerationConfig",
    "WithTokenizer",
    "find_config",
    "joining_offer",
    "loosen_sharing",
    "pair_values",
    "refuse_misspelt",
    "route",
    "take_generation_words",
    "take_loading_words",
    "take_words_of_half",
    "untie_head",
    "without_generation_words",
]

__dir__ = public_dir(__all__)
