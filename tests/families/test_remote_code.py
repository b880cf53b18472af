"""Checkpoints of models whose code stands beside them on the hub: its names and config keys, and transformers'."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import oracle
from conjoin.checkpoint import open_checkpoint
from conjoin.errors import ConfigError, ConjoinWarning
from conjoin.families import config_from_dict, family
from conjoin.functional.positions import rotary_frequencies
from conjoin.torch.pair.halves import Decoder, Encoder

# A name of the hub's code, and what transformers 5.23's class calls it.
NAMES = {
    "nomic_bert": ("encoder.layers.0.attn.Wqkv.weight", "layers.0.self_attn.q_proj.weight"),
    "nomic_bert/untied": ("encoder.layers.1.mlp.fc12.weight", "layers.1.mlp.gate_proj.weight"),
    "gte": ("encoder.layer.0.mlp.up_gate_proj.weight", "layers.0.mlp.up_proj.weight"),
    "gte/untyped": ("encoder.layer.1.attn_ln.weight", "layers.1.post_attention_layernorm.weight"),
    "jina_embeddings_v3": ("encoder.layers.0.mixer.Wqkv.bias", "layers.0.self_attn.k_proj.bias"),
}


def states_and_logits(folder: Path, key: str) -> list[Tensor]:
    batch = oracle.batch_for(key)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        encoder, decoder = Encoder.from_pretrained(folder), Decoder.from_pretrained(folder)
        return [encoder(ids, mask).last_hidden_state, decoder(ids, mask).logits]


@pytest.mark.parametrize("key", NAMES)
def test_both_namings_are_read_alike(key: str, tmp_path: Path) -> None:
    made = oracle.save_encoder(key, tmp_path / "hub", head="mlm")
    made.save_pretrained(tmp_path / "own", save_original_format=False)
    stored = [set(open_checkpoint(tmp_path / name)) for name in ("hub", "own")]
    assert [any(name.endswith(NAMES[key][side]) for name in stored[side]) for side in (0, 1)] == [True, True]
    assert not stored[0] & {name for name in stored[1] if ".self_attn." in name}
    for hub, own in zip(*(states_and_logits(tmp_path / name, key) for name in ("hub", "own")), strict=True):
        assert torch.equal(hub, own)


def rewritten(folder: Path, **changes: Any) -> None:
    """Change keys of a saved config.json; None leaves a key out."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def test_the_hubs_words_for_nomic_bert_mean_what_transformers_words_mean(tmp_path: Path) -> None:
    key = "nomic_bert"
    theirs = oracle.save_encoder(key, tmp_path)
    tiny = oracle.TINY[key]
    hub = {
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "n_positions": "max_position_embeddings",
        "layer_norm_epsilon": "layer_norm_eps",
        "resid_pdrop": "hidden_dropout_prob",
        "attn_pdrop": "attention_probs_dropout_prob",
    }
    switches = {"prenorm": False, "causal": False, "qkv_proj_bias": False, "rotary_emb_fraction": 1.0}
    renamed = {name: tiny[field] for name, field in hub.items()}
    gone = dict.fromkeys((*hub.values(), "rope_parameters"))
    rewritten(tmp_path, **gone, **renamed, **switches, rotary_emb_base=77, use_flash_attn=True)
    batch = oracle.batch_for(key)
    ours = Encoder.from_pretrained(tmp_path)(batch["input_ids"]).last_hidden_state
    torch.testing.assert_close(ours, oracle.encoder_states(theirs, batch["input_ids"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("gate", "activation"), [("swiglu", "silu"), ("geglu", "gelu")])
def test_a_gate_is_an_activation(gate: str, activation: str) -> None:
    config = config_from_dict({"model_type": "nomic_bert", "activation_function": gate})
    assert config.hidden_act == activation
    assert not hasattr(config, "activation_function")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"prenorm": True, "num_experts": 8}, r"prenorm = True: expected False[\s\S]*num_experts = 8"),
        ({"activation_function": "gelu"}, 'activation_function = "gelu"; expected swiglu or geglu'),
        ({"rotary_emb_fraction": 0.5}, "rotary_emb_fraction = 0.5: expected 1.0"),
    ],
)
def test_what_only_the_hubs_code_computes_is_refused(words: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config_from_dict({"model_type": "nomic_bert", **words})


def test_a_stretch_of_long_texts_is_left_out_with_a_warning() -> None:
    with pytest.warns(ConjoinWarning, match="rotary_scaling_factor = 2.0.*more than 2048 tokens"):
        config_from_dict({"model_type": "nomic_bert", "rotary_scaling_factor": 2.0})


def test_new_is_gte(tmp_path: Path) -> None:
    key = "gte"
    theirs = oracle.save_encoder(key, tmp_path)
    hub = {"position_embedding_type": "rope", "layer_norm_type": "layer_norm", "pack_qkv": True, "unpad_inputs": False}
    rewritten(tmp_path, model_type="new", rope_parameters=None, rope_theta=77, rope_scaling=None, **hub)
    encoder = Encoder.from_pretrained(tmp_path)
    assert encoder.config.model_type == "gte"
    ids = oracle.batch_for(key)["input_ids"]
    torch.testing.assert_close(encoder(ids).last_hidden_state, oracle.encoder_states(theirs, ids), rtol=1e-5, atol=1e-5)
    encoder.save_pretrained(tmp_path / "ours")
    back = oracle.reload_encoder(tmp_path / "ours", allow=("pooler.",))
    assert torch.equal(oracle.encoder_states(back, ids), oracle.encoder_states(theirs, ids))


def test_the_hubs_ntk_is_a_larger_base_and_one_factor() -> None:
    words = {"rope_theta": 20000, "rope_scaling": {"type": "ntk", "factor": 8.0}}
    config = config_from_dict({"model_type": "new", "hidden_size": 96, "num_attention_heads": 6, **words})
    rotary = family("gte").stack(config, "encoder").blocks[0].self_attn.rotary
    assert rotary is not None
    place = np.arange(0, 16, 2) / 16
    expected = (20000 * 8.0) ** -place / 8.0 ** (2 / 16)
    np.testing.assert_allclose(rotary_frequencies(rotary), expected, rtol=1e-6)
    with pytest.raises(ConfigError, match=r"mixed_b = 0\.5"):
        config_from_dict({"model_type": "new", "rope_scaling": {"type": "ntk", "factor": 8.0, "mixed_b": 0.5}})


def test_gtes_other_positions_and_norms_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"layer_norm_type = 'rms_norm'[\s\S]*position_embedding_type = 'absolute'"):
        config_from_dict({"model_type": "new", "layer_norm_type": "rms_norm", "position_embedding_type": "absolute"})


def test_jinas_file_on_the_hub_is_read_without_its_adapters(tmp_path: Path) -> None:
    key = "jina_embeddings_v3"
    theirs = oracle.save_encoder(key, tmp_path, head="mlm")
    stored = load_file(tmp_path / "model.safetensors")
    adapted = {}
    for name, tensor in stored.items():
        if name.endswith(("Wqkv.weight", "fc1.weight", "word_embeddings.weight")):
            place = name.removesuffix("weight") + "parametrizations.weight."
            adapted |= {f"{place}original": tensor, f"{place}0.lora_A": torch.ones(5, 4, 3)}
        else:
            adapted[name] = tensor
    save_file(adapted, tmp_path / "model.safetensors")
    words = {"position_embedding_type": "rotary", "rotary_emb_base": 77, "lora_adaptations": ["separation"]}
    rewritten(tmp_path, model_type="xlm-roberta", rope_parameters=None, **words)
    with pytest.warns(ConjoinWarning, match="adapters of the tasks separation are left out"):
        encoder = Encoder.from_pretrained(tmp_path)
    ids = oracle.batch_for(key)["input_ids"]
    torch.testing.assert_close(encoder(ids).last_hidden_state, oracle.encoder_states(theirs, ids), rtol=1e-5, atol=1e-5)
    encoder.save_pretrained(tmp_path / "ours")
    back = oracle.reload_encoder(tmp_path / "ours", allow=("pooler.",))
    assert torch.equal(oracle.encoder_states(back, ids), oracle.encoder_states(theirs, ids))


def test_bigbirds_sparse_blocks_are_read_in_full_with_a_warning(tmp_path: Path) -> None:
    key = "big_bird"
    theirs = oracle.save_encoder(key, tmp_path)
    rewritten(tmp_path, attention_type="block_sparse", block_size=3, num_random_blocks=1)
    with pytest.warns(ConjoinWarning, match="the same up to 21 tokens"):
        encoder = Encoder.from_pretrained(tmp_path)
    sparse = oracle.reload_encoder(tmp_path, allow=("pooler.",))
    batch = oracle.batch_for(key, S=21)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = oracle.encoder_states(sparse, ids, mask)
    assert sparse.attention_type == "original_full"
    assert torch.equal(expected, oracle.encoder_states(theirs, ids, mask))
    found = encoder(ids, mask).last_hidden_state
    torch.testing.assert_close(found * mask[..., None], expected * mask[..., None], rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="Expected one of: original_full, block_sparse"):
        family(key).stack(config_from_dict({"model_type": key, "attention_type": "dense"}), "encoder")
