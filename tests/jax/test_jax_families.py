"""Every family, in every role, computes on JAX what the PyTorch backend computes from the same parameters."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import pytest
import torch

import oracle
from conjoin import EncoderDecoderModel
from conjoin.families import MODULES
from conjoin.jax.programs import How, Net, decode, forward, start_cache
from jax_models import arrays_of, assert_close, inputs
from pairs import save_half, stir

KEYS = [key for key in oracle.TINY if oracle.model_type(key) in MODULES and not key.endswith("/dynamic")]


def joined(encoder: str, decoder: str, folder: Path, **keywords: Any) -> EncoderDecoderModel:
    save_half(folder / "encoder", encoder, "encoder")
    save_half(folder / "decoder", decoder, "decoder")
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        folder / "encoder", folder / "decoder", decoder_start_token_id=oracle.START_ID, **keywords
    )
    return stir(model)


@partial(jax.jit, static_argnums=0)
def everything(net: Net, params: Any, batch: Any) -> tuple[Any, list[Any]]:
    """A full pass, and the targets once more: four together, then two one by one."""
    full = forward(net, How(), params, batch, None)
    cache = start_cache(net, 2, 13, params, full.encoder_last_hidden_state)
    pieces = []
    for start, end in ((0, 4), (4, 5), (5, 6)):
        step = {
            "decoder_input_ids": batch["decoder_input_ids"][:, start:end],
            "attention_mask": batch["attention_mask"],
        }
        decoded = decode(net, How(), params, step, None, cache, None)
        cache = decoded.past_key_values
        pieces.append(decoded.logits)
    return full, pieces


@pytest.mark.parametrize("index", range(len(KEYS)), ids=KEYS)
def test_a_family_reads_and_writes_what_torch_does(index: int, tmp_path: Path) -> None:
    """Each key is once the encoder and once the decoder, on a padded batch."""
    encoder, decoder = KEYS[index], KEYS[(index + 7) % len(KEYS)]
    model = joined(encoder, decoder, tmp_path)
    batch = oracle.batch_for(encoder, decoder)
    with torch.no_grad():
        expected = model(**batch, use_cache=False)
        plain = model(batch["input_ids"], batch["attention_mask"], batch["decoder_input_ids"], use_cache=False).logits
    found, pieces = everything(Net(model.spec), arrays_of(model), inputs(batch))
    assert_close(found.encoder_last_hidden_state, expected.encoder_last_hidden_state, batch["attention_mask"])
    assert_close(found.logits, expected.logits, batch["decoder_attention_mask"])
    assert_close(found.loss, expected.loss)
    for piece, (start, end) in zip(pieces, ((0, 4), (4, 5), (5, 6)), strict=True):
        assert_close(piece, plain[:, start:end])
