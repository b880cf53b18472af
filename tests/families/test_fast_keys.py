"""The keys whose parity `make test` checks on every backend have all that a model may be made of."""

from dataclasses import fields, is_dataclass
from typing import Any

import oracle
from conjoin import AutoConfig
from conjoin.families import family
from family_pairs import DECODER, ENCODER, KEYS
from lanes import FAST_KEYS

FREQUENCIES = {"Llama3Scaling", "LongRope"}
"""Held to PyTorch's by `test_rotary_frequencies.py`, without a model."""


def kinds(part: Any) -> set[type]:
    """Classes of a spec and of all that is in it."""
    if isinstance(part, tuple):
        return set().union(*map(kinds, part))
    if not is_dataclass(part):
        return set()
    return {type(part)}.union(*(kinds(getattr(part, field.name)) for field in fields(part)))


def kinds_of(key: str) -> set[type]:
    config = AutoConfig.from_dict({"model_type": oracle.model_type(key), **oracle.TINY[key]})
    roles = family(config.model_type)
    found: set[type] = set()
    if roles.encoder is not None:
        found |= kinds(roles.stack(config, "encoder"))
    if roles.decoder is not None:
        found |= kinds(roles.stack(config, "decoder"))
    return found


def test_fast_keys_have_every_kind_of_brick() -> None:
    every = set().union(*map(kinds_of, KEYS))
    fast = set().union(*map(kinds_of, (*FAST_KEYS, ENCODER, DECODER)))
    assert {kind.__name__ for kind in every - fast} <= FREQUENCIES
