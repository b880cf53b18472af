"""Sinusoidal positions: the only table that is computed instead of initialised at random."""

import math

import numpy as np

from conjoin import spec

WAVE_BASE = 10000.0  # Vaswani et al. 2017, arXiv:1706.03762, 3.5


def sinusoids(parameter: spec.Parameter) -> np.ndarray:
    """Return the float32 table of a parameter of kind "sinusoid"."""
    waves, (rows, size) = parameter.waves, parameter.shape
    assert waves is not None
    angles = _angles(waves, rows, size)
    sines, cosines = np.sin(angles), np.cos(angles)[:, : size // 2]
    table = np.zeros((rows, size), np.float32)
    if waves.layout == "pairs":
        table[:, : 2 * sines.shape[1] : 2], table[:, 1 : 2 * cosines.shape[1] : 2] = sines, cosines
    else:
        count = sines.shape[1]
        table[:, :count], table[:, count : count + cosines.shape[1]] = sines, cosines
    if waves.zero_row is not None:
        table[waves.zero_row : waves.zero_row + 1] = 0.0
    return table


def _angles(waves: spec.Sinusoidal, rows: int, size: int) -> np.ndarray:
    """Return the angle of every row and frequency; an odd last column has a sine, or zeros in "tensor2tensor"."""
    if waves.style == "vaswani":
        return np.arange(rows)[:, None] / WAVE_BASE ** (2 * np.arange((size + 1) // 2) / size)
    # In float32, as everywhere: at position 1000, rounding of frequencies shows in the fifth digit.
    step = np.float32(math.log(WAVE_BASE) / max(1, size // 2 - 1))
    frequencies = np.exp(np.arange(size // 2, dtype=np.float32) * -step)
    return np.arange(rows, dtype=np.float32)[:, None] * frequencies
