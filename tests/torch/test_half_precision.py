"""In bfloat16 and float16 every family stays as close to float32 as transformers does, and close to transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle
from conjoin import EncoderDecoderModel
from conjoin.torch.cpu.linear import Linear
from conjoin.torch.pair.halves import Decoder, Encoder
from pairs import LLAMA, TARGET, batch, fresh

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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", ["t5", "t5/gated", "mt5"])
def test_a_t5_whose_numbers_float16_does_not_hold_stays_near_float32(
    key: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    theirs = oracle.save_whole(key, tmp_path)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.mul_(3e3 if ".wo." in name else 40 if ".wi" in name else 1)
    theirs.save_pretrained(tmp_path)
    given = oracle.batch_for(key)
    exact = EncoderDecoderModel.from_pretrained(tmp_path)
    ours = EncoderDecoderModel.from_pretrained(tmp_path, dtype=dtype)
    truth, out = exact(**given), ours.train()(**given)
    assert out.logits.dtype == dtype
    assert distance(out.logits, truth.logits) < 5e-2
    out.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in ours.parameters())
    ours = ours.eval()
    ids, mask = given["input_ids"], given["attention_mask"]
    for beams in (1, 3):
        written = ours.generate(ids, attention_mask=mask, num_beams=beams, max_new_tokens=5)
        assert (written[:, 1:] != 0).any()
    ours.save_pretrained(tmp_path / "half")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "half")
    assert again.dtype == dtype
    assert torch.equal(again(**given).logits, ours(**given).logits)


def _read_by_layers(model: EncoderDecoderModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the linear layers of both halves read in a training step under autocast, by name."""
    read: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            module.register_forward_pre_hook(lambda _, args, name=name: read.update({name: args[0]}))
    with torch.autocast("cpu", dtype):
        model.train()(**batch()).loss.backward()
    return read


@pytest.mark.parametrize("decoder", [TARGET, LLAMA])
@pytest.mark.parametrize("dtype", DTYPES)
def test_autocast_to_bfloat16_converts_once_what_several_layers_read(decoder: Any, dtype: torch.dtype) -> None:
    read = _read_by_layers(fresh(decoder=decoder), dtype)
    siblings = [("self_attn.q", "self_attn.k", "self_attn.v"), ("cross_attn.k", "cross_attn.v"), ("mlp.gate", "mlp.up")]
    compared = 0
    for name in read:
        for first, *others in siblings:
            if name.endswith(first):
                compared += 1
                own, same = read[name], [read[name.removesuffix(first) + other] for other in others]
                assert (own.dtype == torch.bfloat16) == (dtype == torch.bfloat16)
                assert all(other is own for other in same)
    assert compared >= 6
    assert (LLAMA is not decoder) or any(name.endswith("mlp.gate") for name in read)
