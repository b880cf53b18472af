"""Multimodal checkpoints: their text part is read, under every name that it has had, and saved as the text model."""

import json
from pathlib import Path

import pytest
import torch

import oracle
from conjoin import AutoConfig, ConfigError, EncoderDecoderModel, shrink
from conjoin.families import config_from_dict
from conjoin.torch.pair.halves import Decoder, Encoder
from oracle_wrapped import LAYOUTS, WRAPPED, Layout, logits, save_wrapped, text_model

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", WRAPPED)
def test_the_text_part_computes_what_the_whole_model_computes_of_a_text(
    kind: str, layout: Layout, tmp_path: Path
) -> None:
    theirs = save_wrapped(kind, tmp_path, layout, tie_word_embeddings=False)
    batch = oracle.batch_for("bert", WRAPPED[kind])
    ids, mask = batch["decoder_input_ids"], batch["decoder_attention_mask"]
    with torch.no_grad():
        ours = Decoder.from_pretrained(tmp_path)(ids, mask).logits
        states = Encoder.from_pretrained(tmp_path)(ids, mask).last_hidden_state
    torch.testing.assert_close(ours * mask[..., None], logits(theirs, batch) * mask[..., None], **CLOSE)
    expected = oracle.bidirectional_states(text_model(theirs), ids, mask)
    torch.testing.assert_close(states * mask[..., None], expected * mask[..., None], **CLOSE)


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_head_that_the_whole_config_ties_is_tied(kind: str, tmp_path: Path) -> None:
    theirs = save_wrapped(kind, tmp_path, tie_word_embeddings=True)
    batch = oracle.batch_for("bert", WRAPPED[kind], padded=False)
    with torch.no_grad():
        ours = Decoder.from_pretrained(tmp_path)(batch["decoder_input_ids"]).logits
    torch.testing.assert_close(ours, logits(theirs, batch), **CLOSE)


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_is_saved_is_the_text_model(kind: str, tmp_path: Path) -> None:
    theirs = save_wrapped(kind, tmp_path / "theirs", tie_word_embeddings=False)
    Decoder.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    assert json.loads((tmp_path / "ours/config.json").read_text())["model_type"] == oracle.model_type(WRAPPED[kind])
    ids = oracle.batch_for("bert", WRAPPED[kind])["decoder_input_ids"]
    back = oracle.reload_decoder(tmp_path / "ours")
    torch.testing.assert_close(oracle.decoder_logits(back, ids), oracle.decoder_logits(theirs, ids), rtol=0, atol=0)


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_join_names_the_tensors_of_other_parts_as_unused(kind: str, tmp_path: Path) -> None:
    save_wrapped(kind, tmp_path / "decoder")
    oracle.save_encoder("bert", tmp_path / "encoder")
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        tmp_path / "encoder", tmp_path / "decoder", decoder_start_token_id=oracle.START_ID
    )
    assert model.config.decoder.model_type == oracle.model_type(WRAPPED[kind])
    unused = next(names for label, names in model.join_report.unused.items() if label.startswith("decoder"))
    assert unused and all("vision_tower" in name or "multi_modal_projector" in name for name in unused)


def test_what_overrides_a_config_is_said_of_the_text_part(tmp_path: Path) -> None:
    save_wrapped("gemma3", tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, sliding_window=5, eos_token_id=12)
    assert (config.model_type, config.sliding_window, config.eos_token_id) == ("gemma3_text", 5, 12)


def test_special_ids_of_the_whole_hold_for_a_text_part_without_its_own() -> None:
    whole = {"model_type": "gemma3", "eos_token_id": [1, 106], "pad_token_id": 3, "torch_dtype": "bfloat16"}
    config = config_from_dict({**whole, "text_config": {"pad_token_id": 0, "hidden_size": 2560}})
    assert (config.eos_token_id, config.pad_token_id, config.dtype) == ([1, 106], 0, "bfloat16")


def test_a_text_part_of_an_unknown_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="'gemma3n_text' is not a family that conjoin knows"):
        config_from_dict({"model_type": "gemma3", "text_config": {"model_type": "gemma3n_text"}})
    with pytest.raises(ConfigError, match=r"mistral3: config\.json has text_config = None; expected an object"):
        config_from_dict({"model_type": "mistral3"})


def test_its_files_are_not_operated_on(tmp_path: Path) -> None:
    save_wrapped("gemma3", tmp_path / "whole")
    with pytest.raises(ConfigError, match=r"(?s)multimodal model \(gemma3\).*join its text part first"):
        shrink(tmp_path / "whole", tmp_path / "out", decoder_layers=2)
