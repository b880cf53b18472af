"""PyTorch's `.bin` files, read through torch without ever running what is in them."""

import pickle
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint._mapping import borrow_bytes
from conjoin.checkpoint.dtypes import BY_NAME
from conjoin.checkpoint.header import BadHeader, TensorInfo
from conjoin.errors import FileError, MissingBackend, WeightError

_CONVERT = "convert it where it came from: safetensors.torch.save_file(torch.load(file), 'model.safetensors')"
_CONTAINERS = ("state_dict", "model", "model_state_dict", "module")


class BinFile:
    """One `.bin` file, mapped by torch.

    Raises:
        BadHeader: the file is truncated or holds other things than tensors.
        MissingBackend: torch is not installed.
        WeightError: it cannot be read without running code from it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata = {"format": "pt"}
        self._mapped = zipfile.is_zipfile(path)  # files from before torch 1.6 are no zip files, and cannot be mapped
        self._tensors = _tensors(path, _load(path, mapped=self._mapped))
        self.infos = {name: _info(name, tensor) for name, tensor in self._tensors.items()}

    def array(self, name: str) -> NDArray[Any]:
        """View one tensor."""
        tensor = self._tensors[name]
        dtype = np.dtype(BY_NAME[self.infos[name].dtype].storage)
        if not tensor.is_contiguous() or not self._mapped or tensor.numel() == 0:
            array = _numpy(tensor, dtype)
        else:
            window = borrow_bytes(tensor.data_ptr(), tensor.numel() * dtype.itemsize, owner=tensor)
            array = np.frombuffer(window, dtype).reshape(tuple(tensor.shape))
        array.flags.writeable = False
        return array

    def close(self) -> None:
        """Let go of the file; arrays already given out stay good."""
        self._tensors = {}


def _numpy(tensor: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    import torch

    bits = {"u1": torch.uint8, "u2": torch.uint16}
    if dtype.str[1:] in bits:
        tensor = tensor.view(bits[dtype.str[1:]])
    return cast(NDArray[Any], tensor.numpy())


def _load(path: Path, *, mapped: bool) -> Any:
    try:
        import torch
    except ImportError:
        raise MissingBackend(
            f"{path}: reading .bin files takes torch, which is not installed.",
            hint="pip install 'conjoin[torch]', or convert the file to safetensors",
        ) from None
    if not path.is_file():
        raise FileError(f"{path}: no such file.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise WeightError(
            f"{path}: holds more than tensors, and conjoin runs nothing out of a file: {reason}", hint=_CONVERT
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadHeader([f"{path.name}: not a readable PyTorch file: {reason}"]) from None


def _tensors(path: Path, loaded: Any) -> dict[str, Any]:
    import torch

    if not isinstance(loaded, dict):
        raise BadHeader([f"{path.name}: holds a {type(loaded).__name__}, expected tensors by name"])
    entries = cast(dict[Any, Any], loaded)
    inner = [key for key in _CONTAINERS if isinstance(entries.get(key), dict)]
    if inner:
        raise BadHeader([f"{path.name}: a training checkpoint: its weights are one level down, under {inner[0]!r}"])
    tensors: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in entries.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_quantized:
            problems.append(f"{path.name}: {name}: a {type(value).__name__}, expected a dense tensor")
        elif str(value.dtype).removeprefix("torch.") not in BY_NAME:
            problems.append(f"{path.name}: {name}: dtype {value.dtype} is not supported")
        else:
            tensors[str(name)] = value.detach()
    if problems:
        raise BadHeader(problems)
    return tensors


def _info(name: str, tensor: Any) -> TensorInfo:
    return TensorInfo(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
