"""`.bin` files: read through torch, and nothing in them is ever run."""

import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
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
    with pytest.raises(WeightError, match="holds more than tensors, and conjoin runs no code from a file") as caught:
        open_checkpoint(tmp_path)
    assert "hint: convert it where it came from" in str(caught.value)
    assert not Path("/tmp/conjoin-was-here").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list, expected tensors by name"),
        ({"model": {"a": torch.ones(1)}, "step": 3}, "a training checkpoint: its weights are one level down"),
        ({"a": torch.ones(1), "step": 3}, "step: a int, expected a dense tensor"),
        ({"a": torch.ones(2, 2).to_sparse()}, "a: a sparse Tensor, expected a dense tensor"),
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


def _odd_tensors() -> dict[str, tuple[Callable[[], Any], str]]:
    two = torch.ones(2, 2)
    return {
        "meta": (lambda: two.to("meta"), "a tensor of the device meta: its numbers are not in the file"),
        "parameter": (lambda: torch.nn.Parameter(two.to("meta")), "a tensor of the device meta"),
        "sparse": (two.to_sparse_csr, "a sparse Tensor, expected a dense tensor"),
        "quantised": (
            lambda: torch.quantize_per_tensor(two, 0.1, 0, torch.qint8),
            "a quantised Tensor, expected a dense",
        ),
        "nested": (lambda: torch.nested.nested_tensor([two, two[:1]]), "a nested Tensor, expected a dense tensor"),
    }


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", ["meta", "parameter", "sparse", "quantised", "nested"])
def test_a_tensor_whose_numbers_are_not_in_the_file_is_refused_by_name(tmp_path: Path, kind: str, legacy: bool) -> None:
    if legacy and kind == "nested":
        pytest.skip("torch.save itself stumbles over its temporaries")
    make, words = _odd_tensors()[kind]
    state = {"fine": torch.ones(1), "layer.weight": make()}
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert f"pytorch_model.bin: layer.weight: {words}" in _error(tmp_path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_negative_and_conjugate_views_are_read_as_what_they_are(tmp_path: Path, legacy: bool) -> None:
    pair, other = (torch.complex(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -4.0])) for _ in range(2))
    state = {
        "imaginary": pair.conj().imag,
        "whole": other.conj(),
        "negative": torch._neg_view(torch.tensor([1.0, 2.0])),
    }  # pyright: ignore[reportPrivateImportUsage]
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.array("imaginary").tolist() == [-3, 4]
        assert checkpoint.array("whole").tolist() == [1 - 3j, 2 + 4j]
        assert checkpoint.array("negative").tolist() == [-1, -2]


def test_names_that_are_no_texts_are_refused(tmp_path: Path) -> None:
    torch.save({5: torch.ones(1), "5": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert "pytorch_model.bin: 5: a name that is a int, expected text" in _error(tmp_path)


LARGE = 6_000_000_000
_SIZE = b"\x8a\x08" + struct.pack("<q", LARGE)
BOMBS = {
    "bytearray": b"\x80\x02c__builtin__\nbytearray\n" + _SIZE + b"\x85R.",
    "bytearray by another name": b"\x80\x02cbuiltins\nbytearray\n" + _SIZE + b"\x85R.",
    "from the memo": b"\x80\x02cbuiltins\nbytearray\nq\x05]h\x05" + _SIZE + b"\x85Ra.",
    "an empty tensor": b"\x80\x02ctorch\nTensor\n" + _SIZE + b"\x85R.",
    "a storage": b"\x80\x02ctorch.storage\nUntypedStorage\n" + _SIZE + b"\x85R.",
    "inside another call": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\nbytearray\nctorch\nTensor\n"
    + _SIZE
    + b"\x85}tR.",
    "a storage in the file": b"\x80\x02(X\x07\x00\x00\x00storage"
    b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + _SIZE + b"tQ.",
    "a long text": b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"abc.",
}
LIMITED = """
import resource, sys, torch
from conjoin.checkpoint import open_checkpoint
from conjoin.errors import WeightError
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for folder in sys.argv[1:]:
    try:
        open_checkpoint(folder)
    except WeightError as error:
        print(str(error).splitlines()[0])
"""


def _zipped(path: Path, body: bytes, kind: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr("archive/data.pkl", body)
        file.writestr("archive/version", "3\n")
        for name, raw in members.items():
            file.writestr(f"archive/{name}", raw)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_small_bin_file_never_takes_gigabytes(tmp_path: Path) -> None:
    folders = []
    for number, body in enumerate(BOMBS.values()):
        for legacy in (False, True):
            folders.append(tmp_path / f"{number}{legacy}")
            folders[-1].mkdir()
            path = folders[-1] / "pytorch_model.bin"
            if legacy:
                magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
                path.write_bytes(magic + body)
            else:
                _zipped(path, body)
    folders.append(tmp_path / "compressed")
    folders[-1].mkdir()
    _zipped(folders[-1] / "pytorch_model.bin", pickle.dumps({}, 2), zipfile.ZIP_DEFLATED, data=b"\0" * (1 << 28))
    work = subprocess.run([sys.executable, "-c", LIMITED, *folders], check=False, capture_output=True, text=True)
    told = work.stdout.splitlines()
    assert len(told) == len(folders), work.stdout + work.stderr
    assert f"{folders[0]}/pytorch_model.bin: holds more than tensors" in told[0]
    assert told[0].endswith("it calls __builtin__.bytearray")
    assert "it has compressed members" in told[-1]


def test_torch_s_own_advice_is_left_out(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "b": Evil()}, tmp_path / "pytorch_model.bin")
    text = _error(tmp_path)
    assert "\x1b" not in text and "two options" not in text
    assert "it calls __builtin__.exec" in text


def test_a_name_in_a_bin_file_cannot_steer_a_terminal(tmp_path: Path) -> None:
    torch.save({"\x1b]0;title\x07": 5, "\u202eback": 5}, tmp_path / "pytorch_model.bin")
    text = _error(tmp_path)
    assert r"\x1b]0;title\x07: a int, expected a dense tensor" in text
    assert r"\u202eback: a int" in text
