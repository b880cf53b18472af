"""The doctor finds each fault that users have met, says how to mend it, and leaves the model as it was."""

import io
from dataclasses import replace
from typing import Any

import pytest
import rich.console
import torch
from torch import Tensor

from conjoin import ConjoinError, EncoderDecoderModel
from pairs import GPT, IDS, batch, fresh


def failed(model: EncoderDecoderModel, data: dict[str, Any]) -> list[str]:
    """Names of the checks that fail; every one must say how to mend it."""
    found = model.doctor(data).failed
    assert all(finding.fix and finding.detail for finding in found)
    return [finding.check for finding in found]


@pytest.mark.parametrize("init", ["normal", "self_attention"])
def test_a_sound_model_and_batch_pass(init: str) -> None:
    diagnosis = fresh(cross_attention_init=init).doctor(batch())
    assert diagnosis.ok, str(diagnosis)
    assert [finding.check for finding in diagnosis] == [
        "ids",
        "padding",
        "labels",
        "start",
        "future",
        "source",
        "loss",
        "gradients",
    ]


def test_closed_gates_are_no_fault() -> None:
    model = fresh(decoder=GPT, cross_attention_init="zero_gate")
    diagnosis = model.doctor(batch())
    assert diagnosis.ok, str(diagnosis)
    assert "zero_gate" in diagnosis["source"].detail


def test_a_decoder_that_sees_the_future_is_found() -> None:
    model = fresh()
    model.decoder.spec = replace(
        model.decoder.spec, blocks=tuple(replace(block, causal=False) for block in model.decoder.spec.blocks)
    )
    assert failed(model, batch()) == ["future"]


def test_a_source_that_is_not_read_is_found() -> None:
    model = fresh()
    with torch.no_grad():
        for block in model.decoder.blocks:
            block.cross_attn.o.weight.zero_()
    assert "source" in failed(model, batch())


def test_padding_without_a_mask_is_found() -> None:
    data = batch()
    data["input_ids"][1, -3:] = 4
    assert failed(fresh(), {**data, "attention_mask": None}) == ["padding"]


def test_a_batch_that_is_mostly_padding_is_found() -> None:
    data = batch()
    wide = torch.full((2, 40), 4)
    wide[:, :7] = data["input_ids"]
    mask = torch.zeros(2, 40, dtype=torch.long)
    mask[:, :5] = 1
    assert failed(fresh(), {**data, "input_ids": wide, "attention_mask": mask}) == ["padding"]


def test_a_source_without_a_word_is_found() -> None:
    data = batch()
    data["attention_mask"][1] = 0
    assert "padding" in failed(fresh(), data)


def test_labels_that_keep_their_padding_are_found() -> None:
    data = batch()
    labels = data["labels"].masked_fill(data["labels"] == -100, IDS["pad_token_id"])
    assert failed(fresh(), {**data, "labels": labels}) == ["labels"]


def test_labels_without_an_end_are_found() -> None:
    data = batch()
    labels = data["labels"].masked_fill(data["labels"] == IDS["eos_token_id"], 20)
    assert failed(fresh(), {**data, "labels": labels}) == ["labels"]


def test_targets_without_a_counted_label_are_found() -> None:
    data = batch()
    data["labels"][1] = -100
    assert failed(fresh(), data) == ["labels"]


def test_decoder_inputs_that_are_not_shifted_are_found() -> None:
    data = batch()
    shown = data["labels"].masked_fill(data["labels"] == -100, 3)
    assert "labels" in failed(fresh(), {**data, "decoder_input_ids": shown})


@pytest.mark.parametrize(("name", "size"), [("input_ids", 61), ("labels", 53)])
def test_ids_outside_the_vocabulary_are_found_before_the_model_trips_over_them(name: str, size: int) -> None:
    data = batch()
    data[name][0, 0] = size
    assert failed(fresh(), data) == ["ids"]


def test_another_start_in_training_than_in_generation_is_found() -> None:
    data = batch()
    shifted = fresh().prepare_decoder_input_ids_from_labels(data["labels"])
    shifted[:, 0] = 12
    assert failed(fresh(), {**data, "decoder_input_ids": shifted}) == ["start"]


def test_a_missing_start_is_found_with_the_line_to_write() -> None:
    model = fresh(bos_token_id=None)
    model.config.decoder_start_token_id = None
    (finding,) = model.doctor(batch()).failed
    assert finding.check == "start"
    assert "model.config.decoder_start_token_id =" in finding.fix


@pytest.mark.slow  # 100 steps of training
def test_a_decoder_that_a_wild_source_makes_worse_than_chance_is_found() -> None:
    model, data = fresh(decoder=GPT), batch()
    blind = {**data, "attention_mask": torch.zeros_like(data["attention_mask"])}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        model(**blind).loss.backward()
        optimizer.step()
    with torch.no_grad():
        for block in model.decoder.blocks:
            block.cross_attn.o.weight.normal_(std=30)
    assert model(**blind).loss < 1.0
    assert failed(model, data) == ["loss"]


def test_a_loss_that_is_not_a_number_is_found() -> None:
    model = fresh()
    with torch.no_grad():
        model.decoder.head.bias[0] = float("nan")
    assert "loss" in failed(model, batch())


def test_a_loss_too_good_for_fresh_parameters_is_found() -> None:
    model = fresh()
    data = batch(labels=torch.full((2, 11), IDS["eos_token_id"]))
    with torch.no_grad():
        model.decoder.head.bias[IDS["eos_token_id"]] = 30.0
    assert "loss" in failed(model, data)


def test_frozen_fresh_parameters_are_found() -> None:
    assert failed(fresh().freeze("cross_attention"), batch()) == ["gradients"]


def test_fresh_parameters_out_of_reach_are_found() -> None:
    model = fresh()
    broken = model.decoder.blocks[1].cross_attn.o
    broken.forward = lambda x: torch.nn.functional.linear(x, broken.weight, broken.bias).detach()
    assert failed(model, batch()) == ["gradients"]


def test_gradients_of_a_loaded_model_are_those_of_its_cross_attention(tmp_path: Any) -> None:
    fresh().save_pretrained(tmp_path / "m")
    model = EncoderDecoderModel.from_pretrained(tmp_path / "m")
    assert "cross-attention" in model.doctor(batch())["gradients"].detail
    assert failed(model.train_only("encoder"), batch()) == []


def test_the_doctor_leaves_everything_as_it_was() -> None:
    model = fresh(hidden_dropout_prob=0.3).train()
    model.encoder.eval()
    model.freeze("embeddings")
    data = batch()
    model(**data).loss.backward()
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    copies = {name: value.clone() for name, value in data.items()}
    random = torch.get_rng_state()
    model.doctor(data)
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(p, state[name]) for name, p in model.named_parameters())
    assert all(_same(p.grad, gradients[name]) for name, p in model.named_parameters())
    assert not model.encoder.embed.words.weight.requires_grad
    assert all(torch.equal(data[name], value) for name, value in copies.items())


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def test_a_diagnosis_prints_as_a_table_and_fixes_stand_below() -> None:
    data = batch()
    data["labels"][1] = -100
    diagnosis = fresh().doctor(data)
    console = rich.console.Console(width=160, record=True, file=io.StringIO())
    console.print(diagnosis)
    for text in (str(diagnosis), console.export_text()):
        assert "future" in text
        assert "fix labels: drop empty targets." in text


def test_a_batch_without_labels_is_refused() -> None:
    with pytest.raises(ConjoinError, match="the batch has no labels"):
        fresh().doctor({"input_ids": batch()["input_ids"]})


def test_lists_and_embeddings_are_taken_too() -> None:
    model, data = fresh(), batch()
    lists = {name: value.tolist() for name, value in data.items()}
    assert model.doctor(lists).ok
    embedded = {**data, "inputs_embeds": model.encoder.embed.look_up(data["input_ids"]).detach()}
    del embedded["input_ids"]
    assert model.doctor(embedded).ok
