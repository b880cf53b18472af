"""The oracle is held to account first: what it saves is what it says, and every switch of its configs matters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle
from conjoin.families import families
from conjoin.generation import GENERATION_WORDS
from lanes import FAST_KEYS, lanes, lanes_of_families, lanes_of_keys
from oracle import (
    CAUSAL_KEYS,
    DECODER_KEYS,
    ENCODER_KEYS,
    START_ID,
    TINY,
    WHOLE_KEYS,
    batch_for,
    model_type,
)
from oracle_configs import default_fields, listed
from oracle_legacy import LISTED_FROM_THE_START
from oracle_tiny import WITHOUT_MASKED_LM

PAIRS = lanes(
    [
        *[("bert", dec) for dec in DECODER_KEYS if oracle.can_hold("bert", dec)],
        *[(enc, dec) for enc in ENCODER_KEYS for dec in ("bert/small", "gpt2")],
    ],
    lambda pair: pair == ("bert", "gpt2") or bool(set(FAST_KEYS).intersection(pair)),
)


@pytest.mark.parametrize("name", families())
def test_a_family_is_what_transformers_lists_say(name: str) -> None:
    ours, theirs = families()[name], listed(name)
    assert ours.decoder_architecture == theirs.causal_lm
    assert ours.encoder_architecture in (theirs.encoder, None)
    assert (ours.whole.architecture if ours.whole else None) == theirs.whole
    if ours.encoder is not None:
        assert (ours.encoder == "half") == (theirs.whole is not None)
        assert (ours.encoder == "native") == (
            (theirs.masked_lm is not None and theirs.whole is None) or name in WITHOUT_MASKED_LM
        )


@pytest.mark.parametrize("name", families())
def test_a_family_knows_what_its_class_says_of_generation_by_default(name: str) -> None:
    theirs = {
        key: value for key, value in default_fields(name).items() if key in GENERATION_WORDS and value is not None
    }
    assert families()[name].generation == theirs


NEWER = {"rope_parameters", "layer_types", "dtype"}


def inputs_of(key: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    made = batch_for(key, seed=seed)
    return made["input_ids"], made["attention_mask"]


def differs(left: Tensor, right: Tensor) -> float:
    """Return the largest difference as a share of the largest value."""
    return ((left - right).abs().max() / right.abs().max()).item()


@pytest.mark.parametrize("key", lanes_of_keys([*ENCODER_KEYS, *WHOLE_KEYS]))
def test_an_encoder_reloads_to_the_same_states(key: str, tmp_path: Path) -> None:
    made = oracle.save_encoder(key, tmp_path)
    read = oracle.reload_encoder(tmp_path)
    assert torch.equal(oracle.encoder_states(made, *inputs_of(key)), oracle.encoder_states(read, *inputs_of(key)))


@pytest.mark.parametrize("key", lanes_of_keys(ENCODER_KEYS))
def test_an_encoder_under_a_head_holds_the_same_encoder(key: str, tmp_path: Path) -> None:
    made = oracle.save_encoder(key, tmp_path, head="mlm")
    head = ("cls.", "lm_head.", "generator", "vocab", "predictions.", "head.", "decoder.")
    fresh_pooler = ("pooler.",)
    read = oracle.reload_encoder(tmp_path, allow=(*head, *fresh_pooler))
    assert torch.equal(oracle.encoder_states(made, *inputs_of(key)), oracle.encoder_states(read, *inputs_of(key)))


@pytest.mark.parametrize("key", lanes_of_keys(DECODER_KEYS))
def test_a_decoder_reloads_to_the_same_logits_and_sees_no_future(key: str, tmp_path: Path) -> None:
    made = oracle.save_decoder(key, tmp_path)
    read = oracle.reload_decoder(tmp_path)
    ids, mask = inputs_of(key)
    logits = oracle.decoder_logits(made, ids, mask)
    assert torch.equal(logits, oracle.decoder_logits(read, ids, mask))
    assert torch.allclose(logits[:, :3], oracle.decoder_logits(made, _changed_at(ids, 3), mask)[:, :3], atol=1e-6)


def _changed_at(ids: Tensor, position: int) -> Tensor:
    changed = ids.clone()
    changed[:, position] = 11 + (changed[:, position] - 11 + 5) % 40
    return changed


@pytest.mark.parametrize("key", lanes_of_keys(WHOLE_KEYS))
def test_a_whole_model_reloads_to_the_same_outputs(key: str, tmp_path: Path) -> None:
    made = oracle.save_whole(key, tmp_path)
    _same_outputs(made, oracle.reload_whole(tmp_path), batch_for(key))


@pytest.mark.parametrize(("enc_key", "dec_key"), PAIRS)
def test_a_pair_reloads_to_the_same_outputs(enc_key: str, dec_key: str, tmp_path: Path) -> None:
    made = oracle.save_pair(enc_key, dec_key, tmp_path)
    _same_outputs(made, oracle.reload_pair(tmp_path), batch_for(enc_key, dec_key))


def _same_outputs(made: Any, read: Any, given: oracle.Batch) -> None:
    want, got = oracle.pair_outputs(made, given), oracle.pair_outputs(read, given)
    assert torch.equal(want.logits, got.logits)
    assert torch.equal(want.loss, got.loss)
    assert want.grads.keys() == got.grads.keys()
    assert all(torch.allclose(grad, got.grads[name], atol=1e-7) for name, grad in want.grads.items())
    assert len(want.cross_attentions) == len(want.decoder_attentions) == len(want.decoder_hidden_states) - 1


@pytest.mark.parametrize("key", lanes_of_families(TINY))
def test_no_parameter_is_left_at_a_value_that_hides_a_mistake(key: str, tmp_path: Path) -> None:
    model = oracle.save_encoder(key, tmp_path, head="mlm")
    learned = {**dict(model.named_parameters()), **{n: b for n, b in model.named_buffers() if "final_logits" in n}}
    for name, tensor in learned.items():
        if name.endswith("embed_positions.weight") and model_type(key) == "marian":
            continue  # computed, and in no file
        assert not torch.isin(tensor, torch.tensor([0.0, 1.0])).any(), name
        assert tensor.std() > 0.03, name


# A field, and what it would be if it were lost on the way.
SWITCHES: list[tuple[str, dict[str, Any]]] = [
    ("mistral", {"sliding_window": None}),
    ("qwen2", {"layer_types": ["full_attention"] * 3}),
    ("qwen3", {"layer_types": ["full_attention"] * 3}),
    ("gemma2", {"layer_types": ["full_attention"] * 3}),
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gemma2", {"final_logit_softcapping": None}),
    ("gemma2", {"query_pre_attn_scalar": 6}),
    ("gemma3_text", {"sliding_window": 64}),
    ("gemma3_text/capped", {"final_logit_softcapping": None}),
    ("modernbert-decoder", {"local_attention": 64}),
    ("llama/linear", {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
    ("llama/llama3", {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
    ("llama/yarn", {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
    ("llama/dynamic", {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    ("llama", {"rms_norm_eps": 1e-6}),
    ("smollm3", {"no_rope_layers": [1, 1, 1]}),
    ("smollm3", {"layer_types": ["full_attention"] * 3}),
    ("starcoder2", {"sliding_window": None}),
    ("exaone4", {"layer_types": ["full_attention"] * 3}),
    ("olmo3", {"layer_types": ["full_attention"] * 3}),
    ("granite", {"embedding_multiplier": 1.0}),
    ("granite", {"attention_multiplier": 0.5}),
    ("granite", {"residual_multiplier": 1.0}),
    ("granite", {"logits_scaling": 1.0}),
    ("phi3", {"sliding_window": None}),
    ("phi3/long", {"original_max_position_embeddings": 64}),
    ("gpt_neo", {"window_size": 64}),
    ("gpt_neo", {"attention_types": [[["global"], 3]]}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("gpt_neox", {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0, "partial_rotary_factor": 0.25}}),
    ("gpt2/scaled", {"scale_attn_by_inverse_layer_idx": False}),
    ("gpt2/unscaled", {"scale_attn_weights": True}),
    ("gpt2", {"activation_function": "gelu_new"}),
    ("gpt2", {"layer_norm_epsilon": 1e-5}),
    ("opt", {"activation_function": "relu"}),
]


@pytest.mark.parametrize(("key", "lost"), SWITCHES, ids=[f"{key}-{next(iter(lost))}" for key, lost in SWITCHES])
def test_a_lost_field_changes_the_logits(
    key: str, lost: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = torch.randint(11, 53, (1, 17), generator=torch.Generator().manual_seed(1))
    kept = oracle.decoder_logits(oracle.save_decoder(key, tmp_path / "kept"), given)
    monkeypatch.setitem(TINY, key, {**TINY[key], **lost})
    changed = oracle.decoder_logits(oracle.save_decoder(key, tmp_path / "lost"), given)
    assert differs(changed, kept) > 1e-3


ENCODER_SWITCHES: list[tuple[str, dict[str, Any]]] = [
    ("bert", {"hidden_act": "gelu"}),  # the erf form against the tanh form: the smallest difference of all
    ("bert", {"layer_norm_eps": 1e-12}),
    ("roberta", {"pad_token_id": 1}),
    ("modernbert", {"local_attention": 64}),
    ("modernbert", {"layer_types": ["sliding_attention"] * 3}),
    ("modernbert", {"norm_eps": 1e-5}),
    ("t5", {"relative_attention_num_buckets": 6, "relative_attention_max_distance": 128}),
    ("bart/scaled", {"scale_embedding": False}),
    ("albert", {"hidden_act": "gelu"}),
]


@pytest.mark.parametrize(
    ("key", "lost"), ENCODER_SWITCHES, ids=[f"{key}-{next(iter(lost))}" for key, lost in ENCODER_SWITCHES]
)
def test_a_lost_field_changes_the_states(
    key: str, lost: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = torch.randint(11, 53, (1, 17), generator=torch.Generator().manual_seed(1))
    kept = oracle.encoder_states(oracle.save_encoder(key, tmp_path / "kept"), given)
    monkeypatch.setitem(TINY, key, {**TINY[key], **lost})
    changed = oracle.encoder_states(oracle.save_encoder(key, tmp_path / "lost"), given)
    assert differs(changed, kept) > 1e-4


@pytest.mark.parametrize("key", lanes_of_keys(CAUSAL_KEYS))
def test_a_causal_model_read_both_ways_sees_the_future_and_no_padding(key: str, tmp_path: Path) -> None:
    model = oracle.save_decoder(key, tmp_path)
    ids, mask = inputs_of(key)
    states = oracle.bidirectional_states(model, ids, mask)
    later = oracle.bidirectional_states(model, _changed_at(ids, 3), mask)
    assert ((states - later).abs().amax(dim=-1)[:, :3] > 1e-5).all()
    other_padding = oracle.bidirectional_states(model, ids.masked_fill(mask == 0, 44), mask)
    real = mask.bool()
    assert torch.allclose(states[real], other_padding[real], atol=1e-6)


@pytest.mark.parametrize("key", ["mistral", "qwen2", "gemma2", "modernbert-decoder"])
def test_a_window_read_both_ways_ends_on_both_sides(key: str) -> None:
    window = oracle.build_config(key).sliding_window
    mask = oracle.bidirectional_mask(torch.ones(1, 7, dtype=torch.long), window)[0, 0] == 0
    assert torch.equal(mask, mask.T)
    assert mask[3].nonzero().flatten().tolist() == list(range(3 - window + 1, 3 + window))


@pytest.mark.parametrize("key", lanes_of_keys([*ENCODER_KEYS, *CAUSAL_KEYS]))
def test_transformers_reads_the_old_words_to_the_same_outputs(key: str, tmp_path: Path) -> None:
    encoder = key in ENCODER_KEYS
    save, read, run = (
        (oracle.save_encoder, oracle.reload_encoder, oracle.encoder_states)
        if encoder
        else (oracle.save_decoder, oracle.reload_decoder, oracle.decoder_logits)
    )
    made = save(key, tmp_path)
    old = oracle.legacy_config(tmp_path)
    newer = {"rope_parameters", "dtype"} if model_type(key) in LISTED_FROM_THE_START else NEWER
    assert not newer & old.keys()
    assert torch.equal(run(made, *inputs_of(key)), run(read(tmp_path), *inputs_of(key)))


def test_an_old_pair_has_old_parts(tmp_path: Path) -> None:
    oracle.save_pair("modernbert", "gpt2", tmp_path)
    old = oracle.legacy_config(tmp_path)
    assert "global_rope_theta" in old["encoder"]
    assert "dtype" not in old["decoder"]


@pytest.mark.parametrize(("enc_key", "dec_key"), [("bert", "llama"), ("bert", "opt"), ("bert", "distilbert")])
def test_a_pair_that_transformers_cannot_hold_is_refused_by_it(enc_key: str, dec_key: str, tmp_path: Path) -> None:
    assert not oracle.can_hold(enc_key, dec_key)
    with pytest.raises(ValueError, match=r"not prepared for the encoder hidden states|Unrecognized configuration"):
        oracle.save_pair(enc_key, dec_key, tmp_path)


@pytest.mark.parametrize("dec_key", ["bert/small", "gpt2", "gpt2/wide", "roberta"])
def test_generated_ids_depend_on_the_source_for_some_seed_of_three(dec_key: str, tmp_path: Path) -> None:
    source = inputs_of("bert")
    models = [oracle.save_pair("bert", dec_key, tmp_path, seed=seed) for seed in range(3)]
    ids = [oracle.greedy(model, *source) for model in models]
    assert all((found[:, 0] == START_ID).all() for found in ids)
    assert any(not torch.equal(found[0], found[1]) for found in ids)
    assert oracle.beams(models[0], *source, num_beams=3).shape[0] == 2


def test_gemma3_ignores_the_cap_on_its_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, _ = inputs_of("gemma3_text/capped")
    capped = oracle.decoder_logits(oracle.save_decoder("gemma3_text/capped", tmp_path / "a"), ids)
    monkeypatch.setitem(TINY["gemma3_text/capped"], "attn_logit_softcapping", None)
    assert torch.equal(capped, oracle.decoder_logits(oracle.save_decoder("gemma3_text/capped", tmp_path / "b"), ids))


@pytest.mark.parametrize("key", ["bart/deep_decoder"])
def test_a_shallow_encoder_breaks_the_cache_of_transformers_only(key: str, tmp_path: Path) -> None:
    model = oracle.save_pair("bert", key, tmp_path)
    with pytest.raises(IndexError):
        oracle.greedy(model, *inputs_of("bert"))
    assert oracle.greedy(model, *inputs_of("bert"), use_cache=False).shape[0] == 2


def test_a_batch_is_padded_on_the_right_and_holds_no_special_id() -> None:
    made = batch_for("bert", "gpt2", B=3)
    lengths = made["attention_mask"].sum(dim=1).tolist()
    assert lengths == [7, 5, 3]
    assert (made["input_ids"][made["attention_mask"].bool()] >= 11).all()
    assert (made["input_ids"][made["attention_mask"] == 0] == TINY["bert"]["pad_token_id"]).all()
    assert (made["labels"] == -100).sum(dim=1).tolist() == [0, 3, 6]
    assert (made["decoder_input_ids"][:, 0] == START_ID).all()
    assert "pad_token_id" in TINY["gpt2"] and (made["decoder_input_ids"] != -100).all()


def test_special_ids_are_distinct_and_never_drawn() -> None:
    for key, fields in TINY.items():
        ids = [fields[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")] + [START_ID]
        assert len(set(ids)) == 4, key
        assert max(ids) < oracle.FIRST_ORDINARY_ID, key


def test_a_left_over_tensor_is_reported(tmp_path: Path) -> None:
    oracle.save_encoder("bert", tmp_path, head="mlm")
    with pytest.raises(oracle.KeyMismatch, match="unexpected_keys"):
        oracle.reload_encoder(tmp_path, allow=("pooler.",))
    assert model_type("llama/yarn") == "llama"
