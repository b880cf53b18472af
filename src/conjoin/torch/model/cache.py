"""Keys and values kept between decoding steps."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from operator import is_
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin.errors import ShapeError
from conjoin.torch.cpu import native
from conjoin.torch.cpu.native.checks import kept_width
from conjoin.torch.model.cache_rows import to_bytes

_MADE_ANEW = ("steps", "fitted", "_fitted_for", "_held_room", "_scratch")
Heads = Sequence[tuple[int, int]]
_DIMENSIONS = 4


@dataclass(slots=True)
class KVCache:
    """self_cache grows with the target; cross_cache is fixed per source and never copied per beam.

    Storage of the self part is [rows, K, room, E] per layer, preallocated; only the first `length` slots are filled.

    Args:
        quantized: Keys and values of both parts are kept in 8 bits (`cache_rows`).
        room: Target positions to reserve; grows by doubling where it turns out too small.
        mask: What may be read among the filled positions, where a mask was given.
        counted: What RoBERTa's positions count among them: ids that are not padding.
        writers: Which row computed each filled position, from the first `reorder` on: where that is the same, rows hold
            the same.
        fitted: The tensors that `require_fit` saw last.
        steps: The stack's blocks as our kernels take them, made by the stack that fills this cache; False: they do not.
    """

    room: int = 16
    quantized: bool = False
    length: int = 0
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    cross: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    mask: Bool[Tensor, "R T"] | None = None
    counted: Bool[Tensor, "R T"] | None = None
    writers: Int[Tensor, "R T"] | None = None
    steps: Any = None
    fitted: list[Tensor] = field(default_factory=list)
    _fitted_for: Heads | None = None
    _held_room: int = 0
    _scratch: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is made anew where it is needed: copies and pickles do without pointers."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _MADE_ANEW}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.steps, self._scratch, self.fitted, self._fitted_for, self._held_room = None, None, [], None, 0
        for name, value in state.items():
            setattr(self, name, value)

    def require_fit(self, family: str, rows: int, heads: Heads, cross_heads: Heads) -> None:
        """Check that a stack of this build filled the cache.

        Args:
            heads, cross_heads: How many a layer keeps, and their size.
        Raises:
            ShapeError: it holds other rows, layers or heads.
        """
        held = [*self.keys, *self.values, *(tensor for pair in self.cross for tensor in pair)]
        same = self._fitted_for is heads and len(held) == len(self.fitted) and all(map(is_, held, self.fitted))
        if not same or (self.keys and len(self.keys[0]) != rows):
            self._check_fit(family, rows, heads, cross_heads)
            self.fitted, self._fitted_for = held, heads
            self._held_room = min((x.shape[2] for x in (*self.keys, *self.values)), default=self.length)
        if self._held_room < self.length:
            raise ShapeError(f"{family}: past_key_values claims {self.length} positions, and has no room for them.")

    def _check_fit(self, family: str, rows: int, heads: Heads, cross_heads: Heads) -> None:
        if any(len(x) != rows for x in (*self.keys, *self.values)):
            raise ShapeError(f"{family}: {rows} rows, but past_key_values holds {len(self.keys[0])}.")
        keys, values = zip(*self.cross, strict=True) if self.cross else ((), ())
        for name, store, expected in (
            ("", self.keys, heads),
            ("", self.values, heads),
            ("cross-attention ", keys, cross_heads),
            ("cross-attention ", values, cross_heads),
        ):
            if store and not _are_of(store, expected):
                found = [(x.shape[1], x.shape[3]) for x in store if x.dim() == _DIMENSIONS]
                raise ShapeError(
                    f"{family}: past_key_values is of another model: its {name}layers hold (heads, head size) "
                    f"{found}; expected {list(expected)}.",
                    hint="pass what this model returned, or None to begin anew.",
                )
        sources = {len(x) for x in (*keys, *values)} or {rows}
        if len(sources) > 1 or rows % max(*sources, 1):
            raise ShapeError(f"{family}: {rows} rows, but past_key_values holds {sorted(sources)} sources.")
        if any(k.shape != v.shape for k, v in (*zip(self.keys, self.values, strict=True), *self.cross)):
            raise ShapeError(f"{family}: past_key_values holds keys and values of different lengths.")

    def fork(self) -> "KVCache":
        """Another cache that goes on from here; the source's part, which nothing changes, is held in common."""
        twin = copy.copy(self)
        twin.keys, twin.values = ([tensor.clone() for tensor in store] for store in (self.keys, self.values))
        twin.cross = list(self.cross)
        return twin

    def append(self, layer: int, k: Float[Tensor, "R K T E"], v: Float[Tensor, "R K T E"]) -> tuple[Tensor, Tensor]:
        """Write new positions after the filled ones and return views of all of them, as kept; `advance` afterwards."""
        k, v = self._as_kept(k), self._as_kept(v)
        end = self.length + k.shape[2]
        if layer == len(self.keys):
            self.room = max(self.room, end)
            self.keys.append(k.new_empty(*k.shape[:2], self.room, k.shape[3]))
            self.values.append(v.new_empty(*v.shape[:2], self.room, v.shape[3]))
        elif end > self.keys[layer].shape[2]:
            self._grow(layer, end)
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def add_source(self, k: Float[Tensor, "B K S E"], v: Float[Tensor, "B K S E"]) -> tuple[Tensor, Tensor]:
        """Keep the next layer's keys and values of the source, and return them as kept."""
        kept = self._as_kept(k).contiguous(), self._as_kept(v).contiguous()  # read at every step from here on
        self.cross.append(kept)
        return kept

    def _as_kept(self, x: Tensor) -> Tensor:
        return to_bytes(x) if self.quantized else x

    def reserve(self, count: int) -> None:
        """Make room for `count` new positions in every layer that holds some."""
        for layer, tensor in enumerate(self.keys):
            if self.length + count > tensor.shape[2]:
                self._grow(layer, self.length + count)

    def _grow(self, layer: int, needed: int) -> None:
        self.room = max(self.room, needed, 2 * self.keys[layer].shape[2])
        for store in (self.keys, self.values):
            old = store[layer]
            store[layer] = old.new_empty(*old.shape[:2], self.room, old.shape[3])
            store[layer][:, :, : self.length] = old[:, :, : self.length]

    def advance(self, count: int) -> None:
        """Count `count` new positions as filled, once per forward pass."""
        self.length += count
        if self.writers is not None:
            rows = torch.arange(len(self.writers), device=self.writers.device)
            self.writers = torch.cat([self.writers, rows[:, None].expand(-1, count)], 1)

    def crop(self, length: int) -> None:
        """Forget every target position from `length` on."""
        self.length = min(self.length, length)
        self._change_rows(lambda rows: rows[:, : self.length])

    def expand(self, copies: int) -> None:
        """Turn every target row into `copies` equal ones, side by side; sources stay as they are."""
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                new = old.new_empty(old.shape[0] * copies, *old.shape[1:])
                filled = old[:, :, : self.length].repeat_interleave(copies, 0)
                new[:, :, : self.length] = filled
                store[layer] = new
        self._change_rows(lambda rows: rows.repeat_interleave(copies, 0))

    def reorder(self, parents: Int[Tensor, " R"]) -> None:
        """Let row r continue what row parents[r] held.

        On a CPU, rows that keep their place are not touched, nor is what a row shares with the one it continues: beams
        have most of their past in common. A GPU moves all: to learn what it may leave, it would have to be waited for.
        """
        if parents.device.type == "cpu":
            moved = (parents != torch.arange(len(parents))).nonzero().squeeze(1)
            if len(moved) == 0:
                return
            sources = parents[moved]
            first = self._shared(moved, sources, len(parents))
            if first < self.length:
                self._move(first, moved, sources)
        else:
            for tensor in (*self.keys, *self.values):
                filled = tensor[:, :, : self.length]
                filled[:] = self._gathered(filled, parents)
        self._change_rows(lambda rows: rows.index_select(0, parents))

    def _move(self, first: int, to: Int[Tensor, " r"], sources: Int[Tensor, " r"]) -> None:
        """Let rows take over what others hold from a position on."""
        filled = [tensor[:, :, first : self.length] for tensor in (*self.keys, *self.values)]
        if native.has("float32"):
            return native.move_rows(filled, to, sources)
        for tensor in filled:
            tensor[to] = self._gathered(tensor, sources)

    def _shared(self, moved: Int[Tensor, " r"], sources: Int[Tensor, " r"], rows: int) -> int:
        """So many first positions of every moved row hold what its source's do."""
        if self.writers is None:
            self.writers = torch.arange(rows, device=moved.device)[:, None].expand(rows, self.length)
        apart = (self.writers[moved] != self.writers[sources]).any(0)
        return int(apart.int().argmax()) if bool(apart.any()) else self.length

    def _gathered(self, filled: Tensor, rows: Tensor) -> Tensor:
        """A copy of some rows, in a buffer that is used again and again."""
        most = filled.untyped_storage().nbytes() // filled.element_size()
        if self._scratch is None or self._scratch.numel() < most:
            self._scratch = filled.new_empty(most)
        shape = (len(rows), *filled.shape[1:])
        return torch.index_select(filled, 0, rows, out=self._scratch[: math.prod(shape)].view(shape))

    def keep(self, order: list[int], rows_per_source: int) -> None:
        """Keep the sources of `order` (made by `keep_order`) and their rows; the others' storage is given up.

        Only what fills a gap is copied; the rest stays where it is.
        """
        moves = [(new, old) for new, old in enumerate(order) if new != old]
        for tensor in (*self.keys, *self.values):
            for new, old in moves:
                _copy_rows(tensor[:, :, : self.length], new, old, rows_per_source)
        for pair in self.cross:
            for tensor in pair:
                for new, old in moves:
                    _copy_rows(tensor, new, old, 1)
        rows = len(order) * rows_per_source
        self.keys = [tensor[:rows] for tensor in self.keys]
        self.values = [tensor[:rows] for tensor in self.values]
        self.cross = [(k[: len(order)], v[: len(order)]) for k, v in self.cross]
        self._change_rows(lambda rows: rows.view(-1, rows_per_source, rows.shape[1])[order].flatten(0, 1))

    def _change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change what is known of every position."""
        self.mask = None if self.mask is None else change(self.mask)
        self.counted = None if self.counted is None else change(self.counted)
        self.writers = None if self.writers is None else change(self.writers)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Target positions held (transformers' name)."""
        return self.length

    @property
    def self_bytes(self) -> int:
        """Bytes reserved by the growing part."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    @property
    def cross_bytes(self) -> int:
        """Bytes held by the fixed part."""
        return sum(t.numel() * t.element_size() for pair in self.cross for t in pair)


def _are_of(store: Sequence[Tensor], expected: Heads) -> bool:
    if len(store) != len(expected):
        return False
    for tensor, (heads, size) in zip(store, expected, strict=True):
        if tensor.dim() != _DIMENSIONS or tensor.shape[1] != heads or tensor.shape[3] != kept_width(size, tensor.dtype):
            return False
    return True


def keep_order(kept: list[int]) -> list[int]:
    """An order of the kept indices in which as many as can be stay in their place: gaps are filled from the end."""
    count = len(kept)
    inside = {index for index in kept if index < count}
    movers = [index for index in kept if index >= count]
    return [index if index in inside else movers.pop() for index in range(count)]


def _copy_rows(tensor: Tensor, new: int, old: int, size: int) -> None:
    tensor[new * size : (new + 1) * size] = tensor[old * size : (old + 1) * size]
