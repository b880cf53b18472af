"""Decoders that people have: their folders load as they are, and compute what transformers computes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import oracle
from conjoin.torch.pair.halves import Decoder, Encoder
from known_layouts_decoders import KNOWN, SIZES

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def published(name: str, folder: Path) -> Any:
    """Write a folder with the config.json of a checkpoint on the hub, but for its sizes, and random weights."""
    known = KNOWN[name]
    fields = {**SIZES, **known.sizes, **known.config}
    theirs = oracle.save_config_of(
        known.model_type, {name: value for name, value in fields.items() if name != "torch_dtype"}, folder
    )
    (folder / "config.json").write_text(json.dumps({**fields, "model_type": known.model_type}))
    if known.bare:
        weights = load_file(folder / "model.safetensors")
        save_file(
            {name.removeprefix("model.").removeprefix("transformer."): weight for name, weight in weights.items()},
            folder / "model.safetensors",
        )
    return theirs


@pytest.mark.parametrize("name", KNOWN)
def test_a_published_folder_computes_what_transformers_computes(name: str, tmp_path: Path) -> None:
    theirs = published(name, tmp_path)
    batch = oracle.batch(dec_vocab=SIZES["vocab_size"], dec_pad=SIZES["pad_token_id"])
    ids, mask = batch["decoder_input_ids"], batch["decoder_attention_mask"]
    with torch.no_grad():
        ours = Decoder.from_pretrained(tmp_path)(ids, mask).logits.float()
        states = Encoder.from_pretrained(tmp_path)(ids, mask).last_hidden_state.float()
    expected = oracle.bidirectional_states(theirs, ids, mask)
    torch.testing.assert_close(states * mask[..., None], expected * mask[..., None], **CLOSE)
    expected = oracle.decoder_logits(theirs, ids, mask)
    torch.testing.assert_close(ours * mask[..., None], expected * mask[..., None], **CLOSE)
