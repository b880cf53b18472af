"""The files of an open checkpoint, each one a part of it, and parts of other frameworks in PyTorch's terms."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint.dialects import torch_array
from conjoin.checkpoint.header import TensorInfo


class Part(Protocol):
    """One open weight file."""

    path: Path

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Its tensors, by name."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """What it says about itself."""
        ...

    def array(self, name: str) -> NDArray[Any]:
        """One tensor, read-only."""
        ...

    def close(self) -> None:
        """Let go of the file; arrays already given out stay good."""
        ...


class Translated:
    """A TensorFlow or Flax file, with the names and layouts that PyTorch has.

    Args:
        names: The file's names -> PyTorch's.
    """

    def __init__(self, part: Part, names: Mapping[str, str]) -> None:
        self.path = part.path
        self.metadata = part.metadata
        self._part = part
        self._stored = {names[name]: name for name in part.infos}
        self.infos = {name: _info(name, part.infos[stored]) for name, stored in self._stored.items()}

    def array(self, name: str) -> NDArray[Any]:
        """One tensor as PyTorch has it; a view of the file's."""
        stored = self._stored[name]
        return torch_array(stored, self._part.array(stored))

    def close(self) -> None:
        """Let go of the file; arrays already given out stay good."""
        self._part.close()


def _info(name: str, stored: TensorInfo) -> TensorInfo:
    stand_in = np.broadcast_to(np.uint8(0), stored.shape)  # takes no memory, whatever the size
    return TensorInfo(name, tuple(torch_array(stored.name, stand_in).shape), stored.dtype)
