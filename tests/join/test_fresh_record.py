"""What a join drew and nobody trained stays on record: in config.json, in `inspect`, and when the model writes."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import oracle
from command_line import run_fixture  # noqa: F401  (fixture)
from conjoin import EncoderDecoderConfig, EncoderDecoderModel, FlaxEncoderDecoderModel
from conjoin.errors import ConfigError, ConjoinWarning
from conjoin.join import part_of
from pairs import fresh, joined

CROSS = ["decoder.cross_attention"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pair as `conjoin join` writes it."""
    joined(tmp_path, "bert", "gpt2").save_pretrained(tmp_path / "out")
    return tmp_path / "out"


def said(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text()).get("conjoin", {}).get("fresh")


def source() -> torch.Tensor:
    return oracle.batch_for("bert", "gpt2")["input_ids"]


def step(model: EncoderDecoderModel) -> None:
    """One step of an ordinary training loop."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-5)
    model(**oracle.batch_for("bert", "gpt2")).loss.backward()
    optimizer.step()


def test_a_joined_folder_says_what_is_fresh_and_a_training_step_clears_it(folder: Path, tmp_path: Path) -> None:
    assert said(folder) == CROSS
    model = EncoderDecoderModel.from_pretrained(folder)
    assert model.config.fresh == CROSS
    assert model.join_report.fresh and {part_of(name) for name in model.join_report.fresh} == set(CROSS)
    model.save_pretrained(tmp_path / "as it was")
    assert said(tmp_path / "as it was") == CROSS
    step(model)
    model.save_pretrained(tmp_path / "trained")
    assert said(tmp_path / "trained") is None
    assert EncoderDecoderModel.from_pretrained(tmp_path / "trained").join_report.fresh == []


def test_frozen_cross_attention_stays_on_record(folder: Path, tmp_path: Path) -> None:
    model = EncoderDecoderModel.from_pretrained(folder).freeze("cross_attention")
    step(model)
    model.save_pretrained(tmp_path / "trained")
    assert said(tmp_path / "trained") == CROSS


def test_another_dtype_is_no_training(folder: Path, tmp_path: Path) -> None:
    EncoderDecoderModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert said(tmp_path / "half") == CROSS
    EncoderDecoderModel.from_pretrained(folder, dtype="bfloat16").save_pretrained(tmp_path / "again")
    assert said(tmp_path / "again") == CROSS


def test_generate_warns_once_that_nobody_trained_it(folder: Path) -> None:
    model = EncoderDecoderModel.from_pretrained(folder)
    with pytest.warns(ConjoinWarning, match=r"decoder\.cross_attention: fresh since the join, and never trained"):
        model.generate(source(), max_new_tokens=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(source(), max_new_tokens=2)
        trained = EncoderDecoderModel.from_pretrained(folder)
        step(trained)
        trained.generate(source(), max_new_tokens=2)
        told = EncoderDecoderModel.from_pretrained(folder)
        told.config.fresh = []
        told.generate(source(), max_new_tokens=2)
        fresh().generate(source(), max_new_tokens=2)  # random altogether: whoever made it knows


def test_a_user_may_say_that_it_is_trained(folder: Path, tmp_path: Path) -> None:
    model = EncoderDecoderModel.from_pretrained(folder)
    model.config.fresh = []
    model.save_pretrained(tmp_path / "told")
    assert said(tmp_path / "told") is None


def test_a_random_model_keeps_no_record(tmp_path: Path) -> None:
    fresh().save_pretrained(tmp_path)
    assert said(tmp_path) is None


def test_jax_keeps_the_record_too(folder: Path, tmp_path: Path) -> None:
    model = FlaxEncoderDecoderModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "same")
    assert said(tmp_path / "same") == CROSS
    flat = {name: value + 1e-3 for name, value in model.flat_params.items()}
    model.save_pretrained(tmp_path / "changed", params=flat)
    assert said(tmp_path / "changed") is None


def test_inspect_calls_fresh_what_is_fresh(folder: Path, run: Any) -> None:
    told = json.loads(run("inspect", folder, "--json").out)
    assert told["fresh"] == CROSS
    table = run("inspect", folder).out
    row = next(line.split() for line in table.splitlines() if line.strip().startswith("decoder.cross_attention"))
    assert row[1] == "0" and int(row[3]) > 0, "copied 0, all fresh"


@pytest.mark.parametrize("value", [5, "decoder", [3], {"a": 1}])
def test_a_record_that_is_no_list_of_names_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="fresh"):
        EncoderDecoderConfig.from_dict({"model_type": "encoder-decoder", "conjoin": {"fresh": value}})
