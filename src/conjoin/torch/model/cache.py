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
from conjoin.torch.cpu.cache_rows import to_bytes
from conjoin.torch.cpu.mode import autocasts
from conjoin.torch.cpu.native.checks import kept_width

Heads = Sequence[tuple[int, int]]
_DIMENSIONS = 4
_STORES = ("", "", "cross-attention ", "cross-attention ")


@dataclass(slots=True, eq=False, weakref_slot=True)
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
    """

    room: int = 16
    quantized: bool = False
    length: int = 0
    keys: list[Tensor] = field(default_factory=list[Tensor])
    values: list[Tensor] = field(default_factory=list[Tensor])
    cross: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])
    mask: Bool[Tensor, "R T"] | None = None
    counted: Bool[Tensor, "R T"] | None = None
    writers: Int[Tensor, "R T"] | None = None
    _scratch: Tensor | None = None
    _fitted: list[Tensor] = field(default_factory=list[Tensor])
    _fitted_for: Heads | None = None
    _fitted_room: int = 0

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the buffer and what was checked, which a copy must not share."""
        return {each.name: getattr(self, each.name) for each in fields(self) if not each.name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._scratch, self._fitted, self._fitted_for, self._fitted_room = None, [], None, 0
        for name, value in state.items():
            setattr(self, name, value)

    def require_fit(self, family: str, rows: int, heads: Heads, cross_heads: Heads, like: Tensor) -> None:
        """Check that a stack of this build filled the cache.

        Args:
            heads, cross_heads: Per layer, how many key heads it has, and their size.
            like: A parameter of the stack.
        Raises:
            ShapeError: the cache holds other rows, layers, heads or dtypes.
        """
        other = bool(self.keys) and self.keys[0].dtype != like.dtype
        if other and not self.quantized and not autocasts(like.device.type):
            raise ShapeError(
                f"past_key_values is of another model: it holds {self.keys[0].dtype}; expected {like.dtype}.",
                hint="pass what this model returned, or None to begin anew.",
            )
        tensors = self.tensors
        same = self._fitted_for is heads and len(tensors) == len(self._fitted) and all(map(is_, tensors, self._fitted))
        if same and self.length <= self._fitted_room and (not self.keys or len(self.keys[0]) == rows):
            return
        cross_k, cross_v = [k for k, _ in self.cross], [v for _, v in self.cross]
        stores = (self.keys, self.values, cross_k, cross_v)
        keys, values, cross_keys, cross_values = shapes = [[x.shape for x in store] for store in stores]
        if any(shape[0] != rows for shape in (*keys, *values)):
            raise ShapeError(f"{family}: {rows} rows, but past_key_values holds {len(self.keys[0])}.")
        for name, store, held, expected in zip(
            _STORES, stores, shapes, (heads, heads, cross_heads, cross_heads), strict=True
        ):
            if store and not _are_of(store, held, expected):
                found = [(shape[1], shape[3]) for shape in held if len(shape) == _DIMENSIONS]
                raise ShapeError(
                    f"{family}: past_key_values is of another model: its {name}layers hold (heads, head size) "
                    f"{found}; expected {list(expected)}.",
                    hint="pass what this model returned, or None to begin anew.",
                )
        sources = {shape[0] for shape in (*cross_keys, *cross_values)} or {rows}
        if len(sources) > 1 or rows % max(*sources, 1):
            raise ShapeError(f"{family}: {rows} rows, but past_key_values holds {sorted(sources)} sources.")
        if keys != values or cross_keys != cross_values:
            raise ShapeError(f"{family}: past_key_values holds keys and values of different lengths.")
        if any(shape[2] < self.length for shape in keys):
            raise ShapeError(f"{family}: past_key_values claims {self.length} positions, and has no room for them.")
        self._fitted, self._fitted_for = tensors, heads
        self._fitted_room = min((shape[2] for shape in keys), default=self.length)

    @property
    def tensors(self) -> list[Tensor]:
        """All keys and values, the source's too."""
        return [*self.keys, *self.values, *(tensor for pair in self.cross for tensor in pair)]

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


def as_cache(given: object) -> KVCache | None:
    """Return a caller's past_key_values.

    Raises:
        ShapeError: it is no KVCache.
    """
    if given is None or isinstance(given, KVCache):
        return given
    raise ShapeError(
        f"past_key_values is a {type(given).__name__}; expected a KVCache.",
        hint="give what an earlier call of this model returned as past_key_values.",
    )


def _are_of(store: Sequence[Tensor], shapes: Sequence[torch.Size], expected: Heads) -> bool:
    return len(store) == len(expected) and all(
        len(shape) == _DIMENSIONS and shape[1] == heads and shape[3] == kept_width(size, x.dtype)
        for x, shape, (heads, size) in zip(store, shapes, expected, strict=True)
    )


def keep_order(kept: list[int]) -> list[int]:
    """An order of the kept indices in which as many as can be stay in their place: gaps are filled from the end."""
    count = len(kept)
    inside = {index for index in kept if index < count}
    movers = [index for index in kept if index >= count]
    return [index if index in inside else movers.pop() for index in range(count)]


def _copy_rows(tensor: Tensor, new: int, old: int, size: int) -> None:
    tensor[new * size : (new + 1) * size] = tensor[old * size : (old + 1) * size]
