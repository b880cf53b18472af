"""Keys and values kept between decoding steps, in arrays whose shapes never change."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float, Int

from conjoin import spec
from conjoin.functional.ops import Array, Ops

Pair = tuple[Array, Array]
"""Keys and values, each [R, K, S, E]."""


class Cache(NamedTuple):
    """The keys and values of every row.

    Args:
        length: Number of filled positions, the same for all rows.
        keys, values: Per layer, [R * K, room, E]. Rows and heads are one axis, as in matrix products, so that XLA
            writes in place; otherwise it would copy all of them at every step.
        mask: True at filled positions that may be read.
        counted: True at filled positions that advance the position of later tokens; () if all of them do.
        cross: Keys and values of the source per layer, [B, K, S, E]; rows n*N .. n*N + N - 1 read source n.
    """

    length: Int[Array, ""]
    keys: tuple[Float[Array, "RK room E"], ...]
    values: tuple[Float[Array, "RK room E"], ...]
    mask: Bool[Array, "R room"]
    counted: Bool[Array, "R room"] | tuple[()]
    cross: tuple[Pair, ...]

    @property
    def counts(self) -> bool:
        """True if some of the positions may be padding."""
        return not isinstance(self.counted, tuple)

    def advance(self, ops: Ops, written: Sequence[Pair], mask: Array, counted: Array, count: int) -> "Cache":
        """Return the cache with `count` more positions, whose keys and values are in `written` already."""
        return self._replace(
            length=self.length + count,
            keys=tuple(k for k, _ in written),
            values=tuple(v for _, v in written),
            mask=ops.write_at(self.mask, mask, self.length, 1),
            counted=ops.write_at(self.counted, counted, self.length, 1) if self.counts else (),
        )

    def rows(self, ops: Ops, index: Int[Array, " R2"]) -> "Cache":
        """Return the cache whose row r is row index[r] of this one; sources are unchanged."""
        return self._each_row(ops, lambda x: ops.take(x, index))

    def repeat(self, ops: Ops, copies: int) -> "Cache":
        """Return the cache with every row `copies` times in succession; sources are unchanged."""
        return self._each_row(ops, lambda x: ops.repeat(x, copies))

    def _each_row(self, ops: Ops, change: Callable[[Array], Array]) -> "Cache":
        rows = ops.shape(self.mask)[0]

        def changed(x: Array) -> Array:
            room, size = ops.shape(x)[1:]
            return ops.reshape(change(ops.reshape(x, (rows, -1, room, size))), (-1, room, size))

        return self._replace(
            keys=tuple(changed(k) for k in self.keys),
            values=tuple(changed(v) for v in self.values),
            mask=change(self.mask),
            counted=change(self.counted) if self.counts else (),
        )


def extended(
    ops: Ops, held: Float[Array, "RK room E"], new: Float[Array, "R K T E"], past: Array | int
) -> Float[Array, "RK room E"]:
    """Return the keys or values of a layer with new ones written after `past` positions, in the cache's dtype: norms in
    float32 make wider ones.
    """
    length, size = ops.shape(new)[2:]
    return ops.write_at(held, ops.cast(ops.reshape(new, (-1, length, size)), held.dtype), past, 1)


def empty_cache(
    ops: Ops,
    kind: spec.StackSpec,
    rows: int,
    room: int,
    dtype: object,
    cross: tuple[Pair, ...],
    *,
    padded: bool = True,
) -> Cache:
    """Return an empty cache with room for `room` positions of every row.

    Args:
        padded: True if there may be masks; if False, real tokens are not counted.
    """
    by_ids = spec.skips_padding_ids(kind.embedding.position)
    shapes = [(rows * a.num_kv_heads, room, a.head_size) for a in (b.self_attn.attention for b in kind.blocks)]
    return Cache(
        length=ops.constant(0, "int32"),
        keys=tuple(ops.full(shape, 0.0, dtype) for shape in shapes),
        values=tuple(ops.full(shape, 0.0, dtype) for shape in shapes),
        mask=ops.full((rows, room), False, "bool"),
        counted=ops.full((rows, room), False, "bool") if padded or by_ids else (),
        cross=cross,
    )
