"""The files of an open checkpoint (its parts), and files of other frameworks under PyTorch's names and layouts."""

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
        """The tensors of the file, by name."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata stored in the file."""
        ...

    def array(self, name: str) -> NDArray[Any]:
        """Return one tensor, read-only."""
        ...

    def close(self) -> None:
        """Close the file; arrays returned before remain valid."""
        ...


class Translated:
    """A TensorFlow or Flax file under PyTorch's names and layouts.

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
        """Return one tensor in PyTorch's layout; a view of the file's array."""
        stored = self._stored[name]
        return torch_array(stored, self._part.array(stored))

    def close(self) -> None:
        """Close the file; arrays returned before remain valid."""
        self._part.close()


def _info(name: str, stored: TensorInfo) -> TensorInfo:
    stand_in = np.broadcast_to(np.uint8(0), stored.shape)  # takes no memory, whatever the size
    return TensorInfo(name, tuple(torch_array(stored.name, stand_in).shape), stored.dtype)
