"""BERT and its kin: pairs that transformers holds, positions that skip padding, shared layers, old files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import oracle
from conjoin.configuration import Share
from conjoin.families import MODULES, config_from_dict, family
from conjoin.torch.pair.halves import Decoder, Encoder
from conjoin.torch.pair.model import EncoderDecoderModel
from oracle_masks import causal_logits

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
ENCODERS = [key for key in oracle.ENCODER_KEYS if oracle.model_type(key) in MODULES]
DECODERS = [key for key in oracle.DECODER_KEYS if family(oracle.model_type(key)).decoder == "own"]
ROBERTAS = ["roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "xlm-roberta-xl"]
MASKED_LM_ONLY = [
    key
    for key in ENCODERS
    if oracle.model_type(key) in oracle.WITHOUT_CAUSAL_LM and family(oracle.model_type(key)).decoder is not None
]


def real(states: Tensor, mask: Tensor) -> Tensor:
    """Zero what stands at padding, which nobody reads."""
    return states * mask[..., None]


def check_pair(enc_key: str, dec_key: str, folder: Path) -> None:
    theirs = oracle.save_pair(enc_key, dec_key, folder)
    batch = oracle.batch_for(enc_key, dec_key)
    expected = oracle.pair_outputs(theirs, batch)
    ours = EncoderDecoderModel.from_pretrained(folder)
    found = ours(**batch)
    mask = batch["decoder_attention_mask"]
    torch.testing.assert_close(real(found.logits, mask), real(expected.logits, mask), **CLOSE)
    torch.testing.assert_close(found.loss, expected.loss, **CLOSE)


@pytest.mark.parametrize("key", ENCODERS)
def test_a_pair_with_this_encoder_gives_transformers_logits(key: str, tmp_path: Path) -> None:
    check_pair(key, "bert/small", tmp_path)


@pytest.mark.parametrize("key", DECODERS)
def test_a_pair_with_this_decoder_gives_transformers_logits(key: str, tmp_path: Path) -> None:
    check_pair("electra", key, tmp_path)


@pytest.mark.parametrize("key", DECODERS)
def test_transformers_reads_the_pair_that_we_save(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_pair("bert", key, tmp_path / "theirs")
    EncoderDecoderModel.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    batch = oracle.batch_for("bert", key)
    back = oracle.reload_pair(tmp_path / "ours", allow=("encoder.pooler.",))
    found, expected = (oracle.pair_outputs(model, batch).logits for model in (back, theirs))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("key", MASKED_LM_ONLY)
def test_an_autoencoder_turned_causal_is_its_masked_lm_under_a_causal_mask(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_encoder(key, tmp_path, head="mlm")
    batch = oracle.batch_for(key)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    ours = Decoder.from_pretrained(tmp_path)(ids, mask).logits
    torch.testing.assert_close(real(ours, mask), real(causal_logits(theirs, ids, mask), mask), **CLOSE)


@pytest.mark.parametrize("key", MASKED_LM_ONLY)
def test_a_grafted_decoder_gives_step_by_step_what_it_gives_at_once(key: str, tmp_path: Path) -> None:
    encoder = oracle.save_encoder("bert", tmp_path / "encoder").config
    oracle.save_encoder(key, tmp_path / "decoder", head="mlm")
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "encoder", tmp_path / "decoder")
    batch = oracle.batch_for("bert", key)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    ids = batch["decoder_input_ids"]
    with torch.no_grad():
        full = model(**inputs, decoder_input_ids=ids).logits
        source = model.encoder(**inputs).last_hidden_state
        cache, pieces = None, []
        for step in range(ids.shape[1]):
            out = model.decoder(
                ids[:, step : step + 1],
                encoder_hidden_states=source,
                encoder_attention_mask=inputs["attention_mask"],
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
            pieces.append(out.logits)
    assert source.shape[-1] == encoder.hidden_size
    torch.testing.assert_close(torch.cat(pieces, 1), full, **CLOSE)


@pytest.mark.parametrize("key", MASKED_LM_ONLY)
@pytest.mark.parametrize("share", ["none", "all"])
def test_a_grafted_pair_comes_back_as_it_was_saved(key: str, share: Share, tmp_path: Path) -> None:
    oracle.save_encoder(key, tmp_path / "half", head="mlm")
    half = tmp_path / "half"
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(half, half, share=share)
    model.save_pretrained(tmp_path / "pair")
    back = EncoderDecoderModel.from_pretrained(tmp_path / "pair")
    batch = oracle.batch_for(key)
    torch.testing.assert_close(back(**batch).logits, model(**batch).logits, rtol=0, atol=0)
    shared = back.encoder.embed.words.weight is back.decoder.embed.words.weight
    assert shared == (share == "all")


@pytest.mark.parametrize("key", ROBERTAS)
@pytest.mark.parametrize("side", ["left", "right", "between"])
def test_roberta_counts_positions_over_what_is_not_padding(key: str, side: str, tmp_path: Path) -> None:
    theirs = oracle.save_decoder(key, tmp_path)
    pad = oracle.TINY[key]["pad_token_id"]
    ids = oracle.batch_for(key, T=9, padded=False)["decoder_input_ids"]
    where = {"left": slice(0, 3), "right": slice(6, 9), "between": slice(3, 5)}[side]
    ids[1, where] = pad
    mask = (ids != pad).long()
    ours = Decoder.from_pretrained(tmp_path)(ids, mask).logits
    torch.testing.assert_close(real(ours, mask), real(oracle.decoder_logits(theirs, ids, mask), mask), **CLOSE)


@pytest.mark.parametrize("key", ROBERTAS)
@pytest.mark.parametrize("side", ["left", "between"])
def test_robertas_cached_steps_after_padding_count_as_one_full_pass_does(key: str, side: str, tmp_path: Path) -> None:
    oracle.save_decoder(key, tmp_path)
    pad = oracle.TINY[key]["pad_token_id"]
    ids = oracle.batch_for(key, T=9, padded=False)["decoder_input_ids"]
    ids[1, {"left": slice(0, 3), "between": slice(3, 5)}[side]] = pad
    mask = (ids != pad).long()
    decoder = Decoder.from_pretrained(tmp_path)
    with torch.no_grad():
        full = decoder(ids, mask).logits
        first = decoder(ids[:, :4], mask[:, :4], use_cache=True)
        pieces, cache = [first.logits], first.past_key_values
        for step in range(4, 9):
            piece = decoder(ids[:, step : step + 1], mask[:, : step + 1], past_key_values=cache)
            pieces.append(piece.logits)
    torch.testing.assert_close(real(torch.cat(pieces, 1), mask), real(full, mask), **CLOSE)


@pytest.mark.parametrize("key", ROBERTAS)
def test_roberta_counts_every_embedding_that_is_given_in_place_of_ids(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_decoder(key, tmp_path)
    embeds = torch.randn(2, 6, 20)
    decoder = Decoder.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = theirs(inputs_embeds=embeds, use_cache=False).logits
        first = decoder(inputs_embeds=embeds[:, :4], use_cache=True)
        second = decoder(inputs_embeds=embeds[:, 4:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat((first.logits, second.logits), 1), expected, **CLOSE)


@pytest.mark.parametrize("key", ["bert", "electra", "roberta", "distilbert/sinusoidal", "albert"])
def test_positions_and_token_types_given_by_the_user_are_those_of_transformers(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_encoder(key, tmp_path)
    ids = oracle.batch_for(key, padded=False)["input_ids"]
    given: dict[str, Any] = {"position_ids": torch.tensor([[9, 4, 5, 2, 3, 8, 7]]).expand(2, -1)}
    if "type_vocab_size" in oracle.TINY[key]:
        given["token_type_ids"] = torch.tensor([[0, 0, 1, 1, 2, 2, 0]]).expand(2, -1)
    found = Encoder.from_pretrained(tmp_path)(ids, **given).last_hidden_state
    torch.testing.assert_close(found, oracle.encoder_states(theirs, ids, **given), **CLOSE)


@pytest.mark.parametrize("key", ["bert", "electra", "albert"])
def test_norms_in_tensorflows_words_are_read(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_encoder(key, tmp_path, head="mlm")
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {_old_name(name): tensor for name, tensor in tensors.items()}
    assert sum(name.endswith("gamma") for name in renamed) > 1
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    batch = oracle.batch_for(key)
    found = Encoder.from_pretrained(tmp_path)(batch["input_ids"]).last_hidden_state
    torch.testing.assert_close(found, oracle.encoder_states(theirs, batch["input_ids"]), **CLOSE)


def _old_name(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize("key", ["bert/untied", "roberta/untied"])
def test_an_untied_head_saved_by_transformers_4_has_its_bias_under_one_name(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_decoder(key, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    own = next(name for name in tensors if name.endswith(("lm_head.bias", "predictions.bias")))
    decoder = next(name for name in tensors if name.endswith("decoder.bias"))
    tensors[own] = tensors.pop(decoder)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ids = oracle.batch_for(key)["decoder_input_ids"]
    torch.testing.assert_close(
        Decoder.from_pretrained(tmp_path)(ids).logits, oracle.decoder_logits(theirs, ids), **CLOSE
    )


def test_sinusoidal_positions_of_a_fresh_model_are_sines_and_cosines_and_not_trained() -> None:
    config = config_from_dict({"model_type": "distilbert", **oracle.TINY["distilbert/sinusoidal"]})
    encoder = Encoder.from_config(config)
    table = encoder.embed.positions
    assert table is not None and not table.weight.requires_grad
    angles = np.arange(64)[:, None] / 10000 ** (np.arange(0, 20, 2) / 20)
    expected = np.stack((np.sin(angles), np.cos(angles)), -1).reshape(64, 20)
    torch.testing.assert_close(table.weight, torch.from_numpy(expected).float(), **CLOSE)


def test_alberts_layers_share_the_weights_of_their_group() -> None:
    config = config_from_dict({"model_type": "albert", **oracle.TINY["albert"]})
    stack = family("albert").stack(config, "encoder")
    assert stack.weights_of == (0, 1, 0, 1, 2, 3, 2, 3)
    names = {name for name, _ in Encoder(config).named_parameters()}
    assert {name.split(".")[1] for name in names if name.startswith("blocks.")} == {"0", "1", "2", "3"}


@pytest.mark.parametrize(("passes", "groups", "inner"), [(5, 3, 2), (3, 2, 1), (4, 4, 1), (7, 1, 3), (12, 5, 4)])
def test_alberts_names_follow_its_groups(passes: int, groups: int, inner: int) -> None:
    sizes = {"num_hidden_layers": passes, "num_hidden_groups": groups, "inner_group_num": inner}
    config = config_from_dict({"model_type": "albert", **oracle.TINY["albert"], **sizes})
    stack = family("albert").stack(config, "encoder")
    table = family("albert").body(stack)
    for group in range(groups):
        for block in range(inner):
            name = f"encoder.albert_layer_groups.{group}.albert_layers.{block}.ffn.weight"
            match = table.match(name)
            assert match is not None and match.canonical == (f"blocks.{group * inner + block}.mlp.up.weight",)
