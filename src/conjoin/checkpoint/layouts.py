"""Layouts of canonical arrays inside a checkpoint tensor: `split` takes a tensor apart, `join` is its inverse."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.errors import WeightError

Array = Any  # a numpy array or a torch tensor: anything with ndim, shape, reshape, .T and indexing


@dataclass(frozen=True, slots=True)
class Same:
    """Stored as we use it."""


@dataclass(frozen=True, slots=True)
class Transposed:
    """A matrix stored as (in, out), as in GPT-2's Conv1D; ours is (out, in)."""


@dataclass(frozen=True, slots=True)
class Fused:
    """Several matrices, or biases, stacked along their output axis.

    Args:
        sizes: Rows of each part; () for equal parts.
        transposed: Stored as (in, out), with the outputs side by side. Has no effect on biases, which are 1-D.
    """

    sizes: tuple[int, ...] = ()
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class HeadFused:
    """Weights or biases whose rows are ordered [head][q, k, v][head_size], as in GPT-NeoX and BLOOM.

    Args:
        shared: Heads of the first part that stand before each head of the others (Falcon 40B's grouped queries).
    """

    num_heads: int
    head_size: int
    parts: int = 3
    shared: int = 1


@dataclass(frozen=True, slots=True)
class PairedRotary:
    """Rows of queries or keys that turn in pairs stored side by side: x0, y0, x1, y1 ... (GPT-J).

    Ours are in halves, x0, x1 ... y0, y1 ...: the leading `rotary_size` of every head's `head_size` rows.
    """

    head_size: int
    rotary_size: int


@dataclass(frozen=True, slots=True)
class Parts:
    """A layout whose canonical arrays have layouts of their own, each of one array."""

    whole: "Layout"
    each: tuple["Layout", ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A vector stored as a matrix of one row, such as BART's final_logits_bias."""


@dataclass(frozen=True, slots=True)
class Reshaped:
    """The same numbers in the same order under another shape; one size of each shape may be -1."""

    stored: tuple[int, ...]
    canonical: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shifted:
    """Stored minus a constant: canonical = stored + by. Gemma stores its norm weights minus 1.

    Half precision becomes float32, since 1 + w would lose most of w's digits.
    """

    by: float


Layout = Same | Transposed | Fused | HeadFused | PairedRotary | Parts | Row | Reshaped | Shifted


def part_count(layout: Layout) -> int | None:
    """Return the number of canonical arrays of a layout; None if it can be any."""
    match layout:
        case Fused(sizes=()):
            return None
        case Fused(sizes=sizes):
            return len(sizes)
        case HeadFused(parts=parts):
            return parts
        case Parts(each=each):
            return len(each)
        case _:
            return 1


def split(layout: Layout, stored: Array, count: int) -> list[Array]:
    """Split a stored array into `count` canonical ones; views wherever the layout allows.

    Raises:
        WeightError: the shape does not fit the layout.
    """
    match layout:
        case Same():
            return [stored]
        case Transposed():
            return [_transposed(stored)]
        case Fused(sizes=sizes, transposed=transposed):
            rows = _rows_of(stored) if transposed else stored
            return _cut(rows, sizes or _equal(rows, count))
        case HeadFused():
            return _unfuse_heads(layout, stored)
        case PairedRotary(rotary_size=turning):
            return [_reordered(layout, stored, [*range(0, turning, 2), *range(1, turning, 2)])]
        case Parts(whole=whole, each=each):
            return [split(own, part, 1)[0] for own, part in zip(each, split(whole, stored, count), strict=True)]
        case Row():
            return [_only_row(stored)]
        case Reshaped(stored=before, canonical=after):
            return [_reshaped(stored, before, after)]
        case Shifted(by=by):
            return [_widened(stored) + by]


def join(layout: Layout, arrays: Sequence[Array]) -> Array:
    """Join canonical arrays into the stored one: the inverse of `split`."""
    first = arrays[0]
    match layout:
        case Same():
            return first
        case Transposed():
            return _transposed(first)
        case Fused(transposed=transposed):
            rows = _concatenate(arrays)
            return _rows_of(rows) if transposed else rows
        case HeadFused(num_heads=heads, head_size=size):
            split_heads = [array.reshape(heads, -1, size, *array.shape[1:]) for array in arrays]
            return _concatenate(split_heads, axis=1).reshape(-1, *first.shape[1:])
        case PairedRotary(rotary_size=turning):
            return _reordered(layout, first, [i // 2 + i % 2 * (turning // 2) for i in range(turning)])
        case Parts(whole=whole, each=each):
            return join(whole, [join(own, [array]) for own, array in zip(each, arrays, strict=True)])
        case Row():
            return first[None]
        case Reshaped(stored=before, canonical=after):
            return _reshaped(first, after, before)
        case Shifted(by=by):
            return _narrowed(_widened(first) - by, like=first)


def shapes_of(layout: Layout, stored: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Return the shapes that `split` would return; needs no memory, whatever the size."""
    stand_in = np.broadcast_to(np.uint8(0), tuple(stored))
    return [tuple(part.shape) for part in split(_unmoved(layout), stand_in, count)]


def _unmoved(layout: Layout) -> Layout:
    """Return a layout of the same shapes that computes and copies nothing."""
    match layout:
        case Shifted() | PairedRotary():
            return Same()
        case Parts(whole=whole, each=each):
            return Parts(_unmoved(whole), tuple(map(_unmoved, each)))
        case _:
            return layout


def _transposed(array: Array) -> Array:
    if array.ndim != 2:
        raise WeightError(f"expected a matrix to transpose, found shape {tuple(array.shape)}")
    return array.T


def _rows_of(array: Array) -> Array:
    return array.T if array.ndim == 2 else array


def _equal(rows: Array, count: int) -> tuple[int, ...]:
    _need_rows(rows)
    size, rest = divmod(rows.shape[0], count)
    if rest:
        raise WeightError(f"{rows.shape[0]} rows do not split into {count} equal parts")
    return (size,) * count


def _cut(rows: Array, sizes: tuple[int, ...]) -> list[Array]:
    _need_rows(rows)
    if rows.shape[0] != sum(sizes):
        raise WeightError(f"expected {' + '.join(map(str, sizes))} rows, found {rows.shape[0]}")
    ends = list(itertools.accumulate(sizes))
    return [rows[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _need_rows(array: Array) -> None:
    if array.ndim == 0:
        raise WeightError("expected rows to split, found a single number")


def _unfuse_heads(layout: HeadFused, stored: Array) -> list[Array]:
    _need_rows(stored)
    heads, size, rest = layout.num_heads, layout.head_size, tuple(stored.shape[1:])
    counts = (layout.shared, *[1] * (layout.parts - 1))
    if stored.shape[0] != heads * sum(counts) * size:
        expected = f"{heads * sum(counts) * size} rows ({heads} heads x {sum(counts)} parts x {size})"
        raise WeightError(f"expected {expected}, found {stored.shape[0]}")
    by_part = stored.reshape(heads, sum(counts), size, *rest)
    ends = itertools.accumulate(counts)
    return [by_part[:, end - n : end].reshape(heads * n * size, *rest) for n, end in zip(counts, ends, strict=True)]


def _reordered(layout: PairedRotary, rows: Array, order: list[int]) -> Array:
    """Return rows with the leading ones of every head in another order."""
    _need_rows(rows)
    size, rest = layout.head_size, tuple(rows.shape[1:])
    if rows.shape[0] % size:
        raise WeightError(f"expected heads of {size} rows, found {rows.shape[0]} rows")
    heads = rows.reshape(-1, size, *rest)
    return heads[:, [*order, *range(len(order), size)]].reshape(rows.shape)


def _only_row(stored: Array) -> Array:
    if stored.ndim < 1 or stored.shape[0] != 1:
        raise WeightError(f"expected one row, found shape {tuple(stored.shape)}")
    return stored[0]


def _reshaped(array: Array, before: tuple[int, ...], after: tuple[int, ...]) -> Array:
    shape = tuple(array.shape)
    if len(shape) != len(before) or any(size not in (-1, n) for size, n in zip(before, shape, strict=True)):
        raise WeightError(f"expected shape {before}, found {shape}")
    return array.reshape(after)


def _concatenate(arrays: Sequence[Array], axis: int = 0) -> Array:
    if _is_torch(arrays[0]):
        import torch

        return torch.cat(list(arrays), dim=axis)
    return np.concatenate(arrays, axis=axis)


def _is_torch(array: Array) -> bool:
    return type(array).__module__.partition(".")[0] == "torch"


def _widened(array: Array) -> Array:
    """Convert half precision to float32; numpy's uint16 means bfloat16 in this package."""
    if _is_torch(array):
        return array.float() if array.dtype.itemsize < 4 else array
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


def _narrowed(array: Array, *, like: Array) -> Array:
    """Convert back to the dtype of `like`; bfloat16 bits are rounded to the nearest, ties to even."""
    if _is_torch(array):
        return array.to(like.dtype)
    if like.dtype != np.uint16:
        return array.astype(like.dtype)
    return _bfloat16_bits(array)


def _bfloat16_bits(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = numbers.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    rounded[np.isnan(numbers)] = 0x7FC0  # rounding could overflow a NaN to zero
    return rounded.astype(np.uint16)
