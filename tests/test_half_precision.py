"""In bfloat16 and float16 every family stays as close to float32 as transformers does, and close to transformers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import oracle
from conjoin.torch.halves import Decoder, Encoder

DECODERS = [
    "llama",
    "llama/yarn",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gpt_neox",
    "modernbert-decoder",
]
DTYPES = [torch.bfloat16, torch.float16]


def distance(one: Tensor, other: Tensor) -> float:
    """Length of the difference, in lengths of `other`."""
    return ((one.float() - other.float()).norm() / other.float().norm()).item()


@pytest.mark.parametrize("key", DECODERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_decoder_in_half_precision_stays_near_transformers(key: str, dtype: torch.dtype, tmp_path: Path) -> None:
    exact = oracle.save_decoder(key, tmp_path)
    ids = oracle.batch_for("bert", key, padded=False)["decoder_input_ids"]
    theirs = oracle.decoder_logits(oracle.reload_decoder(tmp_path, dtype=dtype), ids)
    with torch.no_grad():
        ours = Decoder.from_pretrained(tmp_path, dtype=dtype)(ids).logits
    assert ours.dtype == theirs.dtype == dtype
    assert distance(ours, theirs) < 2e-2
    truth = oracle.decoder_logits(exact, ids)
    assert distance(ours, truth) < 1.5 * distance(theirs, truth)


@pytest.mark.parametrize("key", ["modernbert", "modernbert/biases"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_encoder_in_half_precision_stays_near_transformers(key: str, dtype: torch.dtype, tmp_path: Path) -> None:
    oracle.save_encoder(key, tmp_path)
    ids = oracle.batch_for(key, padded=False)["input_ids"]
    theirs = oracle.encoder_states(oracle.reload_encoder(tmp_path, dtype=dtype), ids)
    with torch.no_grad():
        ours = Encoder.from_pretrained(tmp_path, dtype=dtype)(ids).last_hidden_state
    assert ours.dtype == theirs.dtype == dtype
    assert distance(ours, theirs) < 2e-2


@pytest.mark.parametrize("key", ["gemma2", "gemma3_text"])
def test_gemmas_embedding_scale_is_rounded_to_the_weights_dtype(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_decoder(key, tmp_path)
    ids = torch.arange(11, 31)[None]
    ours = Decoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    rounded = torch.tensor(theirs.config.hidden_size**0.5).bfloat16()
    assert rounded.item() != theirs.config.hidden_size**0.5
    assert torch.equal(ours.embed.look_up(ids), ours.embed.words.weight[ids] * rounded)
