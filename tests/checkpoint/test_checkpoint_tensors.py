"""Opening checkpoints: safetensors and `.bin`, single and sharded; damaged ones give one clear error."""

import gc
import json
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import conjoin.checkpoint
from conjoin.checkpoint import (
    Checkpoint,
    TensorInfo,
    check_finite,
    nonfinite,
    open_checkpoint,
    replacing_folder,
    write_tensors,
)
from conjoin.errors import ConfigError, ConjoinError, FileError, WeightError


def _raw(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(shape: list[Any], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def _tensors() -> dict[str, torch.Tensor]:
    return {
        "a": torch.randn(3, 5),
        "b": torch.randn(7, dtype=torch.bfloat16),
        "c": torch.randn(2, 2).half(),
        "d": torch.arange(4),
        "e": torch.tensor(True),
        "f": torch.zeros(0, 3),
        "g": torch.randn(5).to(torch.float8_e4m3fn),
    }


def _as_torch(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    array = torch.from_numpy(checkpoint.array(name).copy())
    return array.view(getattr(torch, checkpoint[name].dtype))


def _error(folder: Path) -> str:
    with pytest.raises(ConjoinError) as caught:
        open_checkpoint(folder)
    return str(caught.value)


def _shards(folder: Path, weight_map: dict[str, Any], **files: dict[str, Any]) -> Path:
    for name, tensors in files.items():
        safetensors.numpy.save_file(tensors, folder / f"{name}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


# Reading


@pytest.mark.parametrize("kind", ["safetensors", "bin", "legacy bin"])
def test_every_dtype_is_read_bit_for_bit(tmp_path: Path, kind: str) -> None:
    tensors = _tensors()
    if kind == "safetensors":
        safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    else:
        path = tmp_path / "pytorch_model.bin"
        if kind == "legacy bin":
            del tensors["g"]  # that format is older than 8-bit floats
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "bin")
    with open_checkpoint(tmp_path) as checkpoint:
        assert sorted(checkpoint) == sorted(tensors) == sorted(checkpoint.names())
        assert checkpoint["b"] == TensorInfo("b", (7,), "bfloat16")
        assert (checkpoint.format, checkpoint.folder, len(checkpoint.files)) == ("pt", tmp_path, 1)
        for name, tensor in tensors.items():
            array = checkpoint.array(name)
            assert not array.flags.writeable
            assert array.flags.aligned
            assert _as_torch(checkpoint, name).view(-1).view(torch.uint8).equal(tensor.view(-1).view(torch.uint8))


def test_arrays_outlive_the_checkpoint_and_cost_no_descriptor(tmp_path: Path) -> None:
    count = resource.getrlimit(resource.RLIMIT_NOFILE)[0] + 50 if sys.platform == "linux" else 50
    count = min(count, 5000)
    safetensors.numpy.save_file(
        {f"t{i}": np.full(3, i, np.int32) for i in range(count)}, tmp_path / "model.safetensors"
    )
    with open_checkpoint(tmp_path) as checkpoint:
        arrays = {name: checkpoint.array(name) for name in checkpoint}
    gc.collect()
    assert all(arrays[f"t{i}"].tolist() == [i, i, i] for i in range(count))
    with pytest.raises(FileError, match="the checkpoint is closed"):
        checkpoint.array("t0")


def test_views_keep_the_map_alive(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": np.arange(6.0).reshape(2, 3)}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        view = checkpoint.array("a").T[1:]
    gc.collect()
    assert view.tolist() == [[1, 4], [2, 5]]


def test_unaligned_tensors_are_copied_into_place(tmp_path: Path) -> None:
    numbers = np.arange(3, dtype=np.float32)
    header = _raw({"x": _entry([1], 0, 1, "U8"), "a": _entry([3], 1, 13)}, b"\0" + numbers.tobytes())
    (tmp_path / "model.safetensors").write_bytes(header)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.array("a").tolist() == [0, 1, 2]
        assert checkpoint.array("a").flags.aligned


def test_an_open_checkpoint_does_not_see_a_save_that_replaces_it(tmp_path: Path) -> None:
    def save(value: float) -> None:
        with replacing_folder(tmp_path / "out") as staging:
            write_tensors(staging, [("a", np.full(4, value, np.float32), "float32")], max_shard_bytes=100)

    save(1.0)
    with open_checkpoint(tmp_path / "out") as checkpoint:
        save(2.0)
        assert checkpoint.array("a")[0] == 1.0
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert checkpoint.array("a")[0] == 2.0


def test_the_metadata_tells_the_framework(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": np.ones(1)}, tmp_path / "model.safetensors", {"format": "flax", "by": "me"})
    with open_checkpoint(tmp_path) as checkpoint:
        assert (checkpoint.format, checkpoint.metadata) == ("flax", {"format": "flax", "by": "me"})


def test_safetensors_go_before_bin_and_variants_have_their_own_name(tmp_path: Path) -> None:
    torch.save({"old": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    safetensors.numpy.save_file({"new": np.ones(1)}, tmp_path / "model.safetensors")
    safetensors.numpy.save_file({"half": np.ones(1)}, tmp_path / "model.fp16.safetensors")
    assert list(open_checkpoint(tmp_path)) == ["new"]
    assert list(open_checkpoint(tmp_path, variant="fp16")) == ["half"]
    assert list(open_checkpoint(tmp_path / "pytorch_model.bin")) == ["old"]
    with pytest.raises(FileError, match=r"no weights: expected model\.bf16\.safetensors\. It holds: model\.fp16"):
        open_checkpoint(tmp_path, variant="bf16")


def test_a_folder_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "rust_model.ot").touch()
    text = _error(tmp_path)
    assert "no weights: expected model.safetensors, pytorch_model.bin, tf_model.h5 or flax_model.msgpack" in text
    assert "It holds: rust_model.ot." in text
    assert "no such folder" in _error(tmp_path / "absent")


# Damaged files


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "truncated: 0 bytes, too short"),
        (b"\xff" * 9, "not a safetensors file: its header would be"),
        (struct.pack("<Q", 50) + b"{}", "truncated: the header is 50 bytes long, the file ends after 2"),
        (_raw(b"{nope"), "the header is not JSON"),
        (_raw(b"\xff\xfe{}"), "the header is not JSON"),
        (_raw(b"[" * 100_000), "the header is not JSON"),
        (_raw(b"[1" + b"0" * 5000 + b"]"), "the header is not JSON"),
        (_raw([]), "the header is a JSON list, expected an object"),
        (_raw(b'{"a": {}, "a": {}}'), "'a' appears twice"),
        (_raw({"__metadata__": {"format": 3}}), "__metadata__ must map text to text"),
        (_raw({"a": 1}), "a: expected exactly dtype, shape and two data_offsets"),
        (_raw({"a": {**_entry([1], 0, 4), "more": 1}}, b"1234"), "a: expected exactly dtype"),
        (_raw({"a": _entry([1], 0, 4, "F4")}), "a: dtype 'F4' is not one of F64"),
        (_raw({"a": _entry([-1], 0, 4)}), "a: shape must be at most 64 whole numbers >= 0, got [-1]"),
        (_raw({"a": _entry([True], 0, 4)}), "a: shape must be"),
        (_raw({"a": _entry([1.0], 0, 4)}), "a: shape must be"),
        (_raw({"a": _entry([1] * 65, 0, 4)}), "a: shape must be"),
        (_raw({"a": _entry([0, 2**62], 0, 0)}), "a: shape [0, 4611686018427387904] is larger than any memory"),
        (_raw({"a": _entry([1], 4, 0)}), "a: data_offsets [4, 0] run backwards"),
        (_raw({"a": _entry([3], 0, 8)}, bytes(8)), "a: shape [3] of float32 needs 12 bytes, its data_offsets span 8"),
        (_raw({"a": _entry([2], 0, 8), "b": _entry([2], 4, 12)}, bytes(12)), "b: overlaps a by 4 bytes"),
        (_raw({"a": _entry([1], 0, 4), "b": _entry([1], 8, 12)}, bytes(12)), "4 bytes before b belong to no tensor"),
        (_raw({"a": _entry([2], 0, 8)}, bytes(5)), "truncated: 3 bytes are missing; cut off: a"),
        (_raw({"a": _entry([1], 0, 4)}, bytes(9)), "5 bytes after the last tensor belong to no tensor"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, raw: bytes, words: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(raw)
    text = _error(tmp_path)
    assert f"model.safetensors: {words}" in text
    assert text.endswith("hint: download or save the checkpoint again")


def test_all_problems_of_a_header_come_in_one_error(tmp_path: Path) -> None:
    bad = {"a": _entry([3], 0, 8), "b": _entry([1], 8, 12, "Q8"), "c": {}}
    (tmp_path / "model.safetensors").write_bytes(_raw(bad, bytes(12)))
    text = _error(tmp_path)
    assert all(f"model.safetensors: {name}: " in text for name in "abc")


@settings(deadline=None)
@given(st.data())
def test_no_damage_gives_anything_but_our_errors(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    whole = bytearray(safetensors.numpy.save({"a": np.ones((2, 3), np.float32), "b": np.ones(2, np.int8)}))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (folder / "model.safetensors").write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        with open_checkpoint(folder) as checkpoint:
            for name in checkpoint:
                assert checkpoint.array(name).shape == checkpoint[name].shape
    except WeightError as error:
        assert "model.safetensors" in str(error)


def test_the_file_is_closed_again_after_an_error(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "one.safetensors")
    (tmp_path / "two.safetensors").write_bytes(b"short")
    _shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert "two.safetensors: truncated" in _error(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Index files


def test_every_disagreement_between_index_and_shards_is_named(tmp_path: Path) -> None:
    one = {"a": np.ones(1), "both": np.ones(1), "unlisted": np.ones(1)}
    two = {"both": np.ones(1), "b": np.ones(1)}
    listed = {"a": "one.safetensors", "both": "one.safetensors", "b": "two.safetensors", "gone": "two.safetensors"}
    text = _error(_shards(tmp_path, listed, one=one, two=two))
    assert "gone: listed for two.safetensors, which does not hold it" in text
    assert "both: in more than one shard: one.safetensors, two.safetensors" in text
    assert "unlisted: in one.safetensors, but the index does not list it" in text


def test_path_tricks_and_missing_shards_are_refused_together(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"a": np.ones(1)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    tricks = ["../secret.safetensors", str(tmp_path / "secret.safetensors"), "C:\\secret", "a\\..\\..\\b", "", "x\0y"]
    names = [*tricks, "link.safetensors", "absent.safetensors"]
    text = _error(_shards(folder, dict(enumerate(names))))
    for trick in tricks:
        assert f"{trick!r} leads out of the folder" in text
    assert "'link.safetensors' is a link that leads out of the folder" in text
    assert "'absent.safetensors' is missing" in text


def test_links_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    blobs = tmp_path / "models--org--name" / "blobs"
    folder = tmp_path / "models--org--name" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    folder.mkdir(parents=True)
    safetensors.numpy.save_file({"a": np.ones(1)}, blobs / "123")
    (folder / "one.safetensors").symlink_to("../../blobs/123")
    assert list(open_checkpoint(_shards(folder, {"a": "one.safetensors"}))) == ["a"]


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_an_index_without_a_weight_map_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert "expected a weight_map from tensor names to shard files" in _error(tmp_path)


def test_an_index_that_is_not_json_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text('{\n "weight_map": oops}')
    with pytest.raises(ConfigError, match=r"index\.json: not JSON at line 2, column 16"):
        open_checkpoint(tmp_path)


# Numbers


@pytest.mark.parametrize(
    "name",
    ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e5m2fnuz", "complex64"],
)
def test_nonfinite_counts_what_torch_counts(name: str) -> None:
    wide = torch.randn(1000, dtype=torch.float32).clamp(-2, 2)
    wide[::7], wide[3::7] = float("nan"), float("inf")
    narrow = wide.to(getattr(torch, name))
    expected = int((~torch.isfinite(narrow.to(torch.complex64 if name == "complex64" else torch.float32))).sum())
    bits = {1: torch.uint8, 2: torch.uint16}.get(narrow.itemsize if name != "float16" else 0)
    array = (narrow.view(bits) if bits else narrow).numpy()
    assert nonfinite(array, name) == expected > 0
    assert nonfinite(array[::2], name) == int((~torch.isfinite(narrow.to(torch.complex64)[::2])).sum())


def test_integers_are_always_finite() -> None:
    assert nonfinite(np.full(3, -1), "int64") == 0


def test_every_tensor_with_nonfinite_numbers_is_named(tmp_path: Path) -> None:
    tensors = {"good": torch.ones(3), "nan": torch.tensor([1.0, torch.nan, torch.inf]), "bf": torch.ones(2).bfloat16()}
    tensors["bf"][0] = -torch.inf
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with (
        open_checkpoint(tmp_path) as checkpoint,
        pytest.raises(WeightError, match=r"(?s)NaN or infinite numbers:\n.*nan: 2 of 3") as caught,
    ):
        check_finite(checkpoint)
    assert "bf: 1 of 2" in str(caught.value)
    assert "good" not in str(caught.value)


# Memory

LOAD = """
import sys, re, pathlib
import numpy as np
from conjoin.checkpoint import open_checkpoint, nonfinite
if sys.argv[1].endswith("bin"):
    import torch
def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text()).group(1)) * 1024
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
with open_checkpoint(sys.argv[1]) as checkpoint:
    model, total = {}, 0
    for name, info in checkpoint.items():
        array = checkpoint.array(name).T
        assert nonfinite(array, info.dtype) == 0
        model[name] = np.empty_like(array)
        np.copyto(model[name], array)
        total += array.nbytes
print((status("VmHWM") - before) / total)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_loading_takes_less_than_1_3_times_the_models_size(tmp_path: Path, kind: str) -> None:
    tensors = {f"t{i}": torch.ones(1024, 2048) for i in range(30)}  # 30 x 8 MiB
    path = tmp_path / f"model.{kind}"
    if kind == "bin":
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    command = [sys.executable, "-c", LOAD, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(conjoin.checkpoint.__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert 1.0 <= float(done.stdout) < 1.3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"])
def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileError, match=rf"{name}: not a file, but a pipe or a device"):
        open_checkpoint(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(FileError, match=rf"{name}: not a file, but a pipe or a device"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("shard", ["x" * 5000, "a/" * 3000 + "b", "a\0b", "circle"])
def test_a_shard_whose_name_the_system_refuses_is_named(tmp_path: Path, shard: str) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(WeightError, match="unusable shards") as caught:
        open_checkpoint(tmp_path)
    assert len(str(caught.value)) < 1000


def test_names_from_files_cannot_steer_a_terminal(tmp_path: Path) -> None:
    name = "\x1b[2J\x07\u202e\u2028\ud800\n"
    header = json.dumps({name: _entry([3], 0, 4)}).encode()
    (tmp_path / "model.safetensors").write_bytes(_raw(header, b"\0" * 4))
    with pytest.raises(WeightError) as caught:
        open_checkpoint(tmp_path)
    assert r"\x1b[2J\x07\u202e\u2028\ud800" in str(caught.value)
    assert all(sign == "\n" or sign.isprintable() for sign in str(caught.value))
