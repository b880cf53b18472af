"""Joining: the origin of every parameter, and the ids that start, end and pad targets. Plans and reports, no arrays."""

from conjoin._lazy import public_dir
from conjoin.join.convert import convert_checkpoint
from conjoin.join.fresh import FreshStart, first_numbers, fresh_names, record, recorded, with_record
from conjoin.join.languages import set_languages, start_of_language, target_language
from conjoin.join.layers import (
    LayerNames,
    keep_layers_of,
    parameters_of_kept,
    require_same_layers,
    sources_of_kept,
)
from conjoin.join.names import dialect, half_offer, names_of_all, pair_names, pair_offer
from conjoin.join.pair import graft, half_spec, pair_spec, shared_names
from conjoin.join.parts import parts_named
from conjoin.join.plan import (
    Computed,
    Copied,
    CopiedFresh,
    Drawn,
    InMemory,
    JoinReport,
    Offer,
    Tied,
    may_be_fresh,
    never_fresh,
    part_of,
    plan_half,
    plan_join,
    plan_random,
    random_half,
    unshared,
    untied_head,
)
from conjoin.join.quantized import QUANTIZED, is_quantized, plan_quantized, require_plain_weights
from conjoin.join.sinusoids import sinusoids
from conjoin.join.stored import has_own_head, joining_offer, loosen_sharing, untie_half, untie_head
from conjoin.join.tokenizers import (
    OneFolder,
    TwoFolders,
    complete_tokens,
    has_tokenizer,
    target_tokenizer,
    with_ends,
)
from conjoin.join.tokens import (
    SpecialTokens,
    fill_special_tokens,
    lacks_tokens,
    require_pad,
    require_start,
    special_tokens,
    starts_with_last_label,
)

__all__ = [
    "QUANTIZED",
    "Computed",
    "Copied",
    "CopiedFresh",
    "Drawn",
    "FreshStart",
    "InMemory",
    "JoinReport",
    "LayerNames",
    "Offer",
    "OneFolder",
    "SpecialTokens",
    "Tied",
    "TwoFolders",
    "complete_tokens",
    "convert_checkpoint",
    "dialect",
    "fill_special_tokens",
    "first_numbers",
    "fresh_names",
    "graft",
    "half_offer",
    "half_spec",
    "has_own_head",
    "has_tokenizer",
    "is_quantized",
    "joining_offer",
    "keep_layers_of",
    "lacks_tokens",
    "loosen_sharing",
    "may_be_fresh",
    "names_of_all",
    "never_fresh",
    "pair_names",
    "pair_offer",
    "pair_spec",
    "parameters_of_kept",
    "part_of",
    "parts_named",
    "plan_half",
    "plan_join",
    "plan_quantized",
    "plan_random",
    "random_half",
    "record",
    "recorded",
    "require_pad",
    "require_plain_weights",
    "require_same_layers",
    "require_start",
    "set_languages",
    "shared_names",
    "sinusoids",
    "sources_of_kept",
    "special_tokens",
    "start_of_language",
    "starts_with_last_label",
    "target_language",
    "target_tokenizer",
    "unshared",
    "untie_half",
    "untie_head",
    "untied_head",
    "with_ends",
    "with_record",
]

__dir__ = public_dir(__all__)
