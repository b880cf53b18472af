"""How one pass over a stack is computed: `route_of` decides it, once per pass, and everything else follows its route.

- Padded: the bricks see the batch as it came. Every device, tracer and adapter can follow this route.
- Packed: on a CPU, the bricks see the real tokens only, one sequence behind the other in one row (decision 12).
- NativeSteps: on a CPU, one call of our kernels runs all blocks over the new tokens of a decoding step (decision 8).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from conjoin.torch.cpu.attention import attend
from conjoin.torch.cpu.masks import Mask
from conjoin.torch.cpu.mode import is_eager, mode_of
from conjoin.torch.cpu.native import Steps
from conjoin.torch.cpu.packing import Packing, attend_packed
from conjoin.torch.model.block import Attend, Source
from conjoin.torch.model.cache import KVCache
from conjoin.torch.model.positions import rotary_angles
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

    def attend_self(self, mask: Callable[..., Mask], *, causal: bool, window: int | None) -> Attend:
        """Return the self-attention of a kind of block; `mask` builds its mask of a padded batch."""
        return partial(attend, mask=mask(causal=causal, window=window))

    def leave(self, x: Tensor) -> Tensor:
        """Return what the bricks computed, as a batch."""
        return x


@dataclass(frozen=True, slots=True)
class Packed:
    """The real tokens of a batch in one row."""

    packing: Packing
    source: Source | None
    attend_source: Attend

    def enter(self, inputs: StackInputs, positions: Tensor) -> tuple[StackInputs, Tensor]:
        """Return the inputs and positions that the bricks see."""
        names = ("input_ids", "inputs_embeds", "position_ids", "token_type_ids")
        tensors = {name: tensor for name in names if (tensor := getattr(inputs, name)) is not None}
        packed = {name: self.packing.pack(tensor) for name, tensor in tensors.items()}
        return replace(inputs, attention_mask=None, wanted=None, **packed), self.packing.pack(positions)

    def longest(self, x: Tensor) -> int:
        """Return the number of tokens of the longest sequence in x."""
        return self.packing.longest

    def attend_self(self, mask: Callable[..., Mask], *, causal: bool, window: int | None) -> Attend:
        """Return the self-attention of a kind of block."""
        return partial(attend_packed, mask=self.packing.mask(causal=causal, window=window))

    def leave(self, x: Tensor) -> Tensor:
        """Return what the bricks computed, as a batch."""
        return self.packing.unpack(x)


@dataclass(frozen=True, slots=True)
class NativeSteps:
    """All blocks in one call; embedding, final norm and head are those of the other routes."""

    steps: Steps
    source_mask: Bool[Tensor, "B S"] | None

    def run(self, x: Float[Tensor, "R T D"], cache: KVCache, positions: Int[Tensor, "A t"]) -> Float[Tensor, "R T D"]:
        """Return the output of the last block; the cache gets the new keys and values, but is not advanced."""
        positions = positions.expand(-1, x.shape[1])
        angles = [rotary_angles(kind, positions, torch.float32) for kind in self.steps.rotary]
        return self.steps.run(x, cache, angles, self.source_mask)


def route_of(
    stack: Any, inputs: StackInputs, key_mask: Bool[Tensor, "R S"] | None, source_mask: Mask
) -> Padded | Packed | NativeSteps:
    """Decide how a pass is computed.

    Args:
        stack: The Stack.
        key_mask, source_mask: What self- and cross-attention may read.
    """
    steps = _native_steps(stack, inputs, key_mask)
    if steps is not None:
        return NativeSteps(steps, None if source_mask.allowed is None else source_mask.allowed[:, 0, 0])
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
    return Packed(packing, Source(source_packing.pack(states)), read)


def can_pack(stack: nn.Module, mask: Tensor) -> bool:
    """True if nothing observes the modules, so that they may see packed rows: on a CPU, where packing pays."""
    return mask.is_cpu and is_eager(mask) and not has_hooks(stack)


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
    if not stack.spec.has_cross_attention:
        packing = Packing.of(tokens)
        return None if packing.is_empty else packing
    sources = inputs.source_tokens
    if sources is None or len(sources) != len(tokens):
        return None
    read, own = sources.sum(1), tokens.sum(1)
    order = (read * (tokens.shape[1] + 1) + own).argsort(stable=True)
    return Packing.of(tokens, order) if bool((read > 0).all() & (own > 0).all()) else None


def _needed_tokens(stack: Any, inputs: StackInputs, key_mask: Tensor | None) -> Bool[Tensor, "R T"] | None:
    """True at tokens whose states enter a result; None if that is unknown, or if other tokens must stay too."""
    blocks = stack.spec.blocks
    causal = all(block.causal for block in blocks)
    encodes = not stack.spec.has_cross_attention and not any(block.causal for block in blocks)
    tokens = inputs.wanted if causal else key_mask if encodes else None
    if tokens is None and encodes and torch.is_grad_enabled():
        tokens = inputs.every_token
    if tokens is None or not can_pack(stack, tokens):
        return None
    if encodes:
        return tokens
    before = tokens.flip(1).cummax(1).values.flip(1)
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
        or kind.relative_bias is not None
        or len(cache.cross) != (len(kind.weights_of) if kind.has_cross_attention else 0)
        or mode_of(stack.embed.words.weight, tokens, inputs.encoder_attention_mask) != "inference"
    ):
        return None
    owner, steps = _STEPS.get(cache, (None, None))
    known = owner is stack and (inputs.trusted or steps is None or (steps.are_current() and steps.takes(cache)))
    if not known:
        steps = None if has_hooks(stack) else Steps.of(stack)
        steps = steps if steps is not None and steps.takes(cache) else None
        _STEPS[cache] = stack, steps
    return steps
