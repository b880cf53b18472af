"""What translation checkpoints have of their own: tables that files lack, two vocabularies, their settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import oracle
from conjoin import EncoderDecoderModel, Engine
from conjoin.errors import ConfigError, ShapeError
from conjoin.families import config_from_dict, family
from conjoin.join import sinusoids
from conjoin.spec import Parameter, Sinusoidal
from conjoin.torch.pair.halves import Decoder, Encoder

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
pytestmark = pytest.mark.slow


def table(rows: int, size: int, **waves: Any) -> np.ndarray:
    position = Sinusoidal(max_positions=rows, **waves)
    return sinusoids(Parameter(shape=(rows, size), kind="sinusoid", axes=("position", "hidden"), waves=position))


def logits_of(model: Any, batch: oracle.Batch) -> Tensor:
    with torch.no_grad():
        return model(**{name: ids for name, ids in batch.items() if name != "labels"}, use_cache=False).logits


def generated(model: Any, batch: oracle.Batch, **settings: Any) -> Tensor:
    with torch.no_grad():
        return model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **settings)


def add(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file({**load_file(folder / "model.safetensors"), **tensors}, folder / "model.safetensors")


@pytest.mark.parametrize("size", [20, 15])
@pytest.mark.parametrize("key", ["m2m_100", "xglm"])
def test_tables_that_no_file_holds_are_transformers(key: str, size: int, tmp_path: Path) -> None:
    made = oracle.build_config(
        key, d_model=size, encoder_attention_heads=5, decoder_attention_heads=5, attention_heads=5
    )
    theirs = oracle.AutoModel.from_config(made)
    expected = next(buffer for name, buffer in theirs.named_buffers() if "embed_positions" in name)
    ours = family(key).stack(config_from_dict({**made.to_dict(), "model_type": key}), "decoder")
    found = table(len(expected), size, layout="halves", style="tensor2tensor", zero_row=3)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-6)
    assert ours.embedding.position_rows == (64 + 3 + 1 if key == "m2m_100" else 64 + 2)


@pytest.mark.parametrize("size", [20, 15])
def test_marians_table_is_transformers(size: int) -> None:
    made = oracle.build_config("marian", d_model=size, encoder_attention_heads=5, decoder_attention_heads=5)
    expected = oracle.AutoModel.from_config(made).encoder.embed_positions.create_weight()
    found = torch.from_numpy(table(64, size, layout="halves"))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_marian_file_of_transformers_4_holds_its_table_and_is_written_without(tmp_path: Path) -> None:
    theirs = oracle.save_whole("marian", tmp_path)
    names = [f"model.{half}.embed_positions.weight" for half in ("encoder", "decoder")]
    assert not set(names) & set(load_file(tmp_path / "model.safetensors"))
    add(tmp_path, {name: torch.from_numpy(table(64, 20, layout="halves")) for name in names})
    ours, batch = EncoderDecoderModel.from_pretrained(tmp_path), oracle.batch_for("marian")
    assert not any(ours.join_report.unused.values())
    torch.testing.assert_close(logits_of(ours, batch), logits_of(theirs, batch), **CLOSE)
    ours.save_pretrained(tmp_path / "ours")
    assert not set(names) & set(load_file(tmp_path / "ours" / "model.safetensors"))


def test_a_halfs_own_table_wins_over_the_computed_one(tmp_path: Path) -> None:
    theirs = oracle.save_encoder("marian", tmp_path)
    other = torch.randn(64, 20)
    add(tmp_path, {"encoder.embed_positions.weight": other})
    assert torch.equal(Encoder.from_pretrained(tmp_path).embed.positions.weight, other)
    assert not theirs.encoder.embed_positions.weight.requires_grad


def test_an_m2m_100_file_of_transformers_4_holds_a_table_that_is_left_out(tmp_path: Path) -> None:
    theirs = oracle.save_whole("m2m_100", tmp_path)
    add(tmp_path, {"model.encoder.embed_positions.weights": torch.zeros(66, 20)})
    ours, batch = EncoderDecoderModel.from_pretrained(tmp_path), oracle.batch_for("m2m_100")
    assert not any(ours.join_report.unused.values()) and not ours.join_report.fresh
    torch.testing.assert_close(logits_of(ours, batch), logits_of(theirs, batch), **CLOSE)


def test_a_computed_table_is_as_long_as_the_config_asks(tmp_path: Path) -> None:
    theirs = oracle.save_whole("m2m_100", tmp_path)
    batch = oracle.batch_for("m2m_100", S=70, T=70)
    with pytest.raises(ShapeError, match="70 positions, but this checkpoint's position table has 64"):
        EncoderDecoderModel.from_pretrained(tmp_path)(**batch)
    ours = EncoderDecoderModel.from_pretrained(tmp_path, max_position_embeddings=80)
    torch.testing.assert_close(logits_of(ours, batch), logits_of(theirs, batch), **CLOSE)


def test_positions_that_depend_on_padding_need_its_id() -> None:
    config = family("m2m_100").config(**{**oracle.TINY["m2m_100"], "pad_token_id": None})
    with pytest.raises(ConfigError, match="m2m_100: pad_token_id is not set"):
        family("m2m_100").stack(config, "encoder")


def test_one_word_table_has_one_size() -> None:
    config = family("marian").config(**{**oracle.TINY["marian"], "decoder_vocab_size": 41})
    with pytest.raises(ConfigError, match="vocab_size = 53 and decoder_vocab_size = 41"):
        EncoderDecoderModel(config=config)


def test_prompts_are_refused() -> None:
    config = family("mvp").config(**{**oracle.TINY["mvp"], "use_prompt": True})
    with pytest.raises(ConfigError, match="use_prompt = true"):
        EncoderDecoderModel(config=config)


@pytest.mark.parametrize("kept", ["model.decoder.embed_tokens.weight", "lm_head.weight"])
def test_the_decoders_own_words_are_found_under_whichever_name_a_file_kept(kept: str, tmp_path: Path) -> None:
    key = "marian/two_vocabularies"
    theirs = oracle.save_whole(key, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    found = [name for name in ("model.decoder.embed_tokens.weight", "lm_head.weight") if name in stored]
    words = stored[found[0]]
    for name in found:
        del stored[name]
    save_file({**stored, kept: words}, tmp_path / "model.safetensors")
    batch = oracle.batch_for(key)
    ours = EncoderDecoderModel.from_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(ours, batch), logits_of(theirs, batch), **CLOSE)
    half = Decoder.from_pretrained(tmp_path, add_cross_attention=True)
    assert torch.equal(half.embed.words.weight, words)


@pytest.mark.parametrize(
    ("key", "sizes"), [("marian", {"encoder": 59, "decoder": 59}), ("marian/two_vocabularies", {"decoder": 57})]
)
def test_new_words_of_either_vocabulary_are_read_by_transformers(key: str, sizes: Any, tmp_path: Path) -> None:
    oracle.save_whole(key, tmp_path / "theirs")
    ours = EncoderDecoderModel.from_pretrained(tmp_path / "theirs")
    ours.resize_token_embeddings(**sizes)
    ours.save_pretrained(tmp_path / "ours")
    back, batch = oracle.reload_whole(tmp_path / "ours"), oracle.batch_for(key)
    torch.testing.assert_close(logits_of(back, batch), logits_of(ours, batch), **CLOSE)
    again = EncoderDecoderModel.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(logits_of(again, batch), logits_of(ours, batch), rtol=0, atol=0)


def test_two_vocabularies_with_a_head_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "marian/two_vocabularies"
    monkeypatch.setitem(oracle.TINY, key, {**oracle.TINY[key], "tie_word_embeddings": False})
    theirs = oracle.save_whole(key, tmp_path / "theirs")
    ours, batch = EncoderDecoderModel.from_pretrained(tmp_path / "theirs"), oracle.batch_for(key)
    torch.testing.assert_close(logits_of(ours, batch), logits_of(theirs, batch), **CLOSE)
    ours.save_pretrained(tmp_path / "ours")
    back = oracle.reload_whole(tmp_path / "ours")
    torch.testing.assert_close(logits_of(back, batch), logits_of(theirs, batch), rtol=0, atol=0)


RULES: dict[str, dict[str, Any]] = {
    "marian": {"bad_words_ids": [[3]], "forced_eos_token_id": 7, "renormalize_logits": True},
    "marian/two_vocabularies": {"bad_words_ids": [[3]], "forced_eos_token_id": 7},
    "m2m_100": {"forced_bos_token_id": 33, "suppress_tokens": [3]},
    "m2m_100/scaled": {"forced_bos_token_id": 21, "forced_eos_token_id": 7, "suppress_tokens": [3]},
    "pegasus": {"forced_eos_token_id": 7, "no_repeat_ngram_size": 3},
    "blenderbot": {"forced_eos_token_id": 7, "no_repeat_ngram_size": 2, "min_length": 4},
    "blenderbot-small": {"forced_eos_token_id": 7, "no_repeat_ngram_size": 2},
    "plbart": {"forced_bos_token_id": 21},
    "mvp": {"forced_bos_token_id": 5, "forced_eos_token_id": 7, "repetition_penalty": 1.3},
}


@pytest.mark.parametrize("key", RULES)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_settings_beside_a_checkpoint_are_honoured_and_saved(key: str, num_beams: int, tmp_path: Path) -> None:
    theirs = oracle.save_whole(key, tmp_path / "plain")
    rules = {**RULES[key], "num_beams": num_beams, "max_length": 11}
    rules["decoder_start_token_id"] = oracle.TINY[key]["decoder_start_token_id"]
    for name, value in rules.items():
        setattr(theirs.generation_config, name, value)
    theirs.save_pretrained(tmp_path / "theirs")
    batch = oracle.batch_for(key)
    expected = generated(theirs, batch)
    ours = EncoderDecoderModel.from_pretrained(tmp_path / "theirs")
    assert torch.equal(generated(ours, batch), expected)
    ours.save_pretrained(tmp_path / "ours")
    back = oracle.reload_whole(tmp_path / "ours")
    assert torch.equal(generated(back, batch), expected)
    assert {name: getattr(back.generation_config, name) for name in rules} == rules
    assert torch.equal(generated(EncoderDecoderModel.from_pretrained(tmp_path / "ours"), batch), expected)


@pytest.mark.parametrize("key", ["marian", "pegasus", "m2m_100"])
def test_settings_that_stand_in_an_older_config_are_honoured(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_whole(key, tmp_path)
    rules = {**RULES[key], "num_beams": 2, "max_length": 11}
    (tmp_path / "generation_config.json").unlink()
    ours = EncoderDecoderModel.from_pretrained(tmp_path, **rules)
    batch = oracle.batch_for(key)
    assert torch.equal(generated(ours, batch), generated(theirs, batch, **rules))


def test_a_decoder_half_of_two_vocabularies_is_saved_with_its_own(tmp_path: Path) -> None:
    key = "marian/two_vocabularies"
    oracle.save_encoder("bert", tmp_path / "bert")
    oracle.save_whole(key, tmp_path / "whole")
    ours = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "bert", tmp_path / "whole")
    ours.save_pretrained(tmp_path / "pair")
    back, batch = oracle.reload_pair(tmp_path / "pair", allow=("encoder.pooler.",)), oracle.batch_for("bert", key)
    torch.testing.assert_close(ours(**batch).loss, oracle.pair_outputs(back, batch).loss, **CLOSE)
    half = Encoder.from_pretrained(tmp_path / "whole")
    half.save_pretrained(tmp_path / "half")
    expected = oracle.encoder_states(oracle.reload_encoder(tmp_path / "half", allow=("decoder.",)), batch["input_ids"])
    torch.testing.assert_close(half(batch["input_ids"]).last_hidden_state, expected, **CLOSE)


@pytest.mark.parametrize("key", ["marian", "m2m_100", "pegasus"])
def test_requests_that_join_a_batch_get_what_generate_gives(key: str, tmp_path: Path) -> None:
    oracle.save_whole(key, tmp_path)
    model, batch = EncoderDecoderModel.from_pretrained(tmp_path), oracle.batch_for(key)
    requests: list[dict[str, Any]] = [
        {name: batch[name][row : row + 1] for name in ("input_ids", "attention_mask")}
        | {"num_beams": beams, "max_new_tokens": 12}
        for row in (0, 1)
        for beams in (1, 3)
    ]
    engine = Engine(model, max_rows=6)
    handles = [engine.submit(**request) for request in requests]
    engine.run()
    for handle, request in zip(handles, requests, strict=True):
        assert torch.equal(handle.result(), model.generate(**request))
