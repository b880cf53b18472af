"""`.bin` files: read through torch, and nothing in them is ever run."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conjoin.checkpoint import open_checkpoint
from conjoin.errors import ConjoinError, MissingBackend, WeightError


def _error(folder: Path) -> str:
    with pytest.raises(ConjoinError) as caught:
        open_checkpoint(folder)
    return str(caught.value)


class Evil:
    """Would write a file if it were unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("open('/tmp/conjoin-was-here', 'w')",)


def test_nothing_from_a_bin_file_is_run(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "b": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightError, match="holds more than tensors, and conjoin runs nothing out of a file") as caught:
        open_checkpoint(tmp_path)
    assert "hint: convert it where it came from" in str(caught.value)
    assert not Path("/tmp/conjoin-was-here").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list, expected tensors by name"),
        ({"model": {"a": torch.ones(1)}, "step": 3}, "a training checkpoint: its weights are one level down"),
        ({"a": torch.ones(1), "step": 3}, "step: a int, expected a dense tensor"),
        ({"a": torch.ones(2, 2).to_sparse()}, "a: a Tensor, expected a dense tensor"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, "a: dtype torch.complex128 is not supported"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_bin_file_of_other_things_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert f"pytorch_model.bin: {words}" in _error(tmp_path)


@settings(deadline=None)
@given(st.integers(0, 1500))
def test_a_truncated_bin_file_is_named(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    torch.save({"a": torch.ones(300)}, folder / "pytorch_model.bin")
    whole = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(whole[:length])
    assert "pytorch_model.bin: " in _error(folder)


def test_strided_and_parameter_tensors_are_read_from_bin(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    torch.save({"t": matrix.T, "p": torch.nn.Parameter(matrix)}, tmp_path / "pytorch_model.bin")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.array("t").tolist() == matrix.T.tolist()
        assert checkpoint.array("p").tolist() == matrix.tolist()


def test_without_torch_a_bin_file_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingBackend, match=r"pip install 'conjoin\[torch\]', or convert"):
        open_checkpoint(tmp_path)


def test_sharded_bin_files_are_read_as_one(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.zeros(3)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    weight_map = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with open_checkpoint(tmp_path) as checkpoint:
        assert {name: info.shape for name, info in checkpoint.items()} == {"a": (2,), "b": (3,)}
