"""Texts in a memory-mapped file: millions of them take no memory but of those that are read."""

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class MappedTexts(Sequence[str]):
    """Texts one after another in UTF-8.

    Args:
        utf8: All bytes.
        starts: Where each text starts, and then the end of the last.
    """

    def __init__(self, utf8: NDArray[np.uint8], starts: NDArray[np.int64]) -> None:
        self._utf8, self._starts = utf8, starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return self._utf8[self._starts[number] : self._starts[number + 1]].tobytes().decode()
