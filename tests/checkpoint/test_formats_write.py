"""Checkpoints are rewritten in any framework's files and read back the same, in the names of transformers' classes."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import oracle
from command_line import folder_fixture, run_fixture
from conjoin import ConjoinWarning, EncoderDecoderModel
from conjoin.checkpoint import SAFETENSORS, Framework, open_checkpoint
from conjoin.checkpoint.hdf5 import write_h5
from conjoin.join import convert_checkpoint
from family_pairs import DECODER, DECODERS, ENCODER, ENCODERS
from format_files import FIXTURES, FOLDERS, IDS, arrays, assert_same, expected, load, results, stored
from pairs import fresh, greedy, save_half, stir

__all__ = ["folder_fixture", "run_fixture"]

FORMS: dict[str, tuple[Framework, dict[str, Any]]] = {
    "safetensors": ("pt", {}),
    "safetensors, shards": ("pt", {"max_shard_size": "10KB"}),
    "h5": ("tf", {}),
    "h5, shards": ("tf", {"max_shard_size": "10KB"}),
    "TensorFlow's safetensors": ("tf", {"form": SAFETENSORS}),
    "TensorFlow's safetensors, shards": ("tf", {"form": SAFETENSORS, "max_shard_size": "10KB"}),
    "msgpack": ("flax", {}),
    "msgpack, shards": ("flax", {"max_shard_size": "10KB"}),
    "Flax's safetensors": ("flax", {"form": SAFETENSORS}),
}
SOME = ["tf/bert-narrow_gpt2_h5", "tf/bart_safetensors", "flax/t5_msgpack", "flax/half-gpt2_msgpack"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SOME)
def test_every_form_is_read_back_bit_for_bit(name: str, form: str, tmp_path: Path) -> None:
    framework, keywords = FORMS[form]
    written = convert_checkpoint(FIXTURES / name, framework, out=tmp_path / "out", **keywords)
    assert (len(written) > 1) == ("shards" in form)
    assert_same(arrays(tmp_path / "out"), arrays(FIXTURES / name))
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert checkpoint.format == framework
    inputs, wanted = expected(FIXTURES / name)
    assert (results(load(tmp_path / "out"), inputs) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_a_file_that_went_through_pytorch_comes_back_as_its_own_class_wrote_it(folder: Path, tmp_path: Path) -> None:
    form = "h5" if "h5" in folder.name else "safetensors" if "safetensors" in folder.name else "msgpack"
    kind = SAFETENSORS if form == "safetensors" else None
    shard = "12KB" if "sharded" in folder.name else "5GB"
    framework: Framework = "tf" if folder.parent.name == "tf" else "flax"
    convert_checkpoint(folder, "pt", out=tmp_path / "pt")
    convert_checkpoint(tmp_path / "pt", framework, out=tmp_path / "back", form=kind, max_shard_size=shard)
    with open_checkpoint(folder) as before, open_checkpoint(tmp_path / "back") as after:
        wanted = stored(before)
        if folder.name == "unnamed_h5":  # gets the names that it should have had
            wanted = {name.replace("/tf_bert_lm_head_model/", "/"): array for name, array in wanted.items()}
        assert_same(stored(after), wanted)
    if framework == "flax" and "sharded" not in folder.name and form == "msgpack":
        assert (tmp_path / "back" / "flax_model.msgpack").read_bytes() == (folder / "flax_model.msgpack").read_bytes()


@pytest.mark.parametrize("name", ["bert_bert-narrow_h5", "bart_h5", "t5_h5", "half-bert-decoder_h5", "electra_gpt2_h5"])
def test_an_h5_file_has_the_groups_that_transformers_looks_in(name: str, tmp_path: Path) -> None:
    """It goes through a layer's variables by their names behind the first part, whatever that is."""
    convert_checkpoint(FIXTURES / "tf" / name, "pt", out=tmp_path)
    convert_checkpoint(tmp_path, "tf")

    def variables(path: Path) -> dict[str, set[str]]:
        with h5py.File(path) as file:
            layers = list(file.attrs["layer_names"])
            names = {layer: [_text(name) for name in file[layer].attrs["weight_names"]] for layer in map(_text, layers)}
        return {layer: {name.partition("/")[2] or name for name in found} for layer, found in names.items()}

    ours, theirs = variables(tmp_path / "tf_model.h5"), variables(FIXTURES / "tf" / name / "tf_model.h5")
    assert sorted(ours) == sorted(theirs)
    for layer, names in theirs.items():
        assert names <= ours[layer]
        assert ours[layer] - names <= {"shared/embeddings:0"}  # T5's own head does not use it; ours cannot know


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else name


@pytest.mark.parametrize("key", ENCODERS)
def test_every_family_survives_as_an_encoder(key: str, tmp_path: Path) -> None:
    check_formats(key, DECODER, tmp_path)


@pytest.mark.parametrize("key", DECODERS)
def test_every_family_survives_as_a_decoder(key: str, tmp_path: Path) -> None:
    check_formats(ENCODER, key, tmp_path)


def check_formats(encoder: str, decoder: str, tmp_path: Path) -> None:
    save_half(tmp_path / "encoder", encoder, "encoder")
    save_half(tmp_path / "decoder", decoder, "decoder")
    halves = tmp_path / "encoder", tmp_path / "decoder"
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(*halves, decoder_start_token_id=oracle.START_ID)
    stir(model).save_pretrained(tmp_path / "pair")
    for folder in (tmp_path / "pair", *halves):
        before = arrays(folder)
        for framework in ("tf", "flax"):
            convert_checkpoint(folder, framework)
            after = arrays(folder, framework=framework)
            prefix = "" if folder.name == "pair" else _prefix(before, after)
            assert_same(after, {prefix + name: array for name, array in before.items()})


def _prefix(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What TensorFlow puts around a bare model."""
    first, other = min(before, key=len), min(after, key=len)
    return other.removesuffix(first) if other.endswith(first) else ""


@pytest.mark.parametrize("share", ["all", "embeddings"])
@pytest.mark.parametrize("framework", ["tf", "flax"])
def test_a_pair_that_shares_still_does(share: Any, framework: Framework, tmp_path: Path) -> None:
    from pairs import SOURCE, TARGET_LIKE_SOURCE, batch

    model = stir(fresh(SOURCE, TARGET_LIKE_SOURCE, share=share))
    model.save_pretrained(tmp_path / "pair")
    convert_checkpoint(tmp_path / "pair", framework, out=tmp_path / "out")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    assert again.encoder.embed.words.weight is again.decoder.embed.words.weight
    assert (greedy(again, batch()) == greedy(model, batch())).all()


def test_bfloat16_goes_through_flax_and_is_widened_in_h5(tmp_path: Path) -> None:
    folder = FIXTURES / "flax" / "bert-narrow_gpt2_msgpack-bfloat16"
    convert_checkpoint(folder, "pt", out=tmp_path / "pt")
    convert_checkpoint(tmp_path / "pt", "flax", out=tmp_path / "flax")
    assert_same(arrays(tmp_path / "flax"), arrays(folder))
    with pytest.warns(ConjoinWarning, match="HDF5 has no bfloat16: the weights are written as float32"):
        convert_checkpoint(folder, "tf", out=tmp_path / "tf")
    wide = {name: (array.astype(np.uint32) << 16).view(np.float32) for name, array in arrays(folder).items()}
    assert_same(arrays(tmp_path / "tf"), wide)


def test_long_lists_of_names_are_cut_as_keras_cuts_them(tmp_path: Path) -> None:
    names = [f"encoder/layer_._{number}/{'x' * 900}/kernel:0" for number in range(90)]
    write_h5(tmp_path / "tf_model.h5", {name: (np.ones((1, 2), np.float32), "float32") for name in names}, whole=True)
    with h5py.File(tmp_path / "tf_model.h5") as file:
        assert "weight_names0" in file["encoder"].attrs and "weight_names" not in file["encoder"].attrs
    with open_checkpoint(tmp_path) as checkpoint:
        assert sorted(stored(checkpoint)) == sorted(names)


# The command


def test_convert_puts_a_file_beside_the_others(tmp_path: Path, run: Any) -> None:
    fresh().save_pretrained(tmp_path / "pair")
    before = arrays(tmp_path / "pair")
    for framework, name in (
        ("tensorflow", "tf_model.h5"),
        ("flax", "flax_model.msgpack"),
        ("torch", "model.safetensors"),
    ):
        told = run("convert", tmp_path / "pair", "--to", framework)
        assert (told.code, told.lines) == (0, [str(tmp_path / "pair" / name)]), told.err
    for framework in ("pt", "tf", "flax"):
        assert_same(arrays(tmp_path / "pair", framework=framework), before)


def test_convert_writes_a_model_of_its_own(folder: Path, tmp_path: Path, run: Any) -> None:
    told = run("convert", folder, "--to", "flax", "--out", tmp_path / "out", "--max-shard-size", "20KB")
    assert told.code == 0, told.err
    assert told.lines[-1] == str(tmp_path / "out" / "flax_model.msgpack.index.json")
    kept = {path.name for path in folder.rglob("*")} - {"model.safetensors"}
    assert kept <= {path.name for path in (tmp_path / "out").rglob("*")}
    model, again = (EncoderDecoderModel.from_pretrained(path) for path in (folder, tmp_path / "out"))
    assert again.tokenizer is not None
    assert all((one == other).all() for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_convert_chooses_among_several_sources(tmp_path: Path, run: Any) -> None:
    fresh().save_pretrained(tmp_path)
    run("convert", tmp_path, "--to", "flax")
    fresh().save_pretrained(tmp_path)
    out = tmp_path / "out"
    told = run("convert", tmp_path, "--from", "flax", "--to", "tensorflow", "--safetensors", "--out", out)
    assert told.code == 0, told.err
    assert_same(arrays(out), arrays(tmp_path, framework="flax"))
    assert json.loads((out / "config.json").read_text())["model_type"] == "encoder-decoder"


@pytest.mark.parametrize("framework", ["flax", "tensorflow"])
def test_convert_keeps_the_weights_of_other_frameworks(tmp_path: Path, run: Any, framework: str) -> None:
    fresh().save_pretrained(tmp_path, max_shard_size="10KB")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*")}
    told = run("convert", tmp_path, "--to", framework, "--safetensors")
    assert (told.code, told.lines) == (1, [])
    assert told.err.startswith(f"FileError: {tmp_path} holds PyTorch's model.safetensors.index.json")
    assert "--out" in told.err and "leave --safetensors" in told.err
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*")} == before
    out = tmp_path / "out"
    for _ in range(2):  # its own file, it may write again
        assert run("convert", tmp_path, "--to", framework, "--safetensors", "--out", out).code == 0
    assert run("convert", out, "--to", framework, "--safetensors").code == 0
    told = run("convert", out, "--to", "torch")
    assert told.code == 1
    assert "model.safetensors, which PyTorch's model.safetensors would replace" in told.err


def test_convert_keeps_an_old_pytorch_file(tmp_path: Path, run: Any) -> None:
    model = fresh()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "kept.safetensors")
    torch.save(load_file(tmp_path / "kept.safetensors"), tmp_path / "pytorch_model.bin")
    told = run("convert", tmp_path, "--to", "flax", "--safetensors")
    assert told.code == 1
    assert "holds PyTorch's pytorch_model.bin" in told.err
    assert run("convert", tmp_path, "--to", "torch").code == 0


@pytest.mark.parametrize("framework", ["flax", "tensorflow"])
def test_convert_refuses_an_8_bit_model(tmp_path: Path, run: Any, framework: str) -> None:
    fresh().quantize().save_pretrained(tmp_path)
    told = run("convert", tmp_path, "--to", framework, "--out", tmp_path / "out")
    assert (told.code, told.lines) == (1, [])
    assert told.err.startswith(f"ConfigError: {tmp_path} is quantised")
    assert "hint: convert the float model" in told.err
    assert not (tmp_path / "out").exists()
    assert run("convert", tmp_path, "--to", "torch", "--out", tmp_path / "out").code == 0
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / weights).read_bytes()


def test_convert_refuses_what_it_cannot_do(tmp_path: Path, run: Any) -> None:
    fresh().save_pretrained(tmp_path)
    assert run("convert", tmp_path, "--to", "caffe").code == 2
    assert "is not a size" in run("convert", tmp_path, "--to", "flax", "--max-shard-size", "much").err
    told = run("convert", tmp_path, "--to", "flax", "--from", "tensorflow")
    assert (told.code, told.lines) == (1, [])
    assert "expected tf_model.h5 or model.safetensors of TensorFlow" in told.err
    assert not (tmp_path / "flax_model.msgpack").exists()
