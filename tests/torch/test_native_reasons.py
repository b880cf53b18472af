"""What the native passes lack is told from the spec, as the table of families and `conjoin inspect` do, and is so."""

from dataclasses import replace
from typing import Any

import pytest

import oracle
from conjoin import AutoConfig
from conjoin.families import family
from conjoin.spec.native import reason_against
from conjoin.torch.cpu import native
from conjoin.torch.pair.halves import Decoder, Encoder
from family_pairs import KEYS
from lanes import lanes_of_families


def halves_of(key: str) -> list[Any]:
    config = AutoConfig.from_dict({"model_type": oracle.model_type(key), **oracle.TINY[key]})
    kind = family(config.model_type)
    halves = ((Encoder, kind.encoder), (Decoder, kind.decoder))
    return [half.from_config(config) for half, how in halves if how is not None]


@pytest.mark.skipif(not native.has("float32"), reason="no C++ compiler, or no AVX-512")
@pytest.mark.parametrize("key", lanes_of_families(KEYS))
def test_the_passes_take_what_the_spec_says_that_they_take(key: str) -> None:
    for half in halves_of(key):
        passes = native.NativeStack.of(half)
        takes_all = passes is not None and passes.embeds and (half.role == "encoder" or passes.scores)
        assert takes_all == (reason_against(half.spec) is None), half.role


def test_what_is_lacking_is_named() -> None:
    stack = halves_of("bert")[0].spec
    mixed = replace(stack, blocks=(replace(stack.blocks[0], causal=True), *stack.blocks[1:]))
    assert reason_against(mixed) == "some blocks are causal and others are not"
