"""What only OPT does: positions counted over the mask, a narrow word table, a last norm that old files lack."""

import json
from pathlib import Path

import pytest
import torch

import oracle
from conjoin.families.opt import OPTConfig
from conjoin.torch.pair.halves import Decoder, Encoder

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
OPT_KEYS = [key for key in oracle.CAUSAL_KEYS if oracle.model_type(key) == "opt"]


@pytest.mark.parametrize("key", OPT_KEYS)
def test_pads_on_the_left_take_no_position_in_cached_steps_either(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_decoder(key, tmp_path)
    ids = oracle.batch_for("bert", key)["decoder_input_ids"]
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    expected = oracle.decoder_logits(theirs, ids, mask)
    ours = Decoder.from_pretrained(tmp_path)
    with torch.no_grad():
        first = ours(ids[:, :5], mask[:, :5], use_cache=True)
        pieces, cache = [first.logits], first.past_key_values
        for step in range(5, ids.shape[1]):
            out = ours(ids[:, step : step + 1], mask[:, : step + 1], past_key_values=cache)
            pieces.append(out.logits)
    real = mask[..., None]
    torch.testing.assert_close(torch.cat(pieces, 1) * real, expected * real, **CLOSE)


def test_position_ids_count_from_zero(tmp_path: Path) -> None:
    theirs = oracle.save_decoder("opt", tmp_path)
    ids = oracle.batch_for("bert", "opt")["decoder_input_ids"]
    positions = torch.arange(ids.shape[1]).flip(0)[None].expand_as(ids)
    expected = oracle.decoder_logits(theirs, ids, position_ids=positions)
    with torch.no_grad():
        ours = Decoder.from_pretrained(tmp_path)(ids, position_ids=positions).logits
    torch.testing.assert_close(ours, expected, **CLOSE)


def test_the_last_norm_is_left_out_where_the_config_says_so(tmp_path: Path) -> None:
    oracle.save_decoder("opt", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_remove_final_layer_norm": True}))
    theirs = oracle.reload_decoder(tmp_path, allow=("model.decoder.final_layer_norm",))
    ids = oracle.batch_for("bert", "opt")["decoder_input_ids"]
    ours = Decoder.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, oracle.decoder_logits(theirs, ids), **CLOSE)
    ours.save_pretrained(tmp_path / "ours")
    back = oracle.reload_decoder(tmp_path / "ours")
    torch.testing.assert_close(oracle.decoder_logits(back, ids), oracle.decoder_logits(theirs, ids), rtol=0, atol=0)


def test_the_word_table_is_as_wide_as_the_stack_where_the_config_does_not_say() -> None:
    config = OPTConfig(**{**oracle.TINY["opt"], "word_embed_proj_dim": None})
    assert Encoder.from_config(config).embed.projection is None
