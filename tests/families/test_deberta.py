"""DeBERTa: attention that compares contents with distances, and what a pair learns of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import oracle
from conjoin import EncoderDecoderModel, spec
from conjoin.errors import ConfigError, JoinError
from conjoin.families import config_from_dict, family
from conjoin.functional.positions import distance_rows
from conjoin.join import pair_names
from conjoin.spec.native import reason_against
from conjoin.torch.model.positions import RelativeTable
from conjoin.torch.pair.halves import Encoder
from lanes import lanes
from oracle_distances import deberta_buckets
from oracle_tiny import keys_of

MODEL_TYPES = ("deberta", "deberta-v2")
KEYS = [key for name in MODEL_TYPES for key in keys_of(name)]
TABLES = [
    spec.RelativeTable(span=256, max_distance=512),
    spec.RelativeTable(span=6, max_distance=21),
    spec.RelativeTable(span=8, max_distance=64),
    spec.RelativeTable(span=5),
]


@pytest.mark.parametrize("kind", TABLES)
def test_distances_share_rows_as_in_transformers(kind: spec.RelativeTable) -> None:
    length = 700
    found = RelativeTable(kind, 4)(length).rows[0, 0]
    buckets = deberta_buckets(length, kind.span if kind.max_distance else -1, kind.max_distance or -1)
    assert torch.equal(found, (buckets + kind.span).clamp(0, 2 * kind.span - 1))
    table, distance = distance_rows(kind), np.arange(length)
    most = len(table) // 2
    assert np.array_equal(table[distance.clip(max=most) + most], found[:, 0])
    assert np.array_equal(table[-distance.clip(max=most) + most], found[0])


def gradients(model: EncoderDecoderModel) -> dict[str, torch.Tensor]:
    """Gradients under the names of the file."""
    found = {name: p.grad for name, p in model.named_parameters(remove_duplicate=False) if p.grad is not None}
    return {undo.name: undo(*map(found.__getitem__, undo.canonical)) for undo in pair_names_of(model).undo(found)}


def pair_names_of(model: EncoderDecoderModel) -> Any:
    return pair_names(model.config, model.spec)


@pytest.mark.parametrize("key", lanes(KEYS, MODEL_TYPES.__contains__))
def test_a_pair_learns_what_transformers_learns(key: str, tmp_path: Path) -> None:
    theirs = oracle.save_pair(key, "bert/small", tmp_path)
    data = oracle.batch_for(key, "bert/small", B=3)
    expected = oracle.pair_outputs(theirs, data)
    model = EncoderDecoderModel.from_pretrained(tmp_path)
    loss = model(**data).loss
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=1e-5)
    loss.backward()
    found = gradients(model)
    scale = max(float(grad.abs().max()) for grad in expected.grads.values())
    compared = [name for name, grad in expected.grads.items() if bool(grad.any()) and name in found]
    queries = "query_proj" if oracle.model_type(key) == "deberta-v2" else "in_proj"
    assert f"encoder.encoder.layer.0.attention.self.{queries}.weight" in compared
    assert ("encoder.encoder.rel_embeddings.weight" in compared) == (not key.endswith("/absolute"))
    for name in compared:
        torch.testing.assert_close(found[name] / scale, expected.grads[name] / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_packed_rows_and_padded_ones_learn_the_same(
    model_type: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    oracle.save_encoder(model_type, tmp_path)
    data = oracle.batch_for(model_type, B=3)
    ids, mask = data["input_ids"], data["attention_mask"]
    weights = torch.randn(3, 7, 20, generator=torch.Generator().manual_seed(0)) * mask[..., None]
    learnt: list[dict[str, torch.Tensor]] = []
    for packs in (True, False):
        encoder = Encoder.from_pretrained(tmp_path)
        if not packs:
            monkeypatch.setattr("conjoin.torch.model.route.can_pack", lambda stack, mask: False)
        (encoder(ids, mask).last_hidden_state * weights).sum().backward()
        learnt.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    assert learnt[0].keys() == learnt[1].keys() >= {"relative_table.weight", "blocks.0.self_attn.v.bias"}
    for name, grad in learnt[0].items():
        torch.testing.assert_close(grad, learnt[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_kernels_step_aside_and_say_why(model_type: str, tmp_path: Path) -> None:
    oracle.save_encoder(model_type, tmp_path)
    reason = reason_against(Encoder.from_pretrained(tmp_path).spec)
    assert reason == "attention that compares contents with distances"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"conv_kernel_size": 3}, "conv_kernel_size = 3"),
        ({"relative_attention": True}, "without pos_att_type"),
        (
            {"attention_head_size": 5},
            "attention_head_size = 5, which conjoin does not know.\nExpected one of: null, 64.",
        ),
        ({"pos_att_type": "c2p|p2p"}, "pos_att_type has p2p"),
        ({"embedding_size": 128, "hidden_size": 192}, "position_biased_input = True"),
        (
            {"embedding_size": 128, "hidden_size": 192, "position_biased_input": False, "type_vocab_size": 2},
            "position_biased_input = False and type_vocab_size = 2",
        ),
        (
            {"relative_attention": True, "pos_att_type": "c2p", "position_buckets": 256, "max_relative_positions": 100},
            "position_buckets = 256 for distances of at most 100",
        ),
    ],
)
def test_what_is_not_computed_is_refused(words: dict[str, Any], told: str) -> None:
    config = config_from_dict({"model_type": "deberta-v2", **words})
    with pytest.raises(ConfigError, match=told):
        family("deberta-v2").stack(config, "encoder")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"talking_head": True}, "talking_head = true"),
        ({"relative_attention": True}, "deberta: relative_attention = True without pos_att_type"),
        ({"pos_att_type": ["p2p"]}, "deberta: pos_att_type has p2p"),
        ({"embedding_size": 128, "hidden_size": 192}, "deberta: embedding_size = 128"),
    ],
)
def test_what_the_first_version_does_not_compute_is_refused(words: dict[str, Any], told: str) -> None:
    config = config_from_dict({"model_type": "deberta", **words})
    with pytest.raises(ConfigError, match=told):
        family("deberta").stack(config, "encoder")


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_deberta_cannot_decode(model_type: str, tmp_path: Path) -> None:
    oracle.save_encoder(model_type, tmp_path)
    with pytest.raises(JoinError, match=f"{model_type} cannot be the decoder"):
        EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path, tmp_path)
