"""Passes of a decoder over a cache by our kernels: few new tokens of every row, no gradients, nothing collected."""

from collections.abc import Sequence
from ctypes import addressof
from operator import is_
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from conjoin.torch.cpu.native.checks import kept_width, refuse
from conjoin.torch.cpu.native.layouts import CACHES, SOURCE_DTYPE, cache_tensors
from conjoin.torch.cpu.native.stack import NativeStack
from conjoin.torch.cpu.serial import converted, joined

Want = Literal["hidden", "logits", "all logits"]
_STACKS: WeakKeyDictionary[nn.Module, NativeStack] = WeakKeyDictionary()


def native_stack(stack: nn.Module) -> NativeStack | None:
    """Return the kernels' view of a stack as it is now; None if they lack one of its bricks."""
    known = _STACKS.get(stack)
    if known is not None and known.are_current():
        return known
    _STACKS.pop(stack, None)
    made = NativeStack.of(stack)
    if made is None or not made.are_current():
        return None
    _STACKS[stack] = made
    return made


MOST_TOKENS = 1024
"""Tokens that are encoded together: enough for products to be fast, and few enough to bound memory."""


def encode(
    stack: NativeStack,
    lengths: Int[Tensor, " B"],
    *,
    ids: Int[Tensor, " tokens"] | None = None,
    x: Float[Tensor, "tokens D"] | None = None,
    types: Int[Tensor, " tokens"] | None = None,
    places: Int[Tensor, " tokens"] | None = None,
) -> Float[Tensor, "tokens D"]:
    """Return the output of a stack that keeps no cache for sequences, one sequence behind the other.

    Args:
        lengths: Tokens of each sequence.
        ids: Ids of the vocabulary; or, in their place, embedded tokens `x`.
        types: Token types; all 0 by default.
        places: Positions; by default, indices in the sequence.
    """
    total = int(lengths.sum())
    hidden = torch.empty(total, stack.spec.output_size, dtype=torch.float32)
    if not total:
        return hidden
    stack.reach(int(lengths.max()) if places is None else int(places.max()) + 1)
    x = None if x is None else x.float().contiguous()
    ids, types, places = (None if t is None else t.long().contiguous() for t in (ids, types, places))
    counts = lengths.numpy()
    ends = counts.cumsum()
    begin, first = 0, 0
    while begin < len(counts):
        last = max(begin + 1, int(np.searchsorted(ends, first + MOST_TOKENS, "right")))
        end = int(ends[last - 1])
        some = counts[begin:last]
        starts = ends[begin:last] - some
        sources = np.zeros(last - begin, SOURCE_DTYPE)
        tables = _scratch_tables(stack, end - first)
        for name, table in zip(("self_k", "self_v"), tables, strict=True):
            sources[name] = addressof(table.fields)
        for name, tensor in (("ids", ids), ("types", types), ("places", places)):
            if tensor is not None:
                sources[name] = tensor.data_ptr() + starts * tensor.element_size()
        sources["first_slot"], sources["rows"] = starts - first, 1
        sources["ids_row"], sources["length"] = some, some
        stack.run(sources, stack.dtype, x=None if x is None else x[first:end], hidden=hidden[first:end])
        begin, first = last, end
    return hidden


class _Scratch(NamedTuple):
    """Keys or values of one layer at a time, a token behind the other, and the table that names them for all layers."""

    fields: Any
    memory: Tensor


def _scratch_tables(stack: NativeStack, tokens: int) -> tuple[_Scratch, _Scratch]:
    attentions = [stack.spec.blocks[index].self_attn.attention for index in stack.spec.weights_of]
    widest = max(each.num_kv_heads * each.head_size for each in attentions)

    def table() -> _Scratch:
        memory = torch.empty(tokens * widest, dtype=stack.dtype)
        tensors = [
            memory.as_strided(
                (tokens, each.num_kv_heads, 1, each.head_size),
                (each.num_kv_heads * each.head_size, each.head_size, each.num_kv_heads * each.head_size, 1),
            )
            for each in attentions
        ]
        return _Scratch(cache_tensors(tensors), memory)

    return table(), table()


class Steps:
    """A stack and one cache: holds pointers to the cache's tensors as long as they stay the same."""

    def __init__(self, stack: NativeStack) -> None:
        self.stack = stack
        self._cache: list[Tensor] = []
        self._tables: list[Any] = []
        self._sources = np.zeros(0, SOURCE_DTYPE)
        self._lengths: Tensor | None = None
        self._states: Tensor | None = None

    @classmethod
    def of(cls, stack: nn.Module) -> "Steps | None":
        """Return the steps of a stack; None if it has bricks or dtypes that the kernels do not know."""
        native = native_stack(stack)
        return None if native is None else cls(native)

    def takes(self, cache: Any) -> bool:
        """True if a cache's tensors have one supported dtype, are in CPU memory and have contiguous heads."""
        dtype = cache.keys[0].dtype
        if dtype not in CACHES or len({k.shape[2] for k, _ in cache.cross}) > 1:
            return False
        if not all(x.dtype == dtype and x.is_cpu and x.stride(3) == 1 for x in cache.tensors):
            return False
        self._point_at(cache)
        return True

    def begin(self, cache: Any, rows: int, states: Float[Tensor, "tokens M"], lengths: Int[Tensor, " B"]) -> None:
        """Give an empty cache room for the rows' keys and values, and for the sources'; `read_sources` fills in these.

        Args:
            states: What the decoder reads, of the real tokens of all sources, one source behind the other; kept
                until `read_sources` is called.
            lengths: Number of real tokens of each source.
        """
        kind, dtype = self.stack.spec, torch.int8 if cache.quantized else self.stack.dtype
        layers = [kind.blocks[index] for index in kind.weights_of]
        for block in layers:
            attention = block.self_attn.attention
            shape = (rows, attention.num_kv_heads, cache.room, kept_width(attention.head_size, dtype))
            cache.keys.append(torch.empty(shape, dtype=dtype))
            cache.values.append(torch.empty(shape, dtype=dtype))
        for attention in kind.source_attention:
            width = kept_width(attention.head_size, dtype)
            shape = (len(lengths), attention.num_kv_heads, int(lengths.max()), width)
            cache.cross.append((torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)))
        self._lengths = lengths
        self._point_at(cache)
        self.reach(0)  # keys of the sources stand at their positions
        self._states = states if cache.cross else states[:0]

    def unread(self) -> tuple[np.ndarray, Float[Tensor, "tokens M"]]:
        """Return the sources that `begin` was given, as for a pass over all their tokens, and their states."""
        assert self._states is not None and self._lengths is not None
        sources, states = self._sources.copy(), self._states
        sources["rows"], sources["length"] = 1, self._lengths.numpy()
        self._states = None
        return sources, states

    def _point_at(self, cache: Any) -> None:
        self._cache = cache.tensors
        cross_k, cross_v = [k for k, _ in cache.cross], [v for _, v in cache.cross]
        self._tables = [cache_tensors(tensors) for tensors in (cache.keys, cache.values, cross_k, cross_v)]
        rows = len(cache.keys[0])
        sources, _, keys, _ = cross_k[0].shape if cross_k else (rows, 0, 0, 0)
        entries = np.zeros(sources, SOURCE_DTYPE)
        for name, table in zip(("self_k", "self_v", "cross_k", "cross_v"), self._tables, strict=True):
            entries[name] = addressof(table)
        per_source = rows // sources
        entries["first_slot"] = np.arange(sources) * per_source
        entries["cross_row"], entries["rows"] = np.arange(sources), per_source
        entries["keys"] = keys if self._lengths is None else self._lengths.numpy()
        self._sources = entries

    @property
    def sources(self) -> np.ndarray:
        """The sources and their rows, as SOURCE_DTYPE."""
        return self._sources

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the cache."""
        return self._cache[0].dtype

    @property
    def source_keys(self) -> int:
        """Number of source tokens that are read."""
        return int(self._sources["keys"].sum())

    @property
    def longest_source(self) -> int:
        """Positions that a source takes before the target, at most; 0 where the target does not continue it."""
        return int(self._sources["keys"].max()) if self.stack.spec.continues_source else 0

    def reach(self, places: int) -> None:
        """Prepare the kernels for target positions below `places`."""
        self.stack.reach(places + self.longest_source)

    def keep(self, order: list[int]) -> None:
        """Tell which sources are left, in their new order."""
        self._lengths = None if self._lengths is None else self._lengths[order]

    def run(
        self,
        cache: Any,
        *,
        ids: Int[Tensor, "R T"] | None = None,
        x: Float[Tensor, "R T D"] | None = None,
        places: Int[Tensor, "R T"] | None = None,
        source_mask: Bool[Tensor, "B S"] | None = None,
        want: Want = "hidden",
    ) -> Float[Tensor, "..."]:
        """Read new tokens and write their keys and values to the cache, without advancing it.

        Args:
            cache: `takes` has returned True for it, or `begin` has filled it, and only its own methods have changed it
                since.
            ids: Ids of the vocabulary; or, in their place, embedded tokens `x`.
            places: Positions of the new tokens, counted from the target's start; by default, indices in the cache.
            source_mask: True where a source may be read.
            want: "hidden" returns the last hidden states, [R, T, D]; "logits" those of every row's last token, [R, V];
                "all logits" those of all, [R, T, V]. All are float32.
        """
        given = ids if x is None else x
        if given is None or not given.is_cpu or len(given) != len(cache.keys[0]):
            refuse("steps", ids=ids, x=x)
        rows, length = given.shape[:2]
        cache.reserve(length)
        tensors = cache.tensors
        if len(tensors) != len(self._cache) or not all(map(is_, tensors, self._cache)):
            self._point_at(cache)
        self.reach(cache.length + length if places is None else int(places.max()) + 1)
        sources, dtype = self._sources, cache.keys[0].dtype
        sources["past"], sources["length"], sources["ids_row"] = cache.length, length, length
        ids, places = (None if t is None else t.long().expand(rows, length).contiguous() for t in (ids, places))
        if source_mask is not None:
            source_mask = source_mask.bool().expand(len(sources), tensors[2 * len(cache.keys)].shape[2])
            sources["mask_key"] = source_mask.stride(1)
        for name, tensor, step in (
            ("ids", ids, rows // len(sources) * length),
            ("places", places, rows // len(sources) * length),
            ("mask", source_mask, 0 if source_mask is None else source_mask.stride(0)),
        ):
            sources[name] = 0 if tensor is None else addresses(tensor, len(sources), step)
        states = None if x is None else x.float().flatten(0, 1).contiguous()
        if want == "hidden":
            hidden = torch.empty(rows * length, self.stack.hidden_size, dtype=torch.float32)
            self.stack.run(sources, dtype, x=states, hidden=hidden)
            return hidden.view(rows, length, -1)
        every = want == "all logits"
        size = (rows * length if every else rows, self.stack.spec.vocab_size)
        logits = torch.empty(size, dtype=torch.float32)
        self.stack.run(sources, dtype, x=states, logits=logits, every_token=every)
        return logits.view(rows, length, -1) if every else logits


def read_sources(some: Sequence[Steps]) -> None:
    """Compute the keys and values of the sources that caches were begun with, in one pass.

    Args:
        some: Of one stack, with caches of one dtype.
    """
    unread = [steps.unread() for steps in some]
    unread = [(sources, states) for sources, states in unread if len(states)]
    if unread:
        sources = np.concatenate([each for each, _ in unread])
        states = [states for _, states in unread]
        states = converted(states[0], torch.float32) if len(states) == 1 else joined(states, torch.float32)
        states = states.contiguous()
        some[0].stack.read_sources(sources, some[0].dtype, states)


def addresses(tensor: Tensor, count: int, step: int) -> np.ndarray:
    """Return the addresses of a tensor's elements 0, step, 2 step ..."""
    return tensor.data_ptr() + np.arange(count) * (step * tensor.element_size())
