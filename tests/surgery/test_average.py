"""The mean of checkpoints: numbers, dtypes, settings, and what cannot be averaged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import run_fixture  # noqa: F401  (a fixture)
from conjoin import ConfigError, EncoderDecoderModel, FileError, WeightError, average_checkpoints
from conjoin.checkpoint import from_float32, to_float32
from conjoin.torch.pair.pretrained import plain_state
from pairs import SOURCE, TARGET_LIKE_SOURCE, fresh, stir


def save(folder: Path, *, dtype: torch.dtype = torch.float32, **values: Any) -> EncoderDecoderModel:
    model = stir(fresh(SOURCE, TARGET_LIKE_SOURCE, **values)).to(dtype)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("weights", [None, [1, 2, 5]])
def test_every_parameter_is_the_weighted_mean(tmp_path: Path, weights: Any) -> None:
    models = [save(tmp_path / str(n), share="embeddings") for n in range(3)]
    shares = np.array(weights or [1, 1, 1]) / sum(weights or [1, 1, 1])
    average_checkpoints([tmp_path / str(n) for n in range(3)], tmp_path / "mean", weights=weights)
    mean = EncoderDecoderModel.from_pretrained(tmp_path / "mean")
    states = [plain_state(model) for model in models]
    for name, parameter in plain_state(mean).items():
        expected = sum(float(share) * state[name].double() for share, state in zip(shares, states, strict=True))
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-6, atol=1e-7)
    assert mean.encoder.embed.words.weight is mean.decoder.embed.words.weight


def test_bfloat16_is_rounded_to_the_nearest(tmp_path: Path) -> None:
    models = [save(tmp_path / str(n), dtype=torch.bfloat16) for n in range(2)]
    average_checkpoints([tmp_path / "0", tmp_path / "1"], tmp_path / "mean")
    mean = EncoderDecoderModel.from_pretrained(tmp_path / "mean")
    name = "decoder.blocks.1.mlp.up.weight"
    expected = sum(plain_state(model)[name].float() for model in models) / 2
    assert mean.dtype == torch.bfloat16 and torch.equal(plain_state(mean)[name], expected.bfloat16())


def test_conversions_are_torchs() -> None:
    numbers = torch.cat([torch.randn(5000) * 10.0 ** torch.randint(-30, 30, (5000,)), torch.tensor([0.0, -0.0, 3e38])])
    bits = from_float32(numbers.numpy(), "bfloat16")
    assert np.array_equal(bits, numbers.bfloat16().view(torch.uint16).numpy())
    assert np.array_equal(to_float32(bits, "bfloat16"), numbers.bfloat16().float().numpy())
    assert np.array_equal(from_float32(np.float32([0.1, 2]), "float16"), np.float16([0.1, 2]))


def test_a_part_is_untrained_only_if_it_is_in_all(tmp_path: Path) -> None:
    for name, parts in (("a", ["decoder.cross_attention", "decoder.head"]), ("b", ["decoder.head"])):
        save(tmp_path / name)
        path = tmp_path / name / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "conjoin": {"fresh": parts}}))
    (tmp_path / "b" / "trainer_state.json").write_text("{}")
    average_checkpoints([tmp_path / "a", tmp_path / "b"], tmp_path / "mean")
    assert json.loads((tmp_path / "mean" / "config.json").read_text())["conjoin"]["fresh"] == ["decoder.head"]
    assert not (tmp_path / "mean" / "trainer_state.json").exists()


def test_what_cannot_be_averaged_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a")
    save(tmp_path / "b")
    stir(fresh(SOURCE.copy(num_hidden_layers=3), TARGET_LIKE_SOURCE)).save_pretrained(tmp_path / "deep")
    pair, out = [tmp_path / "a", tmp_path / "b"], tmp_path / "mean"
    with pytest.raises(ConfigError, match="expected two or more"):
        average_checkpoints(pair[:1], out)
    with pytest.raises(ConfigError, match="configs differ in encoder"):
        average_checkpoints([pair[0], tmp_path / "deep"], out)
    for weights in ([1], [0, 0], [-1, 2], [float("nan"), 1]):
        with pytest.raises(ConfigError, match="expected 2 numbers of 0 or more"):
            average_checkpoints(pair, out, weights=weights)
    with pytest.raises(FileError, match="the model that is read"):
        average_checkpoints(pair, pair[0])
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "b" / "model.safetensors"
    tensors = load_file(path)
    tensors["other"] = np.ones(2, np.float32)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(WeightError, match="other"):
        average_checkpoints(pair, out)
    assert not out.exists()


def test_the_command_averages(tmp_path: Path, run: Any) -> None:
    for name in "ab":
        save(tmp_path / name)
    told = run("average", tmp_path / "a", tmp_path / "b", "--weights", "3,1", "--out", tmp_path / "mean")
    assert told.code == 0 and told.lines == [str(tmp_path / "mean")] and "mean of 2 checkpoints" in told.err
    assert run("average", tmp_path / "a", tmp_path / "b", "--weights", "x", "--out", tmp_path / "m").code == 2
