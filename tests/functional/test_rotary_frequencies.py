"""The rotary frequencies of JAX and TensorFlow, which numpy computes, are PyTorch's for every scaling."""

from typing import Any

import numpy as np
import pytest
import torch

import oracle
from conjoin import AutoConfig
from conjoin.families import family
from conjoin.functional.positions import rotary_frequencies
from conjoin.spec import Rotary
from conjoin.torch.model.positions import rotary_frequencies as torchs
from family_pairs import KEYS


def rotaries(key: str) -> list[Rotary]:
    config: Any = AutoConfig.from_dict({"model_type": oracle.model_type(key), **oracle.TINY[key]})
    roles = family(config.model_type)
    stack = roles.stack(config, "decoder" if roles.decoder is not None else "encoder")
    return [block.self_attn.rotary for block in stack.blocks if block.self_attn.rotary is not None]


@pytest.mark.parametrize("key", [key for key in KEYS if rotaries(key)])
def test_frequencies_are_pytorchs(key: str) -> None:
    for kind in rotaries(key):
        expected = torchs(kind, torch.device("cpu")).numpy()
        np.testing.assert_allclose(rotary_frequencies(kind), expected, rtol=1e-6)
