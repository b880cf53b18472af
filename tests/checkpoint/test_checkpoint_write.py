"""Writing tensors: the same bytes every time, readable by the safetensors library, stale files gone."""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from conjoin.checkpoint import open_checkpoint, parse_size, replacing_folder, write_tensors
from conjoin.errors import ConfigError, WeightError


def _save(folder: Path, tensors: list[tuple[str, Any, str]], max_shard_bytes: int = 10**9, **more: Any) -> list[str]:
    with replacing_folder(folder) as staging:
        return [path.name for path in write_tensors(staging, tensors, max_shard_bytes=max_shard_bytes, **more)]


def _some() -> list[tuple[str, Any, str]]:
    rng = np.random.default_rng(0)
    return [
        ("z", rng.normal(size=(3, 5)).astype(np.float32), "float32"),
        ("bf", rng.integers(0, 999, (2, 2), dtype=np.uint16), "bfloat16"),
        ("f8", rng.integers(0, 99, 3, dtype=np.uint8), "float8_e4m3fn"),
        ("transposed", rng.normal(size=(4, 3)).T, "float64"),
        ("number", np.array(5, np.int64), "int64"),
        ("nothing", np.zeros((0, 7), np.float16), "float16"),
        ("flag", np.array([True, False]), "bool"),
    ]


def test_the_safetensors_library_reads_what_we_write(tmp_path: Path) -> None:
    assert _save(tmp_path / "out", _some()) == ["model.safetensors"]
    loaded = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    for name, array, dtype in _some():
        assert str(loaded[name].dtype) == f"torch.{dtype}"
        assert loaded[name].shape == array.shape
        assert loaded[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes() == array.tobytes()
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_our_bytes_are_the_librarys_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3), "a": torch.randn(2, 2), "ä": torch.randn(1).double(), "h": torch.ones(3).half()}
    _save(tmp_path / "out", [(k, v.numpy(), str(v.dtype).removeprefix("torch.")) for k, v in tensors.items()])
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == safetensors.torch.save(tensors, {"format": "pt"})


def test_bytes_do_not_depend_on_the_order_given(tmp_path: Path) -> None:
    metadata = {str(number): "x" for number in range(9)}
    _save(tmp_path / "one", _some(), metadata=metadata)
    _save(tmp_path / "two", _some()[::-1], metadata=dict(reversed(metadata.items())))
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_shards_and_their_index_read_back_as_one(tmp_path: Path) -> None:
    tensors = [(f"t{i}", np.full(10, i, np.float32), "float32") for i in range(5)]
    files = _save(tmp_path / "out", tensors, max_shard_bytes=80)
    assert files == [*(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)), "model.safetensors.index.json"]
    index = json.loads((tmp_path / "out" / files[-1]).read_text())
    assert index["metadata"] == {"total_size": 200}
    assert index["weight_map"]["t2"] == files[1]
    with open_checkpoint(tmp_path / "out") as checkpoint:
        assert {name: checkpoint.array(name)[0] for name in checkpoint} == {f"t{i}": i for i in range(5)}


def test_a_tensor_larger_than_a_shard_gets_its_own(tmp_path: Path) -> None:
    tensors = [("a", np.ones(1), "float64"), ("big", np.ones(99), "float64"), ("c", np.ones(1), "float64")]
    assert len(_save(tmp_path / "out", tensors, max_shard_bytes=100)) == 4


def test_weight_files_of_an_earlier_save_do_not_stay_beside_the_new(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _save(out, [(name, np.ones(9), "float64") for name in "abc"], max_shard_bytes=80)
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"):
        (out / name).touch()
    for name in ("notes.md", "adapter_model.safetensors", "training_args.bin"):
        (out / name).touch()
    _save(out, [("a", np.ones(9), "float64")])
    kept = {"notes.md", "adapter_model.safetensors", "training_args.bin"}
    assert {path.name for path in out.iterdir()} == {"model.safetensors", *kept}
    _save(out, [(name, np.ones(9), "float64") for name in "ab"], max_shard_bytes=80)
    assert "model.safetensors" not in {path.name for path in out.iterdir()}


def test_only_one_shard_is_held_in_memory(tmp_path: Path) -> None:
    made: list[weakref.ref[Any]] = []
    most = 0

    def stream() -> Iterator[tuple[str, Any, str]]:
        nonlocal most
        for i in range(12):
            array = np.full(10, i, np.float32)
            made.append(weakref.ref(array))
            most = max(most, sum(ref() is not None for ref in made))
            yield f"t{i}", array, "float32"
            del array

    with replacing_folder(tmp_path / "out") as staging:
        write_tensors(staging, stream(), max_shard_bytes=80)
    assert most == 3  # two fill a shard, the third starts the next


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([("a", np.ones(1), "float64")] * 2, "Two tensors to write have the name a"),
        ([("a", np.ones(1), "float32")], "a: a numpy array of float64 does not hold float32; expected float32"),
        ([("a", np.ones(1, np.float32), "bfloat16")], "a: a numpy array of float32 does not hold bfloat16"),
        ([("a", np.ones(1), "float128")], "a: dtype 'float128' cannot be stored. Expected one of: float64, "),
    ],
)
def test_what_cannot_be_stored_is_named_and_nothing_is_written(tmp_path: Path, tensors: Any, words: str) -> None:
    for limit in (1, 1000):
        with pytest.raises(WeightError) as caught:
            _save(tmp_path / "out", tensors, limit)
        assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@given(st.integers(1, 10**6))
def test_sizes_are_read_with_their_units(number: int) -> None:
    assert parse_size(number) == parse_size(f"{number}") == parse_size(f" {number} B ") == number
    assert parse_size(f"{number}GB") == number * 10**9
    assert parse_size(f"{number} mib") == number * 2**20
    assert parse_size("1.5KB") == 1500


@pytest.mark.parametrize("size", ["", "5 bananas", "-1GB", "0", "GB", 0, -3])
def test_other_sizes_are_refused(size: int | str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(size)
