"""Positions of tokens: rows of position tables, rotary angles, T5's relative bias, and segments of packed rows."""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

from conjoin import spec
from conjoin.functional.ops import Array, Ops

Angles = tuple[Array, Array]
"""cos and sin, each [1 or R, 1, T, rotary_size]."""


@lru_cache(maxsize=256)
def rotary_frequencies(kind: spec.Rotary) -> np.ndarray:
    """Return the radians per position of every pair of dimensions, float32."""
    exponents = np.arange(0, kind.rotary_size, 2, dtype=np.float32) / np.float32(kind.rotary_size)
    plain = (np.float32(1.0) / np.float32(kind.base) ** exponents).astype(np.float32)
    match kind.scaling:
        case spec.PlainScaling(factor=factor):
            return plain / np.float32(factor)
        case spec.Llama3Scaling() as scaling:
            return _llama3_frequencies(scaling, plain)
        case spec.YarnScaling() as scaling:
            return _yarn_frequencies(kind, scaling, plain)
        case spec.LongRope(factors=factors):
            return (np.float32(1.0) / (np.asarray(factors, np.float32) * np.float32(kind.base) ** exponents)).astype(
                np.float32
            )


def _llama3_frequencies(scaling: spec.Llama3Scaling, frequencies: np.ndarray) -> np.ndarray:
    waves = 2 * math.pi / frequencies
    width = scaling.high_freq_factor - scaling.low_freq_factor
    share = ((scaling.original_max_positions / waves - scaling.low_freq_factor) / width).clip(0, 1)
    return ((1 - share) * frequencies / scaling.factor + share * frequencies).astype(np.float32)


def _yarn_frequencies(kind: spec.Rotary, scaling: spec.YarnScaling, frequencies: np.ndarray) -> np.ndarray:
    """Return a blend of stretched and plain frequencies over a ramp (Peng et al. 2023, arXiv:2309.00071, 3.2)."""

    def dimension(rotations: float) -> float:
        waves = scaling.original_max_positions / (rotations * 2 * math.pi)
        return kind.rotary_size * math.log(waves) / (2 * math.log(kind.base))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, kind.rotary_size - 1)
    width = high - low or 0.001  # as in the reference, against a ramp of width 0
    ramp = ((np.arange(kind.rotary_size // 2, dtype=np.float32) - low) / width).clip(0, 1)
    return (frequencies / scaling.factor * ramp + frequencies * (1 - ramp)).astype(np.float32)


def rotary_angles(ops: Ops, kind: spec.Rotary, positions: Int[Array, "R T"], dtype: object) -> Angles:
    """Return cos and sin of every position, computed in float32 and cast."""
    frequencies = ops.constant(rotary_frequencies(kind))
    angles = (ops.cast(positions, "float32")[..., None] * frequencies)[:, None]
    cos, sin = ops.cos(angles) * kind.attention_factor, ops.sin(angles) * kind.attention_factor
    return ops.cast(ops.concat((cos, cos), -1), dtype), ops.cast(ops.concat((sin, sin), -1), dtype)


def rotate(ops: Ops, x: Float[Array, "R H T E"], angles: Angles) -> Float[Array, "R H T E"]:
    """Rotate the leading rotary_size dimensions of every head; the others are unchanged."""
    cos, sin = angles
    size = ops.shape(cos)[-1]
    head, rest = x[..., :size], x[..., size:]
    first, second = head[..., : size // 2], head[..., size // 2 :]
    rotated = ops.cast(head * cos + ops.concat((-second, first), -1) * sin, x.dtype)
    return rotated if size == ops.shape(x)[-1] else ops.concat((rotated, rest), -1)


@lru_cache(maxsize=64)
def distance_buckets(kind: spec.RelativeBias) -> np.ndarray:
    """Return the bucket of every distance from 0 to max_distance; larger distances are in the last bucket.

    It is a table because the logarithms of frameworks differ and would choose different buckets. A bidirectional bias
    has the same number of buckets again for keys after the query.
    """
    buckets = kind.num_buckets // 2 if kind.bidirectional else kind.num_buckets
    exact = buckets // 2
    distance = np.arange(kind.max_distance + 1)
    with np.errstate(divide="ignore"):
        ratio = np.log(distance.astype(np.float32) / np.float32(exact)) / np.float32(
            math.log(kind.max_distance / exact)
        )
    far = exact + np.where(distance < exact, 0, ratio * (buckets - exact)).astype(np.int32)
    return np.where(distance < exact, distance, far.clip(max=buckets - 1)).astype(np.int32)


def relative_bias(
    ops: Ops,
    kind: spec.RelativeBias,
    table: Array,
    queries: Int[Array, "#R T"],
    keys: Int[Array, "#R S"],
) -> Float[Array, "#R H T S"]:
    """Return the bias between queries and keys at these positions."""
    distance = keys[:, None, :] - queries[:, :, None]
    if kind.bidirectional:
        start = ops.cast(distance > 0, "int32") * (kind.num_buckets // 2)
        distance = abs(distance)
    else:
        start, distance = 0, ops.maximum(-distance, 0)
    near = ops.take(ops.constant(distance_buckets(kind)), ops.minimum(distance, kind.max_distance))
    return ops.einsum("rtsh->rhts", ops.take(table, near + start))


def alibi(
    ops: Ops, kind: spec.Alibi, heads: int, queries: Int[Array, "#R T"], keys: Int[Array, "#R S"]
) -> Float[Array, "#R H T S"]:
    """Return the bias that falls with the distance between queries and keys at these positions."""
    slopes = ops.constant(np.array(kind.slopes(heads), np.float32)[:, None, None])
    asking, read = (ops.cast(x, "float32") for x in (queries[:, None, :, None], keys[:, None, None, :]))
    if not kind.rounded:
        return -abs(asking - read) * slopes * kind.scale
    asking, read = (ops.bfloat16_of(ops.bfloat16_of(slopes) * ops.bfloat16_of(x)) for x in (asking, read))
    return -abs(asking - read) * kind.scale


@lru_cache(maxsize=64)
def distance_rows(kind: spec.RelativeTable) -> np.ndarray:
    """Return the row of every distance q - k from -n to n, where distances beyond n share rows with n."""
    exact, most = kind.span // 2, kind.max_distance
    distance = np.arange(-kind.span if most is None else -most, (kind.span if most is None else most) + 1)
    buckets = distance
    if most is not None:
        away = np.maximum(abs(distance), exact).astype(np.float32) / np.float32(exact)
        share = np.log(away) / np.log(np.float32((most - 1) / exact))
        far = np.ceil(share * np.float32(exact - 1)).astype(np.int64) + exact
        buckets = np.where(abs(distance) <= exact, distance, far * np.sign(distance))
    return (buckets + kind.span).clip(0, 2 * kind.span - 1).astype(np.int32)


def table_rows(
    ops: Ops, kind: spec.RelativeTable, queries: Int[Array, "#R T"], keys: Int[Array, "#R S"]
) -> Int[Array, "#R 1 T S"]:
    """Return the row of the table between queries and keys at these positions."""
    rows = distance_rows(kind)
    most = len(rows) // 2
    distance = (queries[:, :, None] - keys[:, None, :])[:, None]
    return ops.take(ops.constant(rows), ops.maximum(ops.minimum(distance, most), -most) + most)


def token_positions(
    ops: Ops,
    kind: spec.Position,
    counted: Bool[Array, "R T"],
    before: Int[Array, "R 1"] | Int[Array, ""] | int,
    starts: Int[Array, "R T"] | None,
) -> Int[Array, "R T"]:
    """Return the rows of new tokens in the position table, or their positions for rotary angles.

    The position of a token is the number of real tokens before it; padding does not count.

    Args:
        counted: True at new tokens that are not padding.
        before: Number of past tokens that are not padding.
        starts: Start of the segment of every token, where positions start at 0 again; only without past tokens.
    """
    place = places_of(ops, counted)
    place = place + before if starts is None else place - ops.gather(place, starts, 1)
    if (skipped := spec.skipped_pads(kind)) is None:
        return place + spec.first_row(kind)
    return ops.where(counted, place + skipped.padding_position + 1, skipped.padding_position)


def places_of(ops: Ops, real: Bool[Array, "R T"]) -> Int[Array, "R T"]:
    """Return the number of real tokens before each token; padding after the last real token counts as well."""
    count, after = ops.cast(real, "int32"), ops.arange(ops.shape(real)[1])[None] + 1
    last = ops.max(after * count, 1, keepdims=True)
    return ops.cumsum(count, 1) - count + ops.maximum(after - 1 - last, 0)


def stand_together(ops: Ops, real: Bool[Array, "R T"]) -> Bool[Array, ""]:
    """True if the real tokens of every row are contiguous, so that indices give their distances."""
    begins = real[:, 1:] & ~real[:, :-1]
    count = ops.sum(ops.cast(begins, "int32"), 1) + ops.cast(real[:, 0], "int32")
    return ops.all(count <= 1)


def segment_begins(ops: Ops, segments: Int[Array, "R T"]) -> Bool[Array, "R T"]:
    """True at the first position of every segment."""
    rows = ops.shape(segments)[0]
    return ops.concat((ops.full((rows, 1), True, "bool"), segments[:, 1:] != segments[:, :-1]), 1)


def segment_starts(ops: Ops, segments: Int[Array, "R T"]) -> Int[Array, "R T"]:
    """Return for every position the first position of its segment."""
    here = ops.arange(ops.shape(segments)[1])
    begins = ops.where(segment_begins(ops, segments), here[None], 0)
    seen = here[None, :] <= here[:, None]
    return ops.max(ops.where(seen[None], begins[:, None, :], 0), -1)


def segment_ends(ops: Ops, segments: Int[Array, "R T"]) -> Int[Array, "R T"]:
    """Return for every position the last position of its segment."""
    here = ops.arange(ops.shape(segments)[1])
    starts = segment_starts(ops, segments)
    same = starts[:, :, None] == starts[:, None, :]
    return ops.max(ops.where(same, here[None, None], 0), -1)


def same_segment(queries: Int[Array, "R T"], keys: Int[Array, "R S"]) -> Bool[Array, "R 1 T S"]:
    """True where a key is in the segment of the query; padding is a segment too."""
    return (queries[:, :, None] == keys[:, None, :])[:, None]
