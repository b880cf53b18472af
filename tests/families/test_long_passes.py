"""Fifty tokens at once: what short batches cannot show, such as how a decoder counts far distances."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import oracle
from conjoin.families import MODULES, family
from conjoin.torch.pair.halves import Decoder, Encoder
from conjoin.torch.pair.model import EncoderDecoderModel
from lanes import lanes_of_families
from oracle_masks import causal_logits

KEYS = [key for key in oracle.TINY if oracle.model_type(key) in MODULES and not key.endswith("/dynamic")]
ENCODERS = [key for key in KEYS if family(oracle.model_type(key)).encoder is not None]
HALVES_ONLY = {*oracle.WHOLE_FAMILIES} & {*oracle.WITHOUT_CAUSAL_LM}
DECODERS = [
    key
    for key in KEYS
    if oracle.model_type(key) not in HALVES_ONLY and family(oracle.model_type(key)).decoder is not None
]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def assert_close(ours: Tensor, theirs: Tensor, mask: Tensor) -> None:
    torch.testing.assert_close(ours * mask[..., None], theirs * mask[..., None], **CLOSE)


def long_batch(key: str) -> oracle.Batch:
    return oracle.batch_for(key, S=50, T=50)


@pytest.mark.parametrize("key", lanes_of_families(ENCODERS))
def test_an_encoder_gives_transformers_states(key: str, tmp_path: Path) -> None:
    batch = long_batch(key)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if family(oracle.model_type(key)).encoder == "bidirectional":
        expected = oracle.bidirectional_states(oracle.save_decoder(key, tmp_path), ids, mask)
    else:
        expected = oracle.encoder_states(oracle.save_encoder(key, tmp_path), ids, mask)
    with torch.no_grad():
        assert_close(Encoder.from_pretrained(tmp_path)(ids, mask).last_hidden_state, expected, mask)


@pytest.mark.parametrize("key", lanes_of_families(DECODERS))
def test_a_decoder_gives_transformers_logits(key: str, tmp_path: Path) -> None:
    batch = oracle.batch(oracle.target_words(key), enc_pad=oracle.TINY[key]["pad_token_id"], S=50, T=50)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if oracle.model_type(key) in oracle.WITHOUT_CAUSAL_LM:
        expected = causal_logits(oracle.save_encoder(key, tmp_path, head="mlm"), ids, mask)
    else:
        expected = oracle.decoder_logits(oracle.save_decoder(key, tmp_path), ids, mask)
    with torch.no_grad():
        assert_close(Decoder.from_pretrained(tmp_path)(ids, mask).logits, expected, mask)


@pytest.mark.parametrize("key", oracle.WHOLE_KEYS)
def test_a_whole_model_gives_transformers_logits(key: str, tmp_path: Path) -> None:
    batch = long_batch(key)
    theirs = oracle.save_whole(key, tmp_path)
    with torch.no_grad():
        expected = theirs(**batch, use_cache=False).logits
        logits = EncoderDecoderModel.from_pretrained(tmp_path)(**batch, use_cache=False).logits
    torch.testing.assert_close(logits, expected, **CLOSE)


GROUPED = [key for key in DECODERS if oracle.TINY[key].get("num_key_value_heads") == 3]


@pytest.mark.parametrize("key", [key for key in GROUPED if oracle.model_type(key) not in oracle.WITHOUT_CAUSAL_LM])
def test_weights_of_grouped_heads_are_transformers(key: str, tmp_path: Path) -> None:
    ids = oracle.batch_for(key, S=50, padded=False)["input_ids"]
    theirs = oracle.save_decoder(key, tmp_path)
    with torch.no_grad():
        expected = theirs(ids, use_cache=False, output_attentions=True).attentions
        weights = Decoder.from_pretrained(tmp_path)(ids, output_attentions=True).attentions
    torch.testing.assert_close(weights, expected, **CLOSE)
