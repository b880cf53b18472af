"""Every family, in every role that it has, computes what transformers computes from the same files."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import oracle
from conjoin import AutoConfig
from conjoin.families import MODULES, families
from conjoin.torch.pair.halves import Decoder, Encoder
from lanes import lanes_of_families

SUPPORTED = [key for key in oracle.TINY if oracle.model_type(key) in MODULES and not key.endswith("/dynamic")]
CAUSAL = [key for key in SUPPORTED if families()[oracle.model_type(key)].encoder == "bidirectional"]
NATIVE = [key for key in SUPPORTED if families()[oracle.model_type(key)].encoder != "bidirectional"]
STANDALONE = [key for key in SUPPORTED if oracle.model_type(key) not in oracle.WITHOUT_CAUSAL_LM]

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def real(states: Tensor, mask: Tensor) -> Tensor:
    """Zero what stands at padding, which nobody reads."""
    return states * mask[..., None]


@pytest.mark.parametrize("key", lanes_of_families(NATIVE))
@pytest.mark.parametrize("head", ["none", "mlm"])
def test_an_encoder_gives_transformers_states_on_a_padded_batch(key: str, head: oracle.Head, tmp_path: Path) -> None:
    theirs = oracle.save_encoder(key, tmp_path, head=head)
    batch = oracle.batch_for(key)
    ours = Encoder.from_pretrained(tmp_path)(batch["input_ids"], batch["attention_mask"])
    expected = oracle.encoder_states(theirs, batch["input_ids"], batch["attention_mask"])
    mask = batch["attention_mask"]
    torch.testing.assert_close(real(ours.last_hidden_state, mask), real(expected, mask), **CLOSE)


@pytest.mark.parametrize("key", lanes_of_families(CAUSAL))
def test_a_causal_lm_becomes_an_encoder_that_reads_both_ways(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_decoder(key, tmp_path)
    batch = oracle.batch_for(key)
    ours = Encoder.from_pretrained(tmp_path)(batch["input_ids"], batch["attention_mask"])
    expected = oracle.bidirectional_states(theirs, batch["input_ids"], batch["attention_mask"])
    mask = batch["attention_mask"]
    torch.testing.assert_close(real(ours.last_hidden_state, mask), real(expected, mask), **CLOSE)


@pytest.mark.parametrize("key", lanes_of_families(STANDALONE))
def test_a_decoder_without_an_encoder_is_transformers_causal_lm(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_decoder(key, tmp_path)
    batch = oracle.batch_for("bert", key)
    ours = Decoder.from_pretrained(tmp_path)
    ids, mask = batch["decoder_input_ids"], batch["decoder_attention_mask"]
    expected = oracle.decoder_logits(theirs, ids, mask)
    torch.testing.assert_close(real(ours(ids, mask).logits, mask), real(expected, mask), **CLOSE)


@pytest.mark.parametrize("key", lanes_of_families(STANDALONE))
def test_cached_steps_give_what_one_full_pass_gives(key: str, tmp_path: Path) -> None:
    oracle.save_decoder(key, tmp_path)
    ids = oracle.batch_for("bert", key)["decoder_input_ids"]
    decoder = Decoder.from_pretrained(tmp_path)
    with torch.no_grad():
        full = decoder(ids).logits
        first = decoder(ids[:, :4], use_cache=True)
        pieces, cache = [first.logits], first.past_key_values
        for step in range(4, ids.shape[1]):
            pieces.append(decoder(ids[:, step : step + 1], past_key_values=cache).logits)
    torch.testing.assert_close(torch.cat(pieces, 1), full, **CLOSE)


@pytest.mark.parametrize("key", lanes_of_families(SUPPORTED))
def test_a_config_written_by_transformers_4_gives_the_same_encoder(key: str, tmp_path: Path) -> None:
    oracle.save_encoder(key, tmp_path)
    batch = oracle.batch_for(key)
    newer = Encoder.from_pretrained(tmp_path)(batch["input_ids"], batch["attention_mask"])
    oracle.legacy_config(tmp_path)
    older = Encoder.from_pretrained(tmp_path)(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(newer.last_hidden_state, older.last_hidden_state)


@pytest.mark.parametrize("key", lanes_of_families(NATIVE))
def test_transformers_reads_the_encoder_that_we_save(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_encoder(key, tmp_path / "theirs")
    Encoder.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    batch = oracle.batch_for(key)
    back = oracle.reload_encoder(tmp_path / "ours", allow=("pooler.", "decoder."))
    states = [oracle.encoder_states(m, batch["input_ids"], batch["attention_mask"]) for m in (theirs, back)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    "key", lanes_of_families([key for key in STANDALONE if oracle.model_type(key) not in oracle.WHOLE_FAMILIES])
)
def test_transformers_reads_the_decoder_that_we_save(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_decoder(key, tmp_path / "theirs")
    Decoder.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    ids = oracle.batch_for("bert", key)["decoder_input_ids"]
    turned = {"is_decoder": True} if key in NATIVE else {}
    fresh = (
        ("bert.pooler.",) if oracle.model_type(key) == "big_bird" else ()
    )  # its causal LM has one, which nothing reads
    back = oracle.reload_decoder(tmp_path / "ours", allow=fresh, **turned)
    torch.testing.assert_close(oracle.decoder_logits(back, ids), oracle.decoder_logits(theirs, ids), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["bart", "marian", "pegasus", "m2m_100"])
def test_a_callers_number_of_layers_wins_over_the_files(kind: str, tmp_path: Path) -> None:
    """Files of these families say it twice: encoder_layers, and num_hidden_layers behind it."""
    words = {"model_type": kind, "encoder_layers": 6, "decoder_layers": 6, "num_hidden_layers": 6}
    (tmp_path / "config.json").write_text(json.dumps(words))
    assert AutoConfig.from_pretrained(tmp_path).encoder_layers == 6
    for name in ("encoder_layers", "num_hidden_layers"):
        assert AutoConfig.from_pretrained(tmp_path, **{name: 3}).encoder_layers == 3
