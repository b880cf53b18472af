"""transformers loads what we save, and we what it saves, for every pair of families that it can hold."""

from pathlib import Path

import pytest
import torch

import oracle
from conjoin import EncoderDecoderConfig, EncoderDecoderModel
from conjoin.families import MODULES, config_from_dict
from lanes import covering
from pairs import CLOSE, joined, stir

KEYS = list(dict.fromkeys(oracle.model_type(key) for key in oracle.TINY))
HELD = [(e, d) for e in KEYS for d in KEYS if oracle.can_hold(e, d) and e in MODULES and d in MODULES]
PARTNERS = ("bert", "gpt2", "t5", "bart", "llama")
"""Whom every family meets where all are asked."""
COVER = covering(pair for i, pair in enumerate(HELD) if i % 3 == 0)
"""Every third, so that each family meets several others on either side; once on either side in the fast lane."""


def test_our_word_on_what_transformers_can_hold_is_true() -> None:
    configs = {key: config_from_dict({"model_type": key, **oracle.TINY[key]}) for key in KEYS}
    pairs = [(e, d) for e in KEYS for d in KEYS if e in PARTNERS or d in PARTNERS]
    said = [
        pair
        for pair in pairs
        if EncoderDecoderConfig.from_encoder_decoder_configs(*map(configs.__getitem__, pair)).transformers_can_hold
    ]
    assert said == [pair for pair in pairs if pair in HELD]


@pytest.mark.parametrize(("encoder", "decoder"), COVER)
def test_a_pair_goes_to_transformers_and_back(encoder: str, decoder: str, tmp_path: Path) -> None:
    model = stir(joined(tmp_path, encoder, decoder))
    data = oracle.batch_for(encoder, decoder)
    model.save_pretrained(tmp_path / "ours")
    theirs = oracle.reload_pair(tmp_path / "ours", allow=["encoder.pooler."])
    expected = oracle.pair_outputs(theirs, data)
    found = model(**data)
    torch.testing.assert_close(found.logits, expected.logits, **CLOSE)
    torch.testing.assert_close(found.loss, expected.loss, **CLOSE)
    assert theirs.generation_config.decoder_start_token_id == oracle.START_ID
    theirs.save_pretrained(tmp_path / "theirs")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "theirs")
    assert torch.equal(again(**data).logits, found.logits)


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "decoder"), HELD)
def test_every_pair_that_transformers_saves_is_read(encoder: str, decoder: str, tmp_path: Path) -> None:
    theirs = oracle.save_pair(encoder, decoder, tmp_path)
    data = oracle.batch_for(encoder, decoder)
    expected = oracle.pair_outputs(theirs, data)
    model = EncoderDecoderModel.from_pretrained(tmp_path)
    torch.testing.assert_close(model(**data).logits, expected.logits, **CLOSE)
    ids = model.generate(data["input_ids"], attention_mask=data["attention_mask"], max_new_tokens=8)
    assert torch.equal(ids, oracle.greedy(theirs, data["input_ids"], data["attention_mask"], 8))
