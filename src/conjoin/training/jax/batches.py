"""Batches in few shapes, since every shape is compiled anew."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.training.data.arrays import WEIGHTS
from conjoin.training.data.examples import IGNORED

LEAST_WIDTH = 16

_FILLERS = {"labels": IGNORED}


def rung(size: int, least: int = 1) -> int:
    """Return the next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ..., which is at most half as much again."""
    step = least
    while step < size:
        half = step + step // 2
        if step >= 2 and half >= size:
            return half
        step *= 2
    return step


def in_few_shapes(
    arrays: Mapping[str, NDArray[Any]], source_pad: int, limits: tuple[int | None, int | None]
) -> dict[str, NDArray[Any]]:
    """Pad the rows and columns of a batch up to the next rung; labels there do not count.

    Args:
        limits: Maximum positions of encoder and decoder, beyond which nothing is padded.
    """
    rows = rung(len(arrays["labels"]))
    widths = {
        side: _width(arrays[name].shape[1], limit)
        for side, name, limit in (("source", "input_ids", limits[0]), ("target", "labels", limits[1]))
    }
    named = dict(arrays)
    if "segment_ids" not in named:  # always the same arrays, so that no shape is compiled twice
        named.setdefault("attention_mask", np.ones_like(named["input_ids"]))
    fillers = _FILLERS | {"input_ids": source_pad}
    return {
        name: _padded(array, rows, widths[_side(name)], fillers.get(name, 0)).astype(_kind(name))
        for name, array in named.items()
    }


def _kind(name: str) -> type[np.generic]:
    return np.float32 if name == WEIGHTS else np.int32


def _side(name: str) -> str:
    return "target" if name in ("labels", WEIGHTS) or name.startswith("decoder_") else "source"


def _width(length: int, limit: int | None) -> int:
    wide = rung(length, LEAST_WIDTH)
    return wide if limit is None else max(length, min(wide, limit))


def _padded(array: NDArray[Any], rows: int, width: int, filler: int) -> NDArray[Any]:
    extra = ((0, rows - array.shape[0]), (0, width - array.shape[1]))
    return np.pad(array, extra, constant_values=filler)
