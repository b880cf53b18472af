"""Sinusoidal positions: the only table that is computed instead of initialised at random."""

import numpy as np

WAVE_BASE = 10000.0  # Vaswani et al. 2017, arXiv:1706.03762, 3.5


def sinusoids(rows: int, size: int) -> np.ndarray:
    """Return a float32 table [rows, size]: columns 2i and 2i + 1 are sine and cosine of position / base^(2i / size)."""
    columns = np.arange(size)
    angles = np.arange(rows)[:, None] / WAVE_BASE ** (2 * (columns // 2) / size)
    return np.where(columns % 2, np.cos(angles), np.sin(angles)).astype(np.float32)
