"""What fresh parameters start as, where a family has rules of its own."""

from typing import Any

import pytest
import torch

import oracle
from conjoin import AutoConfig, T5Config
from conjoin.torch.model.norm import RMSNorm
from conjoin.torch.pair.halves import Encoder


@pytest.mark.parametrize("key", ["gemma2", "gemma3_text", "llama", "t5"])
def test_a_fresh_norm_scales_by_1_whether_it_adds_1_or_not(key: str) -> None:
    config: Any = AutoConfig.from_dict({"model_type": oracle.model_type(key), **oracle.TINY[key]})
    norms = [module for module in Encoder.from_config(config).modules() if isinstance(module, RMSNorm)]
    assert norms and all(torch.equal(norm.weight + norm.kind.offset, torch.ones_like(norm.weight)) for norm in norms)


def test_fresh_queries_of_t5_are_divided_by_what_its_scores_are_not() -> None:
    torch.manual_seed(0)
    attention = Encoder.from_config(T5Config(d_model=256, d_kv=16, num_heads=16, num_layers=1)).blocks[0].self_attn
    expected = {"q": (256 * 16) ** -0.5, "k": 256**-0.5}
    for name, std in expected.items():
        assert getattr(attention, name).weight.std().item() == pytest.approx(std, rel=0.02)
