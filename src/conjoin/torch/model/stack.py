"""One transformer stack, built from its spec."""

from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils import checkpoint

from conjoin import spec
from conjoin.errors import ShapeError
from conjoin.torch.cpu.dropout import dropout
from conjoin.torch.cpu.masks import Mask, joint_mask, self_mask
from conjoin.torch.cpu.mode import is_eager
from conjoin.torch.model.block import Block, LayerContext, Source
from conjoin.torch.model.cache import KVCache
from conjoin.torch.model.embedding import Embedding
from conjoin.torch.model.norm import build_norm
from conjoin.torch.model.positions import (
    Alibi,
    RelativeBias,
    RelativeTable,
    build_relative_bias,
    places_of,
    rotary_angles,
    stands_together,
    token_positions,
)
from conjoin.torch.model.prefix import Prefix
from conjoin.torch.model.route import NativeEncoding, NativeSteps, Packed, Padded, route_of
from conjoin.torch.model.segments import check_segments, same_segment, segment_starts
from conjoin.torch.model.sharing import Brick
from conjoin.torch.model.stack_inputs import StackInputs, check_not_empty


class Stack(Brick):
    """Embedding, blocks, final norm. Layers that share weights share a Block.

    Attributes:
        checkpoint_every: Recompute one block of so many in the backward pass; 0 none.
    """

    rotary_angles = staticmethod(rotary_angles)

    def __init__(self, kind: spec.StackSpec) -> None:
        super().__init__()
        self.spec = kind
        self.checkpoint_every = 0
        self.embed = Embedding(kind.embedding, kind.hidden_size)
        heads = kind.blocks[0].self_attn.attention.num_heads
        bias = kind.relative_bias
        own = bias if isinstance(bias, spec.RelativeBias) and bias.per_block else None
        self.relative_bias = build_relative_bias(bias, heads) if bias and not own else None
        table = kind.relative_table
        self.relative_table = RelativeTable(table, kind.hidden_size) if table else None
        self.blocks = nn.ModuleList(
            Block(kind.blocks[index], kind.hidden_size, own) for index in sorted(set(kind.weights_of))
        )
        layers = [kind.blocks[index] for index in kind.weights_of]
        self._heads = [_kept_heads(layer.self_attn.attention) for layer in layers]
        self._cross_heads = [_kept_heads(attention) for attention in kind.source_attention]
        self.final_norm = build_norm(kind.final_norm, kind.hidden_size) if kind.final_norm else None

    def run(self, inputs: StackInputs) -> Float[Tensor, "R T D"]:
        """The last hidden state; `inputs.record` fills on the way, `inputs.cache` grows by T."""
        record = inputs.record
        rows, length = self._shape(inputs)
        past = inputs.cache.length if inputs.cache else 0
        if inputs.cache and not inputs.trusted:
            inputs.cache.require_fit(self.spec.family, rows, self._heads, self._cross_heads, self.embed.words.weight)
        where = inputs.position_ids
        if where is not None and not (where.dim() == 2 and len(where) in (1, rows) and where.shape[1] in (1, length)):
            raise ShapeError(
                f"{self.spec.family}: position_ids has shape {tuple(where.shape)}; expected {(rows, length)}."
            )
        if where is not None and self.spec.states:
            raise ShapeError(
                f"{self.spec.family}: position_ids of sources that are read layer by layer: the decoder counts their "
                "positions itself.",
                hint="leave position_ids out; padding needs no positions.",
            )
        self._check_segments(inputs, rows, length)
        key_mask = self._key_mask(inputs, rows, length, past)
        source_mask = self._source_mask(inputs, rows)
        prefix = self._prefix(inputs, rows)
        positions = self._positions(inputs, key_mask, rows, length, past, prefix)
        route = route_of(self, inputs, key_mask, source_mask)
        if isinstance(route, NativeSteps):
            assert inputs.cache is not None
            x = route.run(self, inputs, positions)
            inputs.cache.advance(length)
            return x
        if isinstance(route, NativeEncoding):
            return route.run(self, inputs, positions)
        prefix = None if prefix is None else prefix.entering(route)
        packed, positions = route.enter(inputs, positions)
        x = self._embed(packed, positions)
        states = [] if record.hidden_states is None and self.spec.states else record.hidden_states
        x = self._run_blocks(x, self._contexts(route, packed, key_mask, source_mask, prefix, positions, x), states)
        if self.final_norm is not None:
            x = self.final_norm(x)
        x = dropout(x, self.spec.final_dropout, self.training)
        if states is not None:
            states.append(x)
        if inputs.cache:
            inputs.cache.advance(length)
        return route.leave(self._output(x, states))

    def _output(self, x: Tensor, states: list[Tensor] | None) -> Float[Tensor, "R T M"]:
        """The last state, or those that a decoder reads layer by layer, side by side."""
        if not self.spec.states:
            return x
        assert states is not None
        return torch.cat([states[index] for index in self.spec.states], -1)

    def _run_blocks(self, x: Tensor, contexts: list[LayerContext], states: list[Tensor] | None) -> Tensor:
        for context, index in zip(contexts, self.spec.weights_of, strict=True):
            if states is not None:
                states.append(x)
            x = self._layer(self.blocks[index], x, context)
        return x

    def _layer(self, block: nn.Module, x: Tensor, context: LayerContext) -> Tensor:
        recomputed = self.checkpoint_every and context.layer % self.checkpoint_every == 0
        if recomputed and self.training and torch.is_grad_enabled():
            return cast(Any, checkpoint).checkpoint(block, x, context, use_reentrant=False)
        return block(x, context)

    def _shape(self, inputs: StackInputs) -> tuple[int, int]:
        given = inputs.input_ids if inputs.inputs_embeds is None else inputs.inputs_embeds
        if given is None or (inputs.input_ids is not None and inputs.inputs_embeds is not None):
            raise ShapeError(f"{self.spec.family}: expected exactly one of input_ids and inputs_embeds.")
        if inputs.input_ids is None and (given.dim() != 3 or not given.is_floating_point()):
            raise ShapeError(
                f"{self.spec.family}: inputs_embeds has shape {tuple(given.shape)} and dtype {given.dtype}; "
                "expected floating numbers of shape (batch, length, width)."
            )
        check_not_empty(f"{self.spec.family}: input_ids or inputs_embeds", given.shape)
        return given.shape[0], given.shape[1]

    def _key_mask(self, inputs: StackInputs, rows: int, length: int, past: int) -> Bool[Tensor, "R S"] | None:
        """True at real tokens among past and new ones; None when all are. Kept in the cache for later steps."""
        mask, cache = inputs.attention_mask, inputs.cache
        if mask is None and (cache is None or cache.mask is None):
            return None
        if mask is None:
            assert cache is not None
            mask = torch.ones(rows, length, dtype=torch.bool, device=self.embed.words.weight.device)
        if mask.dim() != 2 or mask.shape[0] != rows or mask.shape[1] not in (length, past + length):
            raise ShapeError(
                f"{self.spec.family}: attention_mask has shape {tuple(mask.shape)}, "
                f"the input {(rows, length)} after {past} cached positions.\n"
                f"Expected ({rows}, {past + length}): 1 at real tokens, 0 at padding."
            )
        mask = mask.bool()
        if mask.shape[1] == length and past:
            before = cache.mask if cache is not None else None
            before = mask.new_ones(rows, past) if before is None else before
            mask = torch.cat((before, mask), 1)
        if cache is not None:
            cache.mask = mask
        return mask

    def _prefix(self, inputs: StackInputs, rows: int) -> Prefix | None:
        """Where the source stands before the target; None if it has no positions there."""
        if not self.spec.continues_source or inputs.holds_source:
            return None
        cache, states, mask = inputs.cache, inputs.encoder_hidden_states, inputs.encoder_attention_mask
        held = cache.cross[0][0] if cache and cache.cross else None
        shape = (held.shape[0], held.shape[2]) if held is not None else states.shape[:2]  # pyright: ignore
        mask = None if mask is None else mask.bool()
        device = self.embed.words.weight.device
        return Prefix.of(mask, shape, rows, inputs.segments, inputs.source_segments, device)

    def _positions(
        self,
        inputs: StackInputs,
        key_mask: Tensor | None,
        rows: int,
        length: int,
        past: int,
        prefix: Prefix | None = None,
    ) -> Int[Tensor, "R T"]:
        positions = self._own_positions(inputs, key_mask, rows, length, past, prefix)
        if prefix is None:
            return positions
        skipped, rows = spec.skipped_pads(self.spec.embedding.position), self.spec.embedding.position_rows
        behind = positions + prefix.offset
        if skipped is not None:  # padding stays at its row
            behind = positions.where(positions == skipped.padding_position, behind)
        return behind.clamp(max=rows - 1) if rows else behind  # padding may stand behind the last row

    def _own_positions(
        self,
        inputs: StackInputs,
        key_mask: Tensor | None,
        rows: int,
        length: int,
        past: int,
        prefix: Prefix | None,
    ) -> Int[Tensor, "R T"]:
        kind = self.spec.embedding.position
        counted, skipped = key_mask, spec.skipped_pads(kind)
        if skipped is not None and skipped.pads == "ids":
            counted = self._counted(skipped.padding_id, inputs, rows, length, past)
            counted = counted if key_mask is None else counted & key_mask
        if not isinstance(kind, spec.NoPosition) and inputs.position_ids is not None:
            return inputs.position_ids + self.spec.embedding.first_row
        limit, starts = self.spec.max_positions, None
        used = past + length
        if inputs.segments is not None:
            starts = segment_starts(inputs.segments)
            if limit is not None and used > limit:
                used = int((torch.arange(length, device=starts.device) - starts).max()) + 1
        if limit is not None and prefix is not None:
            used += prefix.size
            if used > limit and inputs.segments is None:
                used = prefix.longest(None if counted is None else counted.sum(1, keepdim=True), past + length)
        self.spec.require_length(used)
        device = self.embed.words.weight.device
        return token_positions(kind, counted, rows=rows, length=length, past=past, device=device, starts=starts)

    def places(self, input_ids: Int[Tensor, "R T"], cache: KVCache, source: int = 0) -> Int[Tensor, "R T"] | None:
        """Return the positions of new ids behind those of a cache; None if they are the indices in the cache.

        Args:
            source: Positions that the longest source takes before them. They are not counted in the result.

        Raises:
            ShapeError: there are more positions than this checkpoint's position table has.
        """
        rows, length = input_ids.shape
        self.spec.require_length(source + cache.length + length)
        if not spec.skips_padding_ids(self.spec.embedding.position):
            return None
        inputs = StackInputs(input_ids=input_ids, cache=cache)
        return self._positions(inputs, None, rows, length, cache.length) - self.spec.embedding.first_row

    def _check_segments(self, inputs: StackInputs, rows: int, length: int) -> None:
        check_segments(inputs.segments, (rows, length), "segment_ids")
        one_sided = self.spec.reads_source and (inputs.segments is None) != (inputs.source_segments is None)
        if one_sided or (inputs.cache is not None and inputs.segments is not None):
            raise ShapeError(
                f"{self.spec.family}: segment ids are given "
                f"{'for one side only' if one_sided else 'together with a cache'}.",
                hint="packed rows need segment_ids, decoder_segment_ids and use_cache=False.",
            )

    def _counted(self, padding_id: int, inputs: StackInputs, rows: int, length: int, past: int) -> Bool[Tensor, "R S"]:
        """True at ids that are not padding among past and new ones; embeddings given in their place all count.

        Kept in the cache: counting only the new ones, as transformers does, shifts every step after a padded start.
        """
        ids, cache = inputs.input_ids, inputs.cache
        whole = torch.ones(rows, past + length, dtype=torch.bool, device=self.embed.words.weight.device)
        if cache is not None and cache.counted is not None:
            whole[:, : cache.counted.shape[1]] = cache.counted
        if ids is not None:
            whole[:, past:] = ids != padding_id
        if cache is not None:
            cache.counted = whole
        return whole

    def _where(
        self, inputs: StackInputs, positions: Tensor, key_mask: Tensor | None, prefix: Prefix | None
    ) -> Int[Tensor, "A T"]:
        """Positions for rotary angles: one row where all rows have the same."""
        if inputs.position_ids is not None:
            return inputs.position_ids if prefix is None else inputs.position_ids + prefix.offset
        alike = inputs.segments is None and key_mask is None and (prefix is None or prefix.is_alike)
        return positions[:1] if alike else positions

    def _places(
        self, inputs: StackInputs, key_mask: Bool[Tensor, "R S"] | None, past: int
    ) -> Int[Tensor, "R S"] | None:
        """Where tokens stand for distances between them, counted in real tokens; None where indices tell as much.

        Positions that are given beside a mask are these places.

        Whether they do is asked only where asking is cheap: not while tracing, nor of a GPU at every step.
        """
        total = 0 if key_mask is None else key_mask.shape[1]
        narrow = any((sides := block.self_attn.sides) is not None and total > sides.least for block in self.spec.blocks)
        bias = self.spec.relative_bias
        if key_mask is None or not (narrow or bias is not None or self.relative_table is not None):
            return None
        if inputs.position_ids is not None and not past:
            return inputs.position_ids.expand(len(key_mask), -1)
        cheap = is_eager(key_mask) and (not past or key_mask.device.type == "cpu")
        cheap = cheap and not (isinstance(bias, spec.Alibi) and bias.rounded)  # which is of places, not of distances
        return None if cheap and stands_together(key_mask) else places_of(key_mask)

    def _embed(self, inputs: StackInputs, positions: Tensor) -> Float[Tensor, "R T D"]:
        words = inputs.inputs_embeds
        if words is None:
            assert inputs.input_ids is not None
            words = self.embed.look_up(inputs.input_ids)
        x = self.embed(words, positions, inputs.token_type_ids)
        return x.float() if x.dtype == torch.float16 and self.spec.blocks[0].wide_in_float16 else x

    def _contexts(
        self,
        route: Padded | Packed,
        inputs: StackInputs,
        key_mask: Tensor | None,
        source_mask: Mask,
        prefix: Prefix | None,
        positions: Tensor,
        x: Tensor,
    ) -> list[LayerContext]:
        """The context of each layer; masks and angles are built once per kind."""
        past, length, kinds = inputs.cache.length if inputs.cache else 0, route.longest(x), self.spec.blocks
        key_mask = key_mask if isinstance(route, Padded) else None
        places = self._places(inputs, key_mask, past)
        together = None if inputs.segments is None else same_segment(inputs.segments, inputs.segments)
        masks = partial(
            self_mask, key_mask, past=past, length=length, device=x.device, together=together, places=places
        )
        sizes, merges = (len(x), length, past), self.spec.merges_source and not inputs.holds_source
        where, dtype = self._where(inputs, positions, key_mask, prefix), self.embed.words.weight.dtype
        rotaries = {b.self_attn.rotary for b in kinds if b.self_attn.rotary}
        angles = {kind: rotary_angles(kind, where, dtype) for kind in rotaries}
        source_angles = {
            kind: rotary_angles(kind, prefix.places, dtype)
            for kind in rotaries
            if prefix is not None and route.source is not None
        }
        joint = partial(self._joint_mask, masks, inputs, source_mask, prefix, sizes, key_mask)
        reaches = {(b.causal, b.self_attn.sides) for b in kinds}
        attends = {r: route.attend_self(masks, causal=r[0], window=r[1]) for r in reaches if not merges}
        joints = {r: route.attend_joint(joint, causal=r[0], window=r[1]) for r in reaches if merges}
        biases = self._biases(inputs, prefix, places, key_mask, sizes)
        distances = None if self.relative_table is None else self.relative_table(past + length, places)
        states = None if route.source is None or prefix is None else route.source.split(self.spec.hidden_size)
        return [
            LayerContext(
                layer=layer,
                attend=attends.get((block.causal, block.self_attn.sides)),
                attend_joint=joints.get((block.causal, block.self_attn.sides)),
                attend_source=route.attend_source,
                angles=angles[block.self_attn.rotary] if block.self_attn.rotary else None,
                source_angles=source_angles.get(block.self_attn.rotary) if block.self_attn.rotary else None,
                bias=biases[layer],
                distances=distances,
                source=_source_of(block.self_attn.source, route.source, states),
                cache=inputs.cache,
                attentions=inputs.record.attentions,
                cross_attentions=inputs.record.cross_attentions,
            )
            for layer, block in enumerate(kinds)
        ]

    def _joint_mask(
        self,
        masks: partial[Mask],
        inputs: StackInputs,
        source_mask: Mask,
        prefix: Prefix | None,
        sizes: tuple[int, int, int],
        key_mask: Tensor | None,
        *,
        causal: bool,
        window: spec.Sides | None,
    ) -> Mask:
        """The mask over the source and the target behind it; `sizes` are rows, new and past positions."""
        rows, length, past = sizes
        near = None
        if prefix is not None and window is not None and prefix.size + past + length > window.least:
            queries = self._target_places(inputs, key_mask, past + length)[:, past:] + prefix.offset
            near = prefix.near(queries, window)
        own = masks(causal=causal, window=window)
        size = self._source_size(inputs)
        return joint_mask(source_mask.allowed, near, own, (rows, length, size, past + length), self._device)

    @property
    def _device(self) -> torch.device:
        return self.embed.words.weight.device

    def _source_size(self, inputs: StackInputs) -> int:
        cache, states = inputs.cache, inputs.encoder_hidden_states
        if cache and cache.cross:
            return cache.cross[0][0].shape[2]
        assert states is not None
        return states.shape[1]

    def _target_places(self, inputs: StackInputs, key_mask: Tensor | None, total: int) -> Int[Tensor, "#R S"]:
        """Positions of the target's tokens, past and new ones, counted from its own start."""
        if inputs.position_ids is not None and key_mask is not None and key_mask.shape[1] == inputs.tokens.shape[1]:
            return inputs.position_ids
        indices = torch.arange(total, device=self._device)[None]
        if inputs.segments is not None:
            return indices - segment_starts(inputs.segments)
        return indices if key_mask is None else places_of(key_mask)

    def _biases(
        self,
        inputs: StackInputs,
        prefix: Prefix | None,
        places: Tensor | None,
        key_mask: Tensor | None,
        sizes: tuple[int, int, int],
    ) -> list[Tensor | None]:
        """The bias of every layer over all that its self-attention reads; `sizes` are rows, new and past positions."""
        _, length, past = sizes
        if self.spec.relative_bias is None:
            return [None] * self.spec.num_layers
        indices = torch.arange(past + length, device=self._device)[None]
        before = 0
        if prefix is not None and prefix.is_alike and key_mask is None and inputs.segments is None:
            places = torch.arange(prefix.size + past + length, device=self._device)[None]
        elif prefix is not None:
            places = prefix.before(self._target_places(inputs, key_mask, past + length))
        elif self.spec.merges_source and not inputs.holds_source:
            before = self._source_size(inputs)
        places = indices if places is None else places

        def bias_of(module: RelativeBias | Alibi) -> Float[Tensor, "#R H T S"]:
            own = module(length, places, self.embed.words.weight.dtype)
            return torch.cat((own.new_zeros(*own.shape[:3], before), own), -1) if before else own

        if self.relative_bias is not None:
            return [bias_of(self.relative_bias)] * self.spec.num_layers
        return [bias_of(self.blocks[index].relative_bias) for index in self.spec.weights_of]  # pyright: ignore

    def _source_mask(self, inputs: StackInputs, rows: int) -> Mask:
        if not self.spec.reads_source or inputs.holds_source:
            return Mask()
        source, mask, cache = inputs.encoder_hidden_states, inputs.encoder_attention_mask, inputs.cache
        if source is None and not (cache and cache.cross):
            raise ShapeError(f"{self.spec.family}: this decoder reads an encoder; encoder_hidden_states is missing.")
        read = cache.cross[0][0] if cache and cache.cross else None
        sources = read.shape[0] if read is not None else source.shape[0]  # pyright: ignore
        if rows % sources:
            raise ShapeError(f"{self.spec.family}: {rows} target rows for {sources} sources; expected a multiple.")
        if mask is None and inputs.source_segments is None:
            return Mask()
        length = read.shape[2] if read is not None else source.shape[1]  # pyright: ignore
        check_segments(inputs.source_segments, (sources, length), "the source's segment_ids")
        if mask is not None and tuple(mask.shape) != (sources, length):
            raise ShapeError(
                f"{self.spec.family}: encoder_attention_mask has shape {tuple(mask.shape)}; "
                f"expected {(sources, length)}, as the encoder's output."
            )
        allowed = None if mask is None else mask.bool()[:, None, None, :]
        if inputs.segments is not None and inputs.source_segments is not None:
            apart = same_segment(inputs.segments, inputs.source_segments)
            allowed = apart if allowed is None else apart & allowed
        return Mask(allowed)


def _source_of(
    kind: spec.MergedSource | spec.PrefixSource | None, source: Source | None, states: tuple[Source, ...] | None
) -> Source | None:
    """What a layer reads of the encoder's output."""
    if not isinstance(kind, spec.PrefixSource):
        return source
    return None if states is None else states[kind.state]


def _kept_heads(kind: spec.Attention) -> tuple[int, int]:
    """What a cache holds of a layer: how many heads, and their size."""
    return kind.num_kv_heads, kind.head_size
