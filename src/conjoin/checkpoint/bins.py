"""PyTorch's `.bin` files, loaded through torch without ever executing code from them."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint.dtypes import BY_NAME
from conjoin.checkpoint.files import require_file
from conjoin.checkpoint.header import BadHeader, TensorInfo
from conjoin.checkpoint.mapping import borrow_bytes
from conjoin.checkpoint.pickles import Unsafe, check_pickles
from conjoin.errors import MissingBackend, WeightError

_CONVERT = "convert it where it came from: safetensors.torch.save_file(torch.load(file), 'model.safetensors')"
_CONTAINERS = ("state_dict", "model", "model_state_dict", "module")


class BinFile:
    """One `.bin` file, mapped by torch.

    Raises:
        BadHeader: the file is truncated or holds objects other than tensors.
        MissingBackend: torch is not installed.
        WeightError: it cannot be read without running code from it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata = {"format": "pt"}
        require_file(path)
        self._mapped = zipfile.is_zipfile(path)  # files from before torch 1.6 are not zip files and cannot be mapped
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
        """Close the file; arrays returned before remain valid."""
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
            f"{path}: reading .bin files needs torch, which is not installed.",
            hint="pip install 'conjoin[torch]', or convert the file to safetensors",
        ) from None
    try:
        check_pickles(path, zipped=mapped)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (Unsafe, pickle.UnpicklingError) as error:
        raise WeightError(
            f"{path}: holds more than tensors, and conjoin runs no code from a file: {_reason(error)}", hint=_CONVERT
        ) from None
    except Exception as error:  # torch may raise anything on a damaged file
        raise BadHeader([f"{path.name}: not a readable PyTorch file: {_reason(error)}"]) from None


def _reason(error: Exception) -> str:
    """Return the sentence in which torch says what is wrong, without its advice to trust the file."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    _, marker, reason = text.partition("WeightsUnpickler error: ")
    return (reason if marker else text).strip().partition("\n")[0][:300] or type(error).__name__


def _tensors(path: Path, loaded: Any) -> dict[str, Any]:
    if not isinstance(loaded, dict):
        raise BadHeader([f"{path.name}: holds a {type(loaded).__name__}, expected tensors by name"])
    entries = cast(dict[Any, Any], loaded)
    inner = [key for key in _CONTAINERS if isinstance(entries.get(key), dict)]
    if inner:
        raise BadHeader([f"{path.name}: a training checkpoint: its weights are one level down, under {inner[0]!r}"])
    problems = [
        f"{path.name}: {name if isinstance(name, str) else repr(name)[:80]}: {problem}"
        for name, value in entries.items()
        if (problem := _problem(name, value))
    ]
    if problems:
        raise BadHeader(problems)
    return {name: value.detach().resolve_conj().resolve_neg() for name, value in entries.items()}


def _problem(name: Any, value: Any) -> str | None:
    """Describe why an entry is not a tensor whose numbers are all in the file; None if it is."""
    import torch

    if not isinstance(name, str):
        return f"a name that is a {type(name).__name__}, expected text"
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        return f"a {type(value).__name__}, expected a dense tensor"
    if value.is_nested or value.layout != torch.strided or value.is_quantized:
        kind = "nested" if value.is_nested else "quantised" if value.is_quantized else "sparse"
        return f"a {kind} Tensor, expected a dense tensor"
    if value.device.type != "cpu":
        return f"a tensor of the device {value.device.type}: its numbers are not in the file"
    if str(value.dtype).removeprefix("torch.") not in BY_NAME:
        return f"dtype {value.dtype} is not supported"
    return None


def _info(name: str, tensor: Any) -> TensorInfo:
    return TensorInfo(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
