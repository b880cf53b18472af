"""llama.cpp's GGUF files under Hugging Face's names, each tensor decoded to float32 when it is asked for."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint.header import TensorInfo
from conjoin.checkpoint.mapping import map_bytes
from conjoin.errors import FileError, MissingBackend, WeightError
from conjoin.gguf import Renaming, Stored, read_header, renaming

_FLOATS = {"F32": np.float32, "F16": np.float16}


class GgufFile:
    """One open GGUF file.

    Raises:
        FileError: it cannot be opened.
        WeightError: it is damaged, or two of its tensors mean the same.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata = {"format": "pt"}
        header = read_header(path)
        renamed = renaming(header)
        self._tensors = {new.name: (header.tensors[old], new) for old, new in renamed.items()}
        if len(self._tensors) != len(renamed):
            raise WeightError(f"{path}: two of its tensors mean the same.", hint="download or convert the file again")
        self.infos = {name: TensorInfo(name, stored.shape, "float32") for name, (stored, _) in self._tensors.items()}
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise FileError(f"{path}: cannot be read: {error.strerror or error}.") from None

    def array(self, name: str) -> NDArray[Any]:
        """Decode one tensor.

        Raises:
            MissingBackend: it is quantized, and the package gguf is not installed.
        """
        stored, new = self._tensors[name]
        array = _in_place(self._decoded(stored), new)
        array.flags.writeable = False
        return array

    def close(self) -> None:
        """Close the file; arrays returned before remain valid."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _decoded(self, stored: Stored) -> NDArray[Any]:
        if stored.length == 0:
            return np.zeros(stored.shape, np.float32)
        raw = np.frombuffer(map_bytes(self._fd, stored.start, stored.length, file=self.path), np.uint8)
        if stored.kind in _FLOATS:
            return raw.view(_FLOATS[stored.kind]).astype(np.float32).reshape(stored.shape)
        if stored.kind == "BF16":
            return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(stored.shape)
        rows = raw.reshape(*stored.shape[:-1], -1)
        gguf = _gguf(self.path)
        return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[stored.kind]).reshape(stored.shape)


def _in_place(array: NDArray[Any], new: Renaming) -> NDArray[Any]:
    """Undo what llama.cpp changed."""
    if new.heads:
        halves = array.reshape(new.heads, -1, 2, *array.shape[1:]).swapaxes(1, 2)
        return np.ascontiguousarray(halves).reshape(array.shape)
    return array + np.float32(new.offset) if new.offset else array


def _gguf(path: Path) -> Any:
    try:
        import gguf
    except ImportError:
        raise MissingBackend(
            f"{path}: decoding quantized GGUF files needs the package gguf, which is not installed.",
            hint="pip install 'conjoin[gguf]'",
        ) from None
    return gguf
