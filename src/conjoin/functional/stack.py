"""One transformer stack, run as its spec says: embedding, blocks, final norm, head."""

from dataclasses import dataclass, field
from functools import partial

from jaxtyping import Bool, Float, Int

from conjoin import spec
from conjoin.functional.attention import keys_values, self_mask
from conjoin.functional.block import LayerContext, Record, run_block, source_heads
from conjoin.functional.cache import Cache, Pair
from conjoin.functional.embedding import embed, look_up
from conjoin.functional.layers import is_float16, linear, norm
from conjoin.functional.ops import Array, Ops
from conjoin.functional.positions import (
    Angles,
    alibi,
    places_of,
    relative_bias,
    rotary_angles,
    same_segment,
    segment_starts,
    stand_together,
    table_rows,
    token_positions,
)
from conjoin.functional.scope import Scope


@dataclass(slots=True, kw_only=True)
class StackInputs:
    """Inputs of a stack. The caller has checked their shapes.

    Args:
        input_ids: [R, T]; either these or inputs_embeds [R, T, C] are set.
        mask: [R, T], True at real tokens; None if all tokens are real.
        position_ids: [R, T], counted from 0 as the user sees them.
        source: Encoder's output [B, S, M], R a multiple of B; not read if the cache has its keys and values.
        source_mask: [B, S].
        segments, source_segments: [R, T] and [B, S], set if rows hold several sequences that must not see each other.
        recompute: Compute each block again in the backward pass.
    """

    input_ids: Int[Array, "R T"] | None = None
    inputs_embeds: Float[Array, "R T C"] | None = None
    mask: Bool[Array, "R T"] | None = None
    position_ids: Int[Array, "R T"] | None = None
    token_type_ids: Int[Array, "R T"] | None = None
    source: Float[Array, "B S M"] | None = None
    source_mask: Bool[Array, "B S"] | None = None
    segments: Int[Array, "R T"] | None = None
    source_segments: Int[Array, "B S"] | None = None
    cache: Cache | None = None
    record: Record = field(default_factory=Record)
    recompute: bool = False


def run_stack(here: Scope, kind: spec.StackSpec, inputs: StackInputs) -> tuple[Float[Array, "R T D"], Cache | None]:
    """Return the last hidden state, and the cache with T more positions; also fill `inputs.record`."""
    return _Pass(here, kind, inputs).run()


def source_pairs(
    here: Scope, kind: spec.StackSpec, source: Float[Array, "B S M"], mask: Bool[Array, "B S"] | None
) -> tuple[Pair, ...]:
    """Return the source's keys and values for every layer of a decoder; () if it reads no source."""
    pairs: list[Pair] = []
    angles = source_angles(here, kind, prefix_of(here.ops, kind, here.ops.shape(source)[1], mask))
    for index, block in zip(kind.weights_of, kind.blocks, strict=True):
        own = block.self_attn
        if own.source is not None:
            turns = None if own.rotary is None else angles.get(own.rotary)
            pairs.append(source_heads(here / f"blocks.{index}", block, source, turns))
        if block.cross_attn is not None:
            pairs.append(keys_values(here / f"blocks.{index}.cross_attn", block.cross_attn.attention, source))
    return tuple(pairs)


def project(model: Scope, pair: spec.PairSpec, states: Float[Array, "B S M"]) -> Float[Array, "B S M2"]:
    """Return the encoder's output in the width that cross-attention reads."""
    return linear(model / "enc_to_dec_proj", states) if pair.projection else states


@dataclass(frozen=True, slots=True)
class Prefix:
    """The source as a prefix of the target.

    Args:
        places: [B, S], or one row: positions of the source's tokens.
        offset: [B, 1] or [B, T], or one row: what is added to positions of the target, which count from 0.
    """

    places: Int[Array, "B S"]
    offset: Int[Array, "B T"]


def prefix_of(
    ops: Ops,
    kind: spec.StackSpec,
    size: int,
    mask: Bool[Array, "B S"] | None,
    segments: Int[Array, "B T"] | None = None,
    source_segments: Int[Array, "B S"] | None = None,
) -> Prefix | None:
    """Return where a source of this size stands before its target; None if it has no positions there."""
    if not kind.continues_source:
        return None
    places = ops.arange(size)[None] if mask is None else places_of(ops, mask)
    if segments is not None and source_segments is not None:
        places = ops.broadcast(places, ops.shape(source_segments))
        places = places - ops.gather(places, segment_starts(ops, source_segments), 1)
        same = segments[:, :, None] == source_segments[:, None, :]
        same = same if mask is None else same & mask[:, None, :]
        return Prefix(places, ops.sum(ops.cast(same, "int32"), 2))
    if mask is None:
        return Prefix(places, ops.full((1, 1), size, "int32"))
    return Prefix(places, ops.sum(ops.cast(mask, "int32"), 1, keepdims=True))


def source_angles(here: Scope, kind: spec.StackSpec, prefix: Prefix | None) -> dict[spec.Rotary, Angles]:
    """Return rotary angles of the source's tokens for every kind of rotary position in a decoder."""
    if prefix is None:
        return {}
    kinds = {block.self_attn.rotary for block in kind.blocks if block.self_attn.rotary is not None}
    dtype = here["embed.words.weight"].dtype
    return {each: rotary_angles(here.ops, each, prefix.places, dtype) for each in kinds}


class _Pass:
    """One forward pass over new positions."""

    def __init__(self, here: Scope, kind: spec.StackSpec, inputs: StackInputs) -> None:
        self.here, self.kind, self.inputs, self.ops = here, kind, inputs, here.ops
        embed_scope = here / "embed"
        ids = inputs.input_ids
        self.embeds = inputs.inputs_embeds if ids is None else look_up(embed_scope, kind.embedding, ids)
        self.rows, self.length = self.ops.shape(self.embeds)[:2]
        self.cache = inputs.cache
        self.past: Array | int = 0 if inputs.cache is None else inputs.cache.length
        self.total = self.length if inputs.cache is None else self.ops.shape(inputs.cache.mask)[1]
        self.padded = inputs.mask is not None if inputs.cache is None else inputs.cache.counts
        self.sources, self.source_size = 0, 0
        if kind.merges_source:
            cached = inputs.cache.cross[0][0] if inputs.cache is not None and inputs.cache.cross else None
            shape = self.ops.shape(inputs.source if cached is None else cached)
            self.sources, self.source_size = shape[0], shape[1 if cached is None else 2]
        sides = (inputs.segments, inputs.source_segments)
        self.prefix = prefix_of(self.ops, kind, self.source_size, inputs.source_mask, *sides)

    def run(self) -> tuple[Array, Cache | None]:
        """Return the last hidden state and the new cache."""
        record, kind, here = self.inputs.record, self.kind, self.here
        counted = self._counted()
        positions = self._positions(counted)
        x = embed(here / "embed", kind.embedding, self.embeds, positions, self.inputs.token_type_ids)
        contexts = self._contexts(self._angles(positions, x.dtype))
        if kind.blocks[0].wide_in_float16 and is_float16(x):
            x = self.ops.cast(x, "float32")
        written: list[Pair | None] = []
        states: list[Array] = []
        for layer, (index, context) in enumerate(zip(kind.weights_of, contexts, strict=True)):
            states.append(x)
            x, pair = self._layer(layer, index, x, context)
            written.append(pair)
        if kind.final_norm is not None:
            x = norm(here / "final_norm", kind.final_norm, x)
        x = here.dropout(x, kind.final_dropout, "final")
        states.append(x)
        if record.hidden_states is not None:
            record.hidden_states += states
        if kind.states:
            x = self.ops.concat([states[index] for index in kind.states], -1)
        return x, self._new_cache([pair for pair in written if pair is not None], counted)

    def _layer(self, layer: int, index: int, x: Array, context: LayerContext) -> tuple[Array, Pair | None]:
        here, block = (self.here / f"blocks.{index}").seeded(layer), self.kind.blocks[layer]
        if self.inputs.recompute and context.record.attentions is None:

            def run(x: Array) -> tuple[Array, Pair | None]:
                return run_block(here, block, x, context)

            return self.ops.recompute(run)(x)
        return run_block(here, block, x, context)

    def _new_mask(self) -> Array:
        mask = self.inputs.mask
        return self.ops.full((self.rows, self.length), True, "bool") if mask is None else mask

    def _counted(self) -> Bool[Array, "R T"]:
        """True at new tokens that advance the position: all but padding ids in RoBERTa, otherwise all real tokens."""
        skipped, ids = spec.skipped_pads(self.kind.embedding.position), self.inputs.input_ids
        real = self._new_mask()
        if skipped is not None and skipped.pads == "ids" and ids is not None:
            return real & (ids != skipped.padding_id)
        return real

    def _positions(self, counted: Bool[Array, "R T"]) -> Int[Array, "R T"]:
        positions, skipped = self._own_positions(counted), spec.skipped_pads(self.kind.embedding.position)
        if self.prefix is None:
            return positions
        behind = positions + self._each_row(self.prefix.offset)
        if skipped is not None:  # padding stays at its row
            behind = self.ops.where(positions == skipped.padding_position, positions, behind)
        rows = self.kind.embedding.position_rows
        return self.ops.minimum(behind, rows - 1) if rows else behind  # padding may stand behind the last row

    def _each_row(self, x: Array) -> Array:
        """Repeat what is known of every source for each of its rows."""
        rows, width = self.ops.shape(x)
        if isinstance(rows, int) and rows == 1:
            return x
        wide = self.ops.broadcast(x[:, None], (self.sources, self.rows // self.sources, width))
        return self.ops.reshape(wide, (self.rows, width))

    def _own_positions(self, counted: Bool[Array, "R T"]) -> Int[Array, "R T"]:
        kind, ids, ops = self.kind.embedding.position, self.inputs.position_ids, self.ops
        if ids is not None and not isinstance(kind, spec.NoPosition):
            return ids + spec.first_row(kind)
        before = self.past
        if self.cache is not None and self.cache.counts:
            before = ops.sum(ops.cast(self.cache.counted, "int32"), 1, keepdims=True)
        segments = self.inputs.segments
        starts = None if segments is None else segment_starts(ops, segments)
        return token_positions(ops, kind, counted, before, starts)

    def _angles(self, positions: Int[Array, "R T"], dtype: object) -> dict[spec.Rotary, Angles]:
        """Return rotary angles, one pair per kind of rotary position in this stack."""
        rows_differ = self.padded or self.inputs.segments is not None
        if self.prefix is not None:
            rows_differ = rows_differ or self.inputs.source_mask is not None
        if self.inputs.position_ids is not None:
            positions = self.inputs.position_ids
            positions = positions if self.prefix is None else positions + self._each_row(self.prefix.offset)
        elif not rows_differ:
            positions = positions[:1]
        kinds = {block.self_attn.rotary for block in self.kind.blocks if block.self_attn.rotary is not None}
        return {kind: rotary_angles(self.ops, kind, positions, dtype) for kind in kinds}

    def _contexts(self, angles: dict[spec.Rotary, Angles]) -> list[LayerContext]:
        """Return the context of every layer; layers with equal windows share a mask."""
        inputs, cache, blocks = self.inputs, self.cache, self.kind.blocks
        biases, distances, source_allowed = self._biases(), self._distances(), self._source_mask()
        mask = partial(self._joint_mask, source_allowed) if self.kind.merges_source else self._mask
        masks = {(b.causal, b.self_attn.sides): mask(b.causal, b.self_attn.sides) for b in blocks}
        read = source_angles(self.here, self.kind, self.prefix) if inputs.source is not None else {}
        return [
            LayerContext(
                allowed=masks[block.causal, block.self_attn.sides],
                angles=angles[block.self_attn.rotary] if block.self_attn.rotary else None,
                bias=biases[layer],
                distances=distances,
                past=self.past,
                cached=None if cache is None else (cache.keys[layer], cache.values[layer]),
                source=inputs.source,
                source_angles=read.get(block.self_attn.rotary) if block.self_attn.rotary else None,
                source_allowed=source_allowed,
                cross=cache.cross[layer] if cache is not None and cache.cross else None,
                record=inputs.record,
            )
            for layer, block in enumerate(blocks)
        ]

    def _key_mask(self) -> Bool[Array, "R S"] | None:
        """True at real tokens, both cached and new ones; None if all tokens are real."""
        if self.cache is None:
            return self.inputs.mask
        return self.ops.write_at(self.cache.mask, self._new_mask(), self.past, 1)

    def _mask(self, causal: bool, window: spec.Sides | None) -> Array | None:
        return self_mask(
            self.ops,
            self._key_mask(),
            causal=causal,
            window=window,
            past=self.past,
            length=self.length,
            total=self.total,
            segments=self.inputs.segments,
            places=self._real_places() if self.padded and window is not None else self._indices(),
        )

    def _joint_mask(self, source_allowed: Array | None, causal: bool, window: spec.Sides | None) -> Array:
        """The mask over the source and the target behind it."""
        ops, rows, length, size = self.ops, self.rows, self.length, self.source_size
        first = ops.full((1, 1, 1, size), True, "bool")
        if source_allowed is not None:
            flat = ops.reshape(source_allowed, (self.sources, -1))
            first = ops.reshape(self._each_row(flat), (-1, 1, ops.shape(source_allowed)[2], size))
        if self.prefix is not None and window is not None:
            places, offset = (self._each_row(x) for x in (self.prefix.places, self.prefix.offset))
            away = (self._target_places()[0] + offset)[:, :, None] - places[:, None, :]
            first = first & window.hold(away)[:, None]
        own = self._mask(causal, window)
        own = ops.full((1, 1, 1, self.total), True, "bool") if own is None else own
        parts = [ops.broadcast(x, (rows, 1, length, ops.shape(x)[3])) for x in (first, own)]
        return ops.concat(parts, -1)

    def _target_places(self) -> tuple[Int[Array, "#R T"], Int[Array, "#R S"]]:
        """Positions of queries and of the target's own keys, counted from the target's start."""
        if self.inputs.segments is not None:
            places = self._indices()[0] - segment_starts(self.ops, self.inputs.segments)
            return places, places
        return self._real_places() if self.padded else self._indices()

    def _indices(self) -> tuple[Int[Array, "1 T"], Int[Array, "1 S"]]:
        """Return the positions of queries and keys if there is no padding."""
        return (self.ops.arange(self.length) + self.past)[None], self.ops.arange(self.total)[None]

    def _real_places(self) -> tuple[Int[Array, "R T"], Int[Array, "R S"]]:
        """Return the positions of queries and keys: as given beside a mask, else counted in real tokens."""
        if self.cache is None and self.inputs.position_ids is not None:
            return self.inputs.position_ids, self.inputs.position_ids
        keys = places_of(self.ops, self._key_mask())
        return keys if self.cache is None else self.ops.slice_at(keys, self.past, self.length, 1), keys

    def _biases(self) -> list[Array | None]:
        """The bias of every layer."""
        kind, layers = self.kind.relative_bias, self.kind.weights_of
        if isinstance(kind, spec.RelativeBias) and kind.per_block:
            return [self._bias(self.here / f"blocks.{index}") for index in layers]
        return [None if kind is None else self._bias(self.here)] * len(layers)

    def _bias(self, here: Scope) -> Array:
        ops = self.ops
        if self.prefix is not None:
            places, offset = (self._each_row(x) for x in (self.prefix.places, self.prefix.offset))
            asking, own = (x + offset for x in self._target_places())
            sides = [ops.broadcast(x, (self.rows, ops.shape(x)[1])) for x in (places, own)]
            return self._bias_between(here, asking, ops.concat(sides, 1))
        own = self._own_bias(here)
        if not self.kind.merges_source:
            return own
        rows, heads, length, _ = ops.shape(own)
        return ops.concat((ops.full((rows, heads, length, self.source_size), 0.0, own.dtype), own), -1)

    def _bias_between(self, here: Scope, queries: Int[Array, "#R T"], keys: Int[Array, "#R S"]) -> Array:
        kind = self.kind.relative_bias
        if isinstance(kind, spec.Alibi):
            return alibi(self.ops, kind, self.kind.blocks[0].self_attn.attention.num_heads, queries, keys)
        assert kind is not None
        return relative_bias(self.ops, kind, here["relative_bias.weight"], queries, keys)

    def _distances(self) -> tuple[Array, Array] | None:
        """The table of distances, and the row of every query and key."""
        kind = self.kind.relative_table
        if kind is None:
            return None
        here = self.here / "relative_table"
        table = here["weight"] if kind.norm is None else norm(here / "norm", kind.norm, here["weight"])
        places = self._real_places() if self.padded else self._indices()
        return table, table_rows(self.ops, kind, *places)

    def _own_bias(self, here: Scope) -> Array:
        """The relative bias between positions of this stack."""
        ops, kind = self.ops, self.kind.relative_bias

        def bias_of(places: tuple[Array, Array]) -> Array:
            return self._bias_between(here, *places)

        if not self.padded:
            return bias_of(self._indices())
        is_of_places = isinstance(kind, spec.Alibi) and kind.rounded
        if self.cache is not None or self.inputs.position_ids is not None or is_of_places:
            return bias_of(self._real_places())
        heads = self.kind.blocks[0].self_attn.attention.num_heads
        shape = (self.rows, heads, self.length, self.total)
        return ops.cond(  # rows whose real tokens are contiguous have equal distances, so one gather serves all rows
            stand_together(ops, self._key_mask()),
            lambda: ops.broadcast(bias_of(self._indices()), shape),
            lambda: bias_of(self._real_places()),
        )

    def _source_mask(self) -> Array | None:
        inputs = self.inputs
        allowed = None if inputs.source_mask is None else inputs.source_mask[:, None, None, :]
        if inputs.segments is not None and inputs.source_segments is not None:
            same = same_segment(inputs.segments, inputs.source_segments)
            allowed = same if allowed is None else same & allowed
        return allowed

    def _new_cache(self, written: list[Pair], counted: Bool[Array, "R T"]) -> Cache | None:
        if self.cache is None:
            return None
        return self.cache.advance(self.ops, written, self._new_mask(), counted, self.length)
