"""The doctor on JAX finds what PyTorch's does, in the same words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conjoin import ConjoinError, EncoderDecoderModel, FlaxEncoderDecoderModel
from jax_models import inputs
from pairs import GPT, IDS, batch, fresh

NUMBERS = r"\d+\.\d+(e-?\d+)?"


def both(folder: Path, model: EncoderDecoderModel, data: dict[str, Any]) -> FlaxEncoderDecoderModel:
    """Compare the findings over the same weights; JAX's model."""
    model.save_pretrained(folder / "model")
    theirs = EncoderDecoderModel.from_pretrained(folder / "model").doctor(data)
    ours = FlaxEncoderDecoderModel.from_pretrained(folder / "model")
    found = ours.doctor(inputs({name: value for name, value in data.items() if value is not None}))
    assert [(f.check, f.status, f.fix) for f in found] == [(f.check, f.status, f.fix) for f in theirs]
    assert [_words(f.detail) for f in found] == [_words(f.detail) for f in theirs]
    return ours


def _words(detail: str) -> str:
    import re

    return re.sub(NUMBERS, "x", detail)


def test_a_sound_model_passes_with_torchs_words(tmp_path: Path) -> None:
    model = both(tmp_path, fresh(), batch())
    assert model.doctor(inputs(batch())).ok
    before = model.flat_params
    assert all(before[name] is value for name, value in model.flat_params.items())


@pytest.mark.slow
def test_a_closed_gate_is_no_fault(tmp_path: Path) -> None:
    model = both(tmp_path, fresh(decoder=GPT, cross_attention_init="zero_gate"), batch())
    assert "zero_gate" in model.doctor(inputs(batch()))["source"].detail


def test_a_source_that_is_not_read_and_bad_batches_are_found(tmp_path: Path) -> None:
    model, data = fresh(), batch()
    with torch.no_grad():
        for block in model.decoder.blocks:
            block.cross_attn.o.weight.zero_()
    ours = both(tmp_path, model, data)
    assert "source" in [finding.check for finding in ours.doctor(inputs(data)).failed]
    padded = data["labels"].masked_fill(data["labels"] == -100, IDS["pad_token_id"])
    shifted = fresh().prepare_decoder_input_ids_from_labels(data["labels"])
    shifted[:, 0] = 12
    for change in ({"labels": padded}, {"decoder_input_ids": shifted}, {"input_ids": data["input_ids"] + 60}):
        given = inputs({**data, **change})
        mine, theirs = ours.doctor(given).failed, model.doctor({**data, **change}).failed
        assert [finding.check for finding in mine] == [finding.check for finding in theirs]


@pytest.mark.slow
def test_frozen_fresh_parameters_and_missing_labels_are_found() -> None:
    model = FlaxEncoderDecoderModel(fresh().config)
    data = {name: np.asarray(value) for name, value in batch().items()}
    (finding,) = model.doctor(data, trained=[]).failed
    assert finding.check == "gradients" and "frozen" in finding.detail
    embeds = model.flat_params["encoder.embed.words.weight"][data["input_ids"]]
    embedded = {name: value for name, value in data.items() if name != "input_ids"}
    assert model.doctor({**embedded, "inputs_embeds": embeds}).ok
    with pytest.raises(ConjoinError, match="the batch has no labels"):
        model.doctor({"input_ids": data["input_ids"]})
