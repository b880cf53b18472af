"""What old checkpoints of causal language models carry besides weights, and how they name things."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import oracle
from conjoin.errors import ConfigError
from conjoin.torch.pair.halves import Decoder
from conjoin.torch.pair.model import EncoderDecoderModel

BUFFERS = {
    "llama": {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        "model.rotary_emb.inv_freq": torch.ones(2),
    },
    "gpt_neox": {
        "gpt_neox.layers.1.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
        "gpt_neox.layers.1.attention.masked_bias": torch.tensor(-1e9),
        "gpt_neox.layers.1.attention.rotary_emb.inv_freq": torch.ones(2),
    },
}


def rewrite(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Replace a checkpoint's tensors."""
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("key", BUFFERS)
def test_stored_buffers_of_rotation_and_masks_are_neither_read_nor_called_unused(key: str, tmp_path: Path) -> None:
    oracle.save_encoder("bert", tmp_path / "encoder")
    theirs = oracle.save_decoder(key, tmp_path / "decoder")
    rewrite(tmp_path / "decoder", load_file(tmp_path / "decoder" / "model.safetensors") | BUFFERS[key])
    ids = oracle.batch_for("bert", key)["decoder_input_ids"]
    expected = oracle.decoder_logits(theirs, ids)
    torch.testing.assert_close(
        Decoder.from_pretrained(tmp_path / "decoder")(ids).logits, expected, rtol=1e-5, atol=1e-5
    )
    joined = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "encoder", tmp_path / "decoder")
    unused = [name for names in joined.join_report.unused.values() for name in names]
    assert not set(unused) & set(BUFFERS[key])


@pytest.mark.parametrize("name", ["embed_out.weight", "lm_head.weight"])
def test_gpt_neoxs_head_is_found_under_both_of_its_names(name: str, tmp_path: Path) -> None:
    theirs = oracle.save_decoder("gpt_neox", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    rewrite(tmp_path, {name if old == "embed_out.weight" else old: tensor for old, tensor in tensors.items()})
    ids = oracle.batch_for("bert", "gpt_neox")["decoder_input_ids"]
    expected = oracle.decoder_logits(theirs, ids)
    torch.testing.assert_close(Decoder.from_pretrained(tmp_path)(ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_bare_causal_model_without_its_prefix_is_read_too(tmp_path: Path) -> None:
    theirs = oracle.save_decoder("gemma2", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    rewrite(tmp_path, {name.removeprefix("model."): tensor for name, tensor in tensors.items()})
    ids = oracle.batch_for("bert", "gemma2")["decoder_input_ids"]
    expected = oracle.decoder_logits(theirs, ids)
    torch.testing.assert_close(Decoder.from_pretrained(tmp_path)(ids).logits, expected, rtol=1e-5, atol=1e-5)


def test_heads_that_do_not_fall_into_equal_groups_are_an_error(tmp_path: Path) -> None:
    oracle.save_decoder("llama", tmp_path)
    with pytest.raises(ConfigError, match="num_attention_heads = 3 is not a multiple of num_key_value_heads = 2"):
        Decoder.from_pretrained(tmp_path, num_key_value_heads=2)


@pytest.mark.parametrize(("encoder", "decoder"), [("modernbert", "bert/small"), ("modernbert/biases", "gpt2")])
def test_a_pair_with_modernbert_that_transformers_saved_is_the_same_pair_here(
    encoder: str, decoder: str, tmp_path: Path
) -> None:
    theirs = oracle.save_pair(encoder, decoder, tmp_path)
    batch = oracle.batch_for(encoder, decoder)
    expected = oracle.pair_outputs(theirs, batch)
    ours = EncoderDecoderModel.from_pretrained(tmp_path)(**batch)
    torch.testing.assert_close(ours.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.loss, expected.loss, rtol=1e-5, atol=1e-5)
