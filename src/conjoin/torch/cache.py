"""Keys and values kept between decoding steps."""

from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(slots=True)
class KVCache:
    """self_cache grows with the target; cross_cache is fixed per source and never copied per beam.

    Storage of the self part is [rows, K, room, E] per layer, preallocated; only the first `length` slots are filled.

    Args:
        room: Target positions to reserve; grows by doubling where it turns out too small.
    """

    room: int = 16
    length: int = 0
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    cross: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    mask: Bool[Tensor, "R T"] | None = None

    def append(
        self, layer: int, k: Float[Tensor, "R K T E"], v: Float[Tensor, "R K T E"]
    ) -> tuple[Float[Tensor, "R K S E"], Float[Tensor, "R K S E"]]:
        """Write new positions after the filled ones and return views of all of them; `advance` afterwards."""
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

    def _grow(self, layer: int, needed: int) -> None:
        self.room = max(self.room, needed, 2 * self.keys[layer].shape[2])
        for store in (self.keys, self.values):
            old = store[layer]
            store[layer] = old.new_empty(*old.shape[:2], self.room, old.shape[3])
            store[layer][:, :, : self.length] = old[:, :, : self.length]

    def advance(self, count: int) -> None:
        """Count `count` new positions as filled, once per forward pass."""
        self.length += count

    def crop(self, length: int) -> None:
        """Forget every target position from `length` on."""
        self.length = min(self.length, length)
        if self.mask is not None:
            self.mask = self.mask[:, : self.length]

    def select(self, rows: Int[Tensor, " R2"], sources: Int[Tensor, " B2"] | None = None) -> None:
        """Keep these target rows (repeats allowed) and, if given, these sources."""
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                new = old.new_empty(len(rows), *old.shape[1:])
                new[:, :, : self.length] = old[:, :, : self.length].index_select(0, rows)
                store[layer] = new
        if self.mask is not None:
            self.mask = self.mask.index_select(0, rows)
        if sources is not None:
            self.cross = [(k.index_select(0, sources), v.index_select(0, sources)) for k, v in self.cross]

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

