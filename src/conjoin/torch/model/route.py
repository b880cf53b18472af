"""How one pass over a stack is computed: `route_of` decides it, once per pass, and everything else follows its route.

- Padded: the bricks see the batch as it came. Every device, tracer and adapter can follow this route.
- Packed: on a CPU, the bricks see the real tokens only, one sequence behind the other in one row (decision 12).
- NativeSteps: on a CPU, one call of our kernels reads the new tokens of a decoding step (decision 8).
- NativeEncoding: on a CPU, one call of our kernels encodes the real tokens of a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from conjoin import spec
from conjoin.torch.cpu.attention import attend, attend_joint
from conjoin.torch.cpu.masks import Mask, up_to_last
from conjoin.torch.cpu.mode import is_eager, mode_of
from conjoin.torch.cpu.native import NativeStack, Steps, encode, native_stack
from conjoin.torch.cpu.native.stack import MOST_PLACES
from conjoin.torch.cpu.packing import Packing, attend_packed, attend_packed_joint
from conjoin.torch.cpu.serial import converted, spread_where
from conjoin.torch.model.block import Attend, AttendJoint, Source
from conjoin.torch.model.cache import KVCache
from conjoin.torch.model.stack_inputs import StackInputs

_MOST_TOKENS = 1024
"""Tokens of a decoding step that the kernels run; with more, PyTorch's products round less often in bfloat16."""


@dataclass(frozen=True, slots=True)
class Padded:
    """The batch as it came; cross-attention may read the source without its padding nevertheless."""

    source: Source | None
    attend_source: Attend

    def enter(self, inputs: StackInputs, positions: Tensor) -> tuple[StackInputs, Tensor]:
        """Return the inputs and positions that the bricks see."""
        return inputs, positions

    def longest(self, x: Tensor) -> int:
        """Return the number of new tokens of the longest sequence in x."""
        return x.shape[1]

    def attend_self(self, mask: Callable[..., Mask], *, causal: bool, window: spec.Sides | None) -> Attend:
        """Return the self-attention of a kind of block; `mask` builds its mask of a padded batch."""
        return partial(attend, mask=mask(causal=causal, window=window))

    def attend_joint(self, mask: Callable[..., Mask], *, causal: bool, window: spec.Sides | None) -> AttendJoint:
        """Return the self-attention of a kind of block that reads the source, too."""
        return partial(attend_joint, mask=mask(causal=causal, window=window))

    def leave(self, x: Tensor) -> Tensor:
        """Return what the bricks computed, as a batch."""
        return x


@dataclass(frozen=True)
class Packed:
    """The real tokens of a batch in one row.

    Args:
        source_packing: Of the source, where self-attention reads it, too.
    """

    packing: Packing
    source: Source | None
    attend_source: Attend
    source_packing: Packing | None = None

    def enter(self, inputs: StackInputs, positions: Tensor) -> tuple[StackInputs, Tensor]:
        """Return the inputs and positions that the bricks see."""
        names = ("input_ids", "inputs_embeds", "position_ids", "token_type_ids")
        tensors = {name: tensor for name in names if (tensor := getattr(inputs, name)) is not None}
        packed = {name: self.packing.pack(tensor) for name, tensor in tensors.items()}
        return replace(inputs, attention_mask=None, wanted=None, **packed), self.packing.pack(positions)

    def longest(self, x: Tensor) -> int:
        """Return the number of tokens of the longest sequence in x."""
        return self.packing.longest

    def attend_self(self, mask: Callable[..., Mask], *, causal: bool, window: spec.Sides | None) -> Attend:
        """Return the self-attention of a kind of block."""
        return partial(attend_packed, mask=self.packing.mask(causal=causal, window=window))

    def attend_joint(self, mask: Callable[..., Mask], *, causal: bool, window: spec.Sides | None) -> AttendJoint:
        """Return the self-attention of a kind of block that reads the source, too."""
        assert self.source_packing is not None
        behind = self.packing.mask_behind(self.source_packing, causal=causal, window=window)
        return partial(attend_packed_joint, mask=behind, order=self._joint_order)

    @cached_property
    def _joint_order(self) -> Int[Tensor, " N"]:
        assert self.source_packing is not None
        return self.packing.order_behind(self.source_packing)

    def leave(self, x: Tensor) -> Tensor:
        """Return what the bricks computed, as a batch."""
        return self.packing.unpack(x)


@dataclass(frozen=True, slots=True)
class NativeSteps:
    """The whole stack in one call."""

    steps: Steps
    source_mask: Bool[Tensor, "B S"] | None

    def run(self, stack: Any, inputs: StackInputs, positions: Int[Tensor, "R T"]) -> Float[Tensor, "R T D"]:
        """Return the last hidden states; the cache gets the new keys and values, but is not advanced.

        Args:
            positions: Rows of the position table.
        """
        ids, x = inputs.input_ids, None
        if ids is None or inputs.token_type_ids is not None or not self.steps.stack.embeds:
            words = inputs.inputs_embeds if ids is None else stack.embed.look_up(ids)
            ids, x = None, stack.embed(words, positions, inputs.token_type_ids)
        else:
            stack.embed.check_ids(ids)
        places = None if _are_indices(stack, inputs) else _places(stack, inputs, positions)
        hidden = self.steps.run(inputs.cache, ids=ids, x=x, places=places, source_mask=self.source_mask)
        return hidden.to(stack.embed.words.weight.dtype)


@dataclass(frozen=True, slots=True)
class NativeEncoding:
    """The real tokens of an encoder's batch in one call, or a few."""

    native: NativeStack
    tokens: Bool[Tensor, "B S"] | None

    def run(self, stack: Any, inputs: StackInputs, positions: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """Return the last hidden states, zeros at padding.

        Args:
            positions: Rows of the position table.
        """
        shape = inputs.tokens.shape[:2]
        ids, types, x = inputs.input_ids, inputs.token_type_ids, None
        if ids is None or not self.native.embeds or (types is not None and stack.embed.token_types is None):
            words = inputs.inputs_embeds if ids is None else stack.embed.look_up(ids)
            ids, types, x = None, None, stack.embed(words, positions, types)
        else:
            stack.embed.check_ids(ids)
            stack.embed.check_types(types)
        places = None
        if self.tokens is not None or not _are_indices(stack, inputs):
            places = _places(stack, inputs, positions)
        tokens = self.tokens
        lengths = torch.full(shape[:1], shape[1]) if tokens is None else tokens.sum(1)
        real = slice(None) if tokens is None else tokens.flatten()
        packed = {
            name: t.expand(shape).flatten()[real]
            for name, t in (("ids", ids), ("types", types), ("places", places))
            if t is not None
        }
        hidden = encode(self.native, lengths, x=None if x is None else x.flatten(0, 1)[real], **packed)
        hidden = converted(hidden, stack.embed.words.weight.dtype)
        return hidden.view(*shape, -1) if tokens is None else spread_where(hidden, tokens)


def _are_indices(stack: Any, inputs: StackInputs) -> bool:
    """True if the positions of new tokens are their indices in the cache."""
    return inputs.position_ids is None and not spec.skips_padding_ids(stack.spec.embedding.position)


def _places(stack: Any, inputs: StackInputs, positions: Int[Tensor, "#R T"]) -> Int[Tensor, "R T"]:
    """Return the positions of new tokens, counted from 0, as rotary angles take them."""
    places = positions - stack.spec.embedding.first_row if inputs.position_ids is None else inputs.position_ids
    return places.expand(inputs.tokens.shape[:2])


def route_of(
    stack: Any, inputs: StackInputs, key_mask: Bool[Tensor, "R S"] | None, source_mask: Mask
) -> Padded | Packed | NativeSteps | NativeEncoding:
    """Decide how a pass is computed.

    Args:
        stack: The Stack.
        key_mask, source_mask: What self- and cross-attention may read.
    """
    steps = _native_steps(stack, inputs, key_mask)
    if steps is not None:
        return NativeSteps(steps, None if source_mask.allowed is None else source_mask.allowed[:, 0, 0])
    encoding = _native_encoding(stack, inputs, key_mask)
    if encoding is not None:
        return encoding
    states, cache = inputs.encoder_hidden_states, inputs.cache
    if cache is not None and cache.cross:
        states = None  # the cache holds its keys and values
    packing = _packing(stack, inputs, key_mask)
    if packing is None:
        source = None if states is None else _padded_source(stack, states, inputs.encoder_attention_mask)
        return Padded(source, partial(attend, mask=source_mask))
    if states is None:
        return Packed(packing, None, partial(attend, mask=source_mask))
    tokens = inputs.source_tokens
    assert tokens is not None
    source_packing = Packing.of(tokens, packing.order)
    read = partial(attend_packed, mask=packing.mask_reading(source_packing))
    source = Source(source_packing.pack(states))
    return Packed(packing, source, read, source_packing if stack.spec.merges_source else None)


def can_pack(stack: nn.Module, mask: Tensor) -> bool:
    """True if nothing observes the modules, so that they may see packed rows: on a CPU, where packing pays."""
    return mask.is_cpu and is_eager(mask) and not has_hooks(stack)


def kernels_of(stack: Any, *tensors: Tensor | None) -> NativeStack | None:
    """Return the kernels' view of a stack; None if they lack a brick, or where PyTorch's modules must run."""
    if stack.training or mode_of(stack.embed.words.weight, *tensors) != "inference":
        return None
    return native_stack(stack)


def has_hooks(module: nn.Module) -> bool:
    """True if any submodule has forward hooks."""
    return any(vars(each)["_forward_hooks"] or vars(each)["_forward_pre_hooks"] for each in module.modules())


def _padded_source(stack: nn.Module, states: Float[Tensor, "B S M"], mask: Tensor | None) -> Source:
    """The source without its padding while keys and values are computed of it, which are padded again."""
    if mask is None or not can_pack(stack, mask):
        return Source(states)
    packing = Packing.of(mask.bool())
    return Source(states) if packing.is_empty else Source(packing.pack(states), packing.unpack_heads)


def _packing(stack: Any, inputs: StackInputs, key_mask: Bool[Tensor, "R S"] | None) -> Packing | None:
    """Where the real tokens are in the batch; None if padding must stay. A decoder's rows are in its sources' order."""
    if inputs.cache is not None or inputs.segments is not None or not inputs.record.is_empty:
        return None
    tokens = _needed_tokens(stack, inputs, key_mask)
    if tokens is None:
        return None
    if not stack.spec.reads_source or inputs.holds_source:
        packing = Packing.of(tokens)
        return None if packing.is_empty else packing
    sources = inputs.source_tokens
    if sources is None or len(sources) != len(tokens) or not _can_merge_packed(stack.spec, tokens.shape[1]):
        return None
    read, own = sources.sum(1), tokens.sum(1)
    order = (read * (tokens.shape[1] + 1) + own).argsort(stable=True)
    return Packing.of(tokens, order) if bool((read > 0).all() & (own > 0).all()) else None


def _can_merge_packed(kind: spec.StackSpec, length: int) -> bool:
    """False where self-attention reads the source by distances that packed rows do not have."""
    if not kind.merges_source:
        return True
    windows = [sides for block in kind.blocks if (sides := block.self_attn.sides) is not None]
    counts_apart = not kind.continues_source and any(window.least < length for window in windows)
    return kind.relative_bias is None and not counts_apart


def _needed_tokens(stack: Any, inputs: StackInputs, key_mask: Tensor | None) -> Bool[Tensor, "R T"] | None:
    """True at tokens whose states enter a result; None if that is unknown, or if other tokens must stay too."""
    blocks = stack.spec.blocks
    causal = all(block.causal for block in blocks)
    encodes = bool(stack.spec.states) or not (stack.spec.reads_source or any(block.causal for block in blocks))
    tokens = key_mask if encodes else inputs.wanted if causal else None
    if tokens is None and encodes and torch.is_grad_enabled():
        tokens = inputs.every_token
    if tokens is None or not can_pack(stack, tokens):
        return None
    if encodes:
        return tokens
    before = up_to_last(tokens)
    reads_padding = key_mask is not None and bool((before & ~key_mask).any())
    return None if reads_padding else before


_STEPS: WeakKeyDictionary[KVCache, tuple[Any, Steps | None]] = WeakKeyDictionary()
"""The stack that last continued a cache, and its kernels; None if they do not know its bricks, or the cache's dtype."""


def steps_of(cache: KVCache) -> Steps | None:
    """Return the kernels that compute the steps of a cache, if a step was computed by them."""
    return _STEPS.get(cache, (None, None))[1]


def _native_steps(stack: Any, inputs: StackInputs, key_mask: Tensor | None) -> Steps | None:
    """The kernels for a decoding step; None if this is no such step, or one that they do not know."""
    cache, kind, tokens = inputs.cache, stack.spec, inputs.tokens
    if cache is None or not cache.length or stack.training or key_mask is not None or not inputs.record.is_empty:
        return None
    if (
        tokens.shape[0] * tokens.shape[1] > _MOST_TOKENS
        or not _are_tabulated(inputs.position_ids, kind.max_positions)
        or len(cache.cross) != len(kind.source_attention)
        or mode_of(stack.embed.words.weight, tokens, inputs.encoder_attention_mask) != "inference"
        or (kind.continues_source and not _are_places_known(stack, inputs))
    ):
        return None
    owner, steps = _STEPS.get(cache, (None, None))
    known = owner is stack and (inputs.trusted or steps is None or (steps.stack.are_current() and steps.takes(cache)))
    if not known:
        steps = Steps.of(stack)
        steps = steps if steps is not None and steps.takes(cache) else None
        _STEPS[cache] = stack, steps
    return steps


def _are_places_known(stack: Any, inputs: StackInputs) -> bool:
    """True if the kernels can tell where a source and the target behind it stand: by indices, without padding."""
    return inputs.encoder_attention_mask is None and _are_indices(stack, inputs)


def _native_encoding(stack: Any, inputs: StackInputs, key_mask: Bool[Tensor, "R S"] | None) -> NativeEncoding | None:
    """The kernels for an encoder's pass; None if this is no such pass, or one that they do not know."""
    kind, tokens = stack.spec, inputs.tokens
    if (any(block.causal for block in kind.blocks) and not kind.states) or kind.reads_source:
        return None
    counts_places = kind.relative_bias is not None or any(block.self_attn.window for block in kind.blocks)
    if (
        inputs.cache is not None
        or inputs.segments is not None
        or not inputs.record.is_empty
        or not _are_tabulated(inputs.position_ids, kind.max_positions)
        or (inputs.position_ids is not None and key_mask is not None and counts_places)
    ):
        return None
    native = kernels_of(stack, tokens, key_mask)
    return None if native is None else NativeEncoding(native, key_mask)


def _are_tabulated(position_ids: Tensor | None, limit: int | None) -> bool:
    """True if positions are within the tables of the model and the kernels."""
    if position_ids is None:
        return True
    least, most = position_ids.aminmax()
    return int(least) >= 0 and int(most) < (limit or MOST_PLACES)
