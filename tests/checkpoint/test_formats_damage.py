"""Damaged or hostile .h5 and .msgpack files give one clear error of ours, and a missing h5py says what to install."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin import EncoderDecoderModel
from conjoin.checkpoint import H5, Dialect, open_checkpoint, replacing_folder, write_dialect
from conjoin.checkpoint.msgpack_writer import write_msgpack
from conjoin.errors import ConjoinError, MissingBackend, WeightError
from format_files import FIXTURES

WHOLE = FIXTURES / "tf" / "bert_bert-narrow_h5"
SHARDS = FIXTURES / "tf" / "bert_bert-narrow_h5-sharded"
FLAX_SHARDS = FIXTURES / "flax" / "bert_bert-narrow_msgpack-sharded"


def _error(path: Path, kind: type[ConjoinError] = WeightError) -> str:
    with pytest.raises(kind) as caught:
        open_checkpoint(path)
    return str(caught.value)


def _packed(tmp_path: Path, value: Any) -> Path:
    raw = value if isinstance(value, bytes) else msgpack.packb(value)
    (tmp_path / "flax_model.msgpack").write_bytes(raw)
    return tmp_path


def _array(shape: Any, dtype: Any, data: Any) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


# Flax


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", "truncated: the file ends after 0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "bytes after the end of the map"),
        ([1, 2], "holds a list, expected a map of arrays"),
        ({"a": {"b": _array([2], "float32", b"\0" * 7)}}, r"a/b: shape [2] of float32 needs 8 bytes, found 7"),
        ({"a": _array([2], "float128", b"\0" * 32)}, "a: dtype 'float128' is not one of float64, float32"),
        ({"a": _array([-1], "float32", b"")}, "unexpected byte 0xff"),
        ({"a": _array(["2"], "float32", b"")}, "shape must be at most 64 whole numbers"),
        ({"a": _array([1 << 40, 1 << 40], "float32", b"")}, "is larger than any memory"),
        ({"a": _array([0, 1 << 63], "float32", b"")}, "is larger than any memory"),
        ({"a": _array("2", "float32", b"")}, "expected shape, dtype and bytes inside an array"),
        ({"a": _array([1], "float32", "\0" * 4)}, "expected shape, dtype and bytes inside an array"),
        ({"a": msgpack.ExtType(1, b"\x93")}, "truncated"),
        ({"a": msgpack.ExtType(2, b"\0" * 8)}, "a: a value of type extension 2, expected an array"),
        ({"step": 7, "opt": [1]}, "step: a value of type int, expected an array"),
        ({"loss": 0.5}, "unexpected byte 0xcb at 6"),
        ({"a": None}, "unexpected byte 0xc0"),
        ({1: {}}, "a key before byte 2 is a int, expected text"),
        (b"\x82\xa1a\x80\xa1a\x80", "'a' appears twice in one map"),
        (b"\x81\xdb\xff\xff\xff\xff", "a text of 4294967295 bytes"),
        (b"\x81\xa1\xff\x80", "is not text"),
        (b"\xdf\xff\xff\xff\xff\xa1a\x80", "truncated"),
        (b"\x81\xa1a" * 99 + b"\x80", "maps are nested more than 64 deep"),
        ({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {}}}, "expected shape and chunks"),
        (
            {
                "a": {
                    "__msgpack_chunked_array__": True,
                    "shape": {"0": 3},
                    "chunks": {"0": _array([2], "float32", b"\0" * 8)},
                }
            },
            "1 chunks of 8 bytes do not make up shape [3] of float32",
        ),
    ],
)
def test_a_flax_file_that_is_not_one_says_why(tmp_path: Path, value: Any, words: str) -> None:
    text = _error(_packed(tmp_path, value))
    assert "flax_model.msgpack: " in text and words in text
    assert "hint: download or save the checkpoint again" in text


def test_all_problems_of_a_flax_file_are_told_at_once(tmp_path: Path) -> None:
    text = _error(_packed(tmp_path, {"a": 1, "b": {"c": _array([1], "object", b"")}}))
    assert "a: a value of type int" in text and "b/c: dtype 'object'" in text


def _small(path: Path) -> bytes:
    tensors = {"a/kernel": np.arange(6, dtype="f4").reshape(2, 3), "a/bias": np.ones(3, "f4"), "b": np.ones(5, "f4")}
    write_msgpack(path, {name: (array, "float32") for name, array in tensors.items()}, chunk_bytes=16)
    return path.read_bytes()


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_flax_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    raw = _small(folder / "flax_model.msgpack")
    _error(_packed(folder, raw[: cut % len(raw)]))


@settings(max_examples=200, deadline=None)
@given(where=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_flax_file_with_a_wrong_byte_never_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, where: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("byte")
    raw = bytearray(_small(folder / "flax_model.msgpack"))
    raw[where % len(raw)] = byte
    _packed(folder, bytes(raw))
    try:
        with open_checkpoint(folder) as checkpoint:
            for name in checkpoint:
                assert checkpoint.array(name).shape == checkpoint[name].shape
    except ConjoinError:
        pass


def test_names_that_mean_the_same_in_pytorch_are_refused(tmp_path: Path) -> None:
    one = _array([1], "float32", b"\0" * 4)
    text = _error(_packed(tmp_path, {"a": {"scale": one, "weight": one}}))
    assert "Tensors that have the same name in PyTorch:\n  a/weight and a/scale: a.weight" in text


# TensorFlow


def _h5(tmp_path: Path, **attributes: Any) -> h5py.File:
    file = h5py.File(tmp_path / "tf_model.h5", "w")
    for name, value in attributes.items():
        file.attrs[name] = value
    return file


def test_an_h5_file_that_is_not_one_says_why(tmp_path: Path) -> None:
    (tmp_path / "tf_model.h5").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "tf_model.h5: not a readable HDF5 file" in _error(tmp_path)
    raw = (WHOLE / "tf_model.h5").read_bytes()
    for share in (0.02, 0.3, 0.9):
        (tmp_path / "tf_model.h5").write_bytes(raw[: int(len(raw) * share)])
        assert "tf_model.h5: not a readable HDF5 file" in _error(tmp_path)
    _h5(tmp_path).close()
    assert "no attribute layer_names; expected a file written by TensorFlow's save_weights" in _error(tmp_path)


def test_layers_and_variables_that_are_missing_or_wrong_are_named(tmp_path: Path) -> None:
    with _h5(tmp_path, layer_names=["bert", "absent"]) as file:
        file.create_group("bert").attrs["weight_names"] = []
    assert "absent: no group with an attribute weight_names" in _error(tmp_path)
    with _h5(tmp_path, layer_names=["bert"]) as file:
        group = file.create_group("bert")
        group.attrs["weight_names"] = ["m/bert/gone:0", "m/bert/folder:0", "m/bert/text:0"]
        group.create_group("m/bert/folder:0")
        group["m/bert/text:0"] = "words"
    text = _error(tmp_path)
    assert "bert/gone:0: listed, but not in the file" in text
    assert "bert/folder:0: a group, expected an array" in text
    assert "bert/text:0: dtype object is not supported" in text


def test_an_h5_file_cannot_lead_to_another_one(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["x"] = np.ones(3)
    (tmp_path / "secret.bin").write_bytes(b"\0" * 24)
    with _h5(tmp_path, layer_names=["bert"]) as file:
        group = file.create_group("bert")
        group.attrs["weight_names"] = ["m/bert/a:0", "m/bert/b:0", "m/bert/c:0", "m/bert/d:0"]
        group.create_group("m/bert")["a:0"] = h5py.ExternalLink("secret.h5", "/x")
        group.create_dataset("m/bert/b:0", (3,), external=[(str(tmp_path / "secret.bin"), 0, 24)])
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", (3,))
        group.create_virtual_dataset("m/bert/c:0", layout)
        group["m/bert"]["d:0"] = h5py.ExternalLink("nowhere.h5", "/x")
    text = _error(tmp_path)
    for letter in "abc":
        assert f"bert/{letter}:0: leads to another file" in text
    assert "bert/d:0: listed, but not in the file" in text


def _odd_h5(tmp_path: Path, change: Any) -> str:
    with _h5(tmp_path, layer_names=["bert"]) as file:
        group = file.create_group("bert")
        group.attrs["weight_names"] = ["m/bert/x:0"]
        group["m/bert/x:0"] = np.ones(3, "f4")
        change(file)
    return _error(tmp_path)


def _replaced(key: str, value: Any) -> Any:
    def change(file: Any) -> None:
        del file[key]
        file[key] = value

    return change


H5_DAMAGE: dict[str, tuple[Any, str]] = {
    "an empty dataset": (
        _replaced("bert/m/bert/x:0", h5py.Empty("f4")),
        "bert/x:0: an empty dataset, expected an array",
    ),
    "links in a circle": (
        _replaced("bert/m/bert/x:0", h5py.SoftLink("/bert/m/bert/x:0")),
        "bert/x:0: cannot be read: ",
    ),
    "a layer in a circle": (_replaced("bert", h5py.SoftLink("/bert")), "bert: "),
    "names that are numbers": (
        lambda file: file["bert"].attrs.__setitem__("weight_names", [1, 2]),
        "the attribute weight_names of /bert is not a list of names",
    ),
    "one number for names": (
        lambda file: file.attrs.__setitem__("layer_names", 5),
        "the attribute layer_names of /: cannot be read",
    ),
    "names that are no text": (
        lambda file: file["bert"].attrs.__setitem__("weight_names", np.array([b"\xff\xfe"])),
        "the attribute weight_names of /bert: cannot be read: 'utf-8' codec",
    ),
    "no attribute's value": (
        lambda file: file.attrs.__setitem__("layer_names", h5py.Empty("f4")),
        "the attribute layer_names of /: cannot be read",
    ),
    "compound numbers": (
        _replaced("bert/m/bert/x:0", np.zeros(3, [("a", "f4"), ("b", "i2")])),
        "bert/x:0: dtype [('a', '<f4'), ('b', '<i2')] is not supported",
    ),
}


@pytest.mark.parametrize("kind", H5_DAMAGE)
def test_every_place_of_an_h5_file_that_cannot_be_read_is_named(tmp_path: Path, kind: str) -> None:
    change, words = H5_DAMAGE[kind]
    assert words in _odd_h5(tmp_path, change)


def test_numbers_that_were_never_written_are_no_zeros(tmp_path: Path) -> None:
    def change(file: Any) -> None:
        del file["bert/m/bert/x:0"]
        file["bert"].create_dataset("m/bert/x:0", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))

    assert "bert/x:0: its numbers were never written" in _odd_h5(tmp_path, change)


def test_without_h5py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingBackend, match=r"reading TensorFlow's \.h5 files needs h5py.*(?s:.)*conjoin\[convert\]"):
        EncoderDecoderModel.from_pretrained(WHOLE)
    tensors = [("a", np.ones(1, "f4"), "float32")]
    with pytest.raises(MissingBackend, match="writing TensorFlow's"), replacing_folder(tmp_path / "out") as staging:
        write_dialect(staging, tensors, dialect=Dialect("tf"), form=H5, max_shard_bytes=99)
    assert not (tmp_path / "out").exists()
    EncoderDecoderModel.from_pretrained(FIXTURES / "flax" / "bert_bert-narrow_msgpack")


def test_numbers_that_hdf5_has_no_name_for_are_refused(tmp_path: Path) -> None:
    tensors = [("a", np.ones(1, "u1"), "float8_e4m3fn")]
    with pytest.raises(WeightError, match=r"a:0: float8_e4m3fn cannot be stored in an \.h5 file"):  # noqa: SIM117
        with replacing_folder(tmp_path / "out") as staging:
            write_dialect(staging, tensors, dialect=Dialect("tf"), form=H5, max_shard_bytes=99)


# Shards


@pytest.mark.parametrize("folder", [SHARDS, FLAX_SHARDS], ids=["h5", "msgpack"])
def test_missing_and_exchanged_shards_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    shards = sorted((tmp_path / "model").glob("*-of-*"))
    kept = shards[1].read_bytes()
    shards[1].unlink()
    assert f"unusable shards:\n  {shards[1].name!r} is missing" in _error(tmp_path / "model")
    shards[1].write_bytes(shards[0].read_bytes())
    text = _error(tmp_path / "model")
    assert shards[1].name in text
    shards[1].write_bytes(kept[:-9])
    assert f"{shards[1].name}: " in _error(tmp_path / "model")


def test_a_shard_with_more_than_the_index_lists_is_refused(tmp_path: Path) -> None:
    shutil.copytree(SHARDS, tmp_path / "model")
    path = tmp_path / "model" / "tf_model.h5.index.json"
    index = json.loads(path.read_text())
    name = next(iter(index["weight_map"]))
    shard = index["weight_map"].pop(name)
    path.write_text(json.dumps(index))
    listed = list(index["weight_map"].values()).count(shard)
    assert f"{shard}: {listed + 1} tensors, the index lists {listed}" in _error(tmp_path / "model")
