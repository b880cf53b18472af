"""Joining: which parameter comes from where, and which ids start, end and pad a target. Plans and reports, no arrays."""

from conjoin.join.names import half_offer, pair_names, pair_offer
from conjoin.join.pair import graft, half_spec, pair_spec, shared_names
from conjoin.join.plan import (
    Copied,
    CopiedFresh,
    Drawn,
    Given,
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
    untied_head,
)
from conjoin.join.sinusoids import sinusoids
from conjoin.join.tokens import (
    SpecialTokens,
    fill_special_tokens,
    require_pad,
    require_start,
    special_tokens,
    starts_with_last_label,
)

__all__ = [
    "Copied",
    "CopiedFresh",
    "Drawn",
    "Given",
    "JoinReport",
    "Offer",
    "SpecialTokens",
    "Tied",
    "fill_special_tokens",
    "graft",
    "half_offer",
    "half_spec",
    "pair_names",
    "pair_offer",
    "pair_spec",
    "may_be_fresh",
    "never_fresh",
    "part_of",
    "plan_half",
    "plan_join",
    "plan_random",
    "random_half",
    "require_pad",
    "require_start",
    "shared_names",
    "sinusoids",
    "special_tokens",
    "starts_with_last_label",
    "untied_head",
]
