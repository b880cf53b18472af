"""Every family, in every role, computes on TensorFlow what the PyTorch backend computes from the same parameters."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import torch

import oracle
from conjoin import EncoderDecoderModel
from conjoin.families import MODULES
from conjoin.tensorflow.programs import How, Net, decode, forward, start_cache
from pairs import save_half, stir
from tf_models import arrays_of, assert_close, inputs

KEYS = [key for key in oracle.TINY if oracle.model_type(key) in MODULES and not key.endswith("/dynamic")]
PIECES = ((0, 4), (4, 5), (5, 6))


def joined(encoder: str, decoder: str, folder: Path) -> EncoderDecoderModel:
    save_half(folder / "encoder", encoder, "encoder")
    save_half(folder / "decoder", decoder, "decoder")
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        folder / "encoder", folder / "decoder", decoder_start_token_id=oracle.START_ID
    )
    return stir(model)


def everything(net: Net, params: Any, batch: Any) -> tuple[Any, list[Any]]:
    """A full pass, and the targets once more: four together, then two one by one."""
    model = net.scope(params)
    full = forward(net, How(), model, batch)
    cache, pieces = start_cache(net, 2, 13, model, full.encoder_last_hidden_state, padded=False), []
    for start, end in PIECES:
        step = {
            "decoder_input_ids": batch["decoder_input_ids"][:, start:end],
            "attention_mask": batch["attention_mask"],
        }
        decoded, cache = decode(net, How(), model, step, None, cache)
        pieces.append(decoded.logits)
    return full, pieces


@pytest.mark.parametrize("index", range(len(KEYS)), ids=KEYS)
def test_a_family_reads_and_writes_what_torch_does(index: int, tmp_path: Path) -> None:
    """Each key is once the encoder and once the decoder, on a padded batch; every sixth pair traced too."""
    encoder, decoder = KEYS[index], KEYS[(index + 7) % len(KEYS)]
    model = joined(encoder, decoder, tmp_path)
    batch = oracle.batch_for(encoder, decoder)
    with torch.no_grad():
        expected = model(**batch, use_cache=False)
        plain = model(batch["input_ids"], batch["attention_mask"], batch["decoder_input_ids"], use_cache=False).logits
    net, params, given = Net(model.spec), arrays_of(model), inputs(batch)
    runs = [lambda: everything(net, params, given)]
    if index % 6 == 0:
        runs.append(tf.function(runs[0], jit_compile=index % 12 == 0, autograph=False))
    for run in runs:
        found, pieces = run()
        assert_close(found.encoder_last_hidden_state, expected.encoder_last_hidden_state, batch["attention_mask"])
        assert_close(found.logits, expected.logits, batch["decoder_attention_mask"])
        assert_close(found.loss, expected.loss)
        for piece, (start, end) in zip(pieces, PIECES, strict=True):
            assert_close(piece, plain[:, start:end])
