"""Weights that TensorFlow and Flax wrote load on PyTorch and compute the same; h5py is all that it takes, for .h5."""

import shutil
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from conjoin import EncoderDecoderModel
from conjoin.checkpoint import open_checkpoint
from conjoin.checkpoint.dialects import Dialect, torch_array, torch_names
from conjoin.checkpoint.msgpack_writer import write_msgpack
from conjoin.errors import ConfigError, FileError
from conjoin.torch.pair.halves import Decoder, Encoder
from format_files import FIXTURES, FOLDERS, IDS, assert_same, expected, load, results, stored

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
POOLERS = ("pooler", "position_ids")


@pytest.mark.parametrize("folder", FOLDERS, ids=IDS)
def test_a_file_of_another_framework_gives_its_results(folder: Path) -> None:
    (inputs, wanted), model = expected(folder), load(folder, dtype="float32")
    if isinstance(model, Encoder):
        wanted = wanted * inputs["attention_mask"][..., None]  # nothing is computed at padding (decision 12)
    torch.testing.assert_close(results(model, inputs), wanted, **CLOSE)


@pytest.mark.parametrize("folder", [f for f in FOLDERS if not f.name.startswith("half")], ids=lambda f: f.name)
def test_nothing_is_fresh_and_nothing_but_poolers_is_left_over(folder: Path) -> None:
    report = EncoderDecoderModel.from_pretrained(folder).join_report
    assert report.fresh == []
    unused = [name for names in report.unused.values() for name in names]
    assert all(any(word in name for word in POOLERS) for name in unused), unused


def test_bfloat16_stays_bfloat16() -> None:
    folder = FIXTURES / "flax" / "bert-narrow_gpt2_msgpack-bfloat16"
    model = load(folder)
    assert model.dtype == torch.bfloat16
    inputs, wanted = expected(folder)
    assert (results(model, inputs) - wanted).abs().mean() < 2e-2


def test_halves_of_two_frameworks_join() -> None:
    bert, gpt2 = FIXTURES / "tf" / "half-bert_h5", FIXTURES / "flax" / "half-gpt2_msgpack"
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        bert, gpt2, encoder_from_tf=True, decoder_from_flax=True
    )
    for mine, alone in ((model.encoder, Encoder.from_pretrained(bert)), (model.decoder, Decoder.from_pretrained(gpt2))):
        state = mine.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in alone.state_dict().items())
    both = EncoderDecoderModel.from_encoder_decoder_pretrained(bert, FIXTURES / "tf" / "half-gpt2_h5", from_tf=True)
    assert both.join_report.copied


@pytest.fixture(name="crowded")
def crowded_fixture(tmp_path: Path) -> Path:
    """A folder with one model per framework, each with other weights."""
    model = load(FIXTURES / "tf" / "half-bert_h5")
    assert isinstance(model, Encoder)
    model.embed.words.weight.data.zero_()
    model.save_pretrained(tmp_path)
    shutil.copy(FIXTURES / "tf" / "half-bert_h5" / "tf_model.h5", tmp_path)
    shutil.copy(FIXTURES / "flax" / "half-bert_msgpack" / "flax_model.msgpack", tmp_path)
    return tmp_path


def test_safetensors_are_found_first_and_others_where_they_are_asked_for(crowded: Path) -> None:
    def words(**keywords: Any) -> torch.Tensor:
        return Encoder.from_pretrained(crowded, **keywords).embed.words.weight

    assert not words().any() and not words(from_pt=True).any() and not words(from_tf=False).any()
    for framework, name in (("tf", "half-bert_h5"), ("flax", "half-bert_msgpack")):
        alone = Encoder.from_pretrained(FIXTURES / framework / name).embed.words.weight
        assert torch.equal(words(**{f"from_{framework}": True}), alone)
    with pytest.raises(ConfigError, match="from_tf and from_flax are set; weights come from one of them"):
        words(from_tf=True, from_flax=True)


def test_weights_of_a_framework_that_is_not_there_are_not_replaced_by_others() -> None:
    with pytest.raises(FileError, match=r"expected model.safetensors or pytorch_model.bin of PyTorch, or an index"):
        Encoder.from_pretrained(FIXTURES / "tf" / "half-bert_h5", from_pt=True)
    dialect = FIXTURES / "tf" / "bert-narrow_gpt2_safetensors"
    with pytest.raises(
        FileError, match=r"(?s)model.safetensors is TensorFlow's.*hint: leave from_flax= \(--from\) out"
    ):
        EncoderDecoderModel.from_pretrained(dialect, from_flax=True)
    assert EncoderDecoderModel.from_pretrained(dialect, from_tf=True).join_report.copied


def test_the_checkpoint_tells_who_wrote_it() -> None:
    for folder in FOLDERS:
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.format == folder.parent.name


def _unpacked(path: Path) -> dict[str, np.ndarray]:
    """The file as msgpack's own library reads it, as flax does."""
    import ml_dtypes

    def array(code: int, payload: bytes) -> np.ndarray:
        shape, dtype, data = msgpack.unpackb(payload, raw=True)
        kind = ml_dtypes.bfloat16 if dtype == b"bfloat16" else dtype.decode()
        return np.frombuffer(data, kind).reshape(shape)

    def leaves(tree: Any, prefix: str = "") -> Any:
        for key, value in tree.items():
            if isinstance(value, dict) and "__msgpack_chunked_array__" in value:
                shape = [value["shape"][str(i)] for i in range(len(value["shape"]))]
                chunks = [value["chunks"][str(i)] for i in range(len(value["chunks"]))]
                yield prefix + key, np.concatenate(chunks).reshape(shape)
            elif isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}/")
            else:
                yield prefix + key, value

    return dict(leaves(msgpack.unpackb(path.read_bytes(), raw=False, strict_map_key=False, ext_hook=array)))


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("flax/*/*.msgpack")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_walk_through_a_file_finds_what_its_library_unpacks_and_writes_its_bytes(path: Path, tmp_path: Path) -> None:
    wanted = {name: a.view(np.uint16) if a.dtype.name == "bfloat16" else a for name, a in _unpacked(path).items()}
    with open_checkpoint(path) as checkpoint:
        found = stored(checkpoint)
        dtypes = {part.dtype for part in checkpoint.values()}
    assert_same(found, wanted)
    (dtype,) = dtypes
    write_msgpack(tmp_path / "again", {name: (array, dtype) for name, array in found.items()})
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("chunk_bytes", [4, 12, 100])
def test_arrays_in_chunks_are_put_together(tmp_path: Path, chunk_bytes: int) -> None:
    rng = np.random.default_rng(0)
    wanted = {"a/kernel": rng.normal(size=(3, 7)).astype("f4"), "a/bias": rng.normal(size=5).astype("f4")}
    path = tmp_path / "flax_model.msgpack"
    write_msgpack(path, {name: (array, "float32") for name, array in wanted.items()}, chunk_bytes=chunk_bytes)
    assert_same(_unpacked(path), wanted)
    with open_checkpoint(tmp_path) as checkpoint:
        assert np.array_equal(checkpoint.array("a.weight"), wanted["a/kernel"].T)
        assert np.array_equal(checkpoint.array("a.bias"), wanted["a/bias"])


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["bert/encoder/layer_._0/output/LayerNorm/gamma:0"], ["bert.encoder.layer.0.output.LayerNorm.weight"]),
        (["mlm___cls/predictions/bias:0"], ["cls.predictions.bias"]),
        (["model.shared/model.shared/embeddings:0"], ["model.shared.weight"]),
        (["final_logits_bias:0"], ["final_logits_bias"]),
        (
            ["m_1/encoder/roberta/embeddings/x/kernel:0", "m_1/decoder/roberta/x/beta:0", "m_1/enc_to_dec_proj/bias:0"],
            ["encoder.embeddings.x.weight", "decoder.roberta.x.bias", "enc_to_dec_proj.bias"],
        ),
        (
            ["encoder/encoder/block_._0/w/kernel:0", "encoder/shared/weight:0", "decoder/x/weight:0"],
            ["encoder.encoder.block.0.w.weight", "encoder.shared.weight", "decoder.x.weight"],
        ),
    ],
)
def test_tensorflows_names_in_pytorchs_words(names: list[str], wanted: list[str]) -> None:
    assert list(torch_names(names, "tf").values()) == wanted


def test_flaxs_names_in_pytorchs_words() -> None:
    names = ["params/bn/scale", "batch_stats/bn/mean", "params/embed/embedding", "h/0/kernel", "final_logits_bias"]
    wanted = ["bn.weight", "bn.running_mean", "embed.weight", "h.0.weight", "final_logits_bias"]
    assert list(torch_names(names, "flax").values()) == wanted


@pytest.mark.parametrize("framework", ["tf", "flax"])
@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 2), (3, 5, 2, 7)])
def test_matrices_and_convolutions_go_there_and_back(framework: Any, shape: tuple[int, ...]) -> None:
    dialect, array = Dialect(framework), np.random.default_rng(0).normal(size=shape)
    kind = dialect.kind("conv.weight", shape)
    name = "/".join(dialect.path("conv.weight", kind))
    turned = dialect.array(array, kind)
    assert name == "conv/kernel" and turned.shape != shape
    assert np.array_equal(torch_array(name, turned), array)
