"""Keys and values kept between decoding steps, in arrays whose shapes never change."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float, Int

from conjoin import spec
from conjoin.functional.ops import Array, Ops

Pair = tuple[Array, Array]
"""Keys and values, each [R, K, S, E]."""


class Cache(NamedTuple):
    """What the decoder has read of every row.

    Args:
        length: Positions filled, the same for all rows.
        keys, values: Per layer, [R, K, room, E].
        mask: What may be read among the filled positions.
        counted: What RoBERTa's positions count among them: ids that are not padding.
        cross: Keys and values of the source per layer, [B, K, S, E]; rows n*N .. n*N + N - 1 read source n.
    """

    length: Int[Array, ""]
    keys: tuple[Float[Array, "R K room E"], ...]
    values: tuple[Float[Array, "R K room E"], ...]
    mask: Bool[Array, "R room"]
    counted: Bool[Array, "R room"]
    cross: tuple[Pair, ...]

    def advance(self, ops: Ops, written: Sequence[Pair], mask: Array, counted: Array, count: int) -> "Cache":
        """The cache with `count` positions more, whose keys and values stand in `written` already."""
        return self._replace(
            length=self.length + count,
            keys=tuple(k for k, _ in written),
            values=tuple(v for _, v in written),
            mask=ops.write_at(self.mask, mask, self.length, 1),
            counted=ops.write_at(self.counted, counted, self.length, 1),
        )

    def rows(self, ops: Ops, index: Int[Array, " R2"]) -> "Cache":
        """The cache whose row r is row index[r] of this one; sources stay as they are."""
        return self._replace(
            keys=tuple(ops.take(k, index) for k in self.keys),
            values=tuple(ops.take(v, index) for v in self.values),
            mask=ops.take(self.mask, index),
            counted=ops.take(self.counted, index),
        )

    def repeat(self, ops: Ops, copies: int) -> "Cache":
        """Every row `copies` times, side by side; sources stay as they are."""
        return self._replace(
            keys=tuple(ops.repeat(k, copies) for k in self.keys),
            values=tuple(ops.repeat(v, copies) for v in self.values),
            mask=ops.repeat(self.mask, copies),
            counted=ops.repeat(self.counted, copies),
        )


def empty_cache(ops: Ops, kind: spec.StackSpec, rows: int, room: int, dtype: object, cross: tuple[Pair, ...]) -> Cache:
    """A cache with room for `room` positions of every row."""
    shapes = [(rows, a.num_kv_heads, room, a.head_size) for a in (b.self_attn.attention for b in kind.blocks)]
    return Cache(
        length=ops.constant(0, "int32"),
        keys=tuple(ops.full(shape, 0.0, dtype) for shape in shapes),
        values=tuple(ops.full(shape, 0.0, dtype) for shape in shapes),
        mask=ops.full((rows, room), False, "bool"),
        counted=ops.full((rows, room), False, "bool"),
        cross=cross,
    )
