"""A stack as our kernels see it, and passes over it: embedding, blocks, final norm and head in one native call.

The kernels compute what `Stack.run` and `Head.forward` compute. A stack with bricks that they lack has no
`NativeStack`; `reason_against` says why.
"""

import ctypes
from ctypes import addressof, byref, c_int64
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin import spec
from conjoin.spec.native import reason_against_blocks
from conjoin.torch.cpu.clock import NativeSeconds, running
from conjoin.torch.cpu.native import layouts
from conjoin.torch.cpu.native.checks import refuse
from conjoin.torch.cpu.native.filling import Filling, Unsupported, require
from conjoin.torch.cpu.native.kernels import has
from conjoin.torch.cpu.native.layouts import CACHES, KINDS, Sources
from conjoin.torch.cpu.native.library import library

MOST_PLACES = 1 << 20
"""Positions up to which angles and relative biases are tabulated."""
_WORTH_THREADS_US = 150
"""Microseconds of one thread's work in a pass from which on several are faster: they meet a dozen times per block."""
_BYTES_PER_US, _PRODUCTS_PER_US = 20_000, 25_000
"""What one thread of a usual processor reads and multiplies."""


@dataclass(frozen=True, slots=True)
class _Tables:
    """Angles and biases for positions below `count`."""

    count: int
    angles: list[tuple[Tensor, Tensor]]
    biases: list[Tensor]


class NativeStack:
    """The weights of one stack as the kernels read them.

    Holds pointers to the weights, and float32 copies of small parameters: after a change of weights a new object is
    needed. The object keeps the memory of all its pointers alive.

    Attributes:
        embeds: True if the kernels know the embedding; else callers embed the ids.
        scores: True if they know the head, too.
        rotary: The kinds of rotary positions of its blocks.
    """

    def __init__(self, stack: Any) -> None:
        self.spec: spec.StackSpec = stack.spec
        kind, fields, filling = self.spec, layouts.Stack(), Filling(stack.spec.hidden_size)
        require(reason_against_blocks(kind))
        self._fields, self._filling, self.rotary = fields, filling, filling.rotary
        self._biases = [stack.blocks[index].relative_bias or stack.relative_bias for index in kind.weights_of]
        self._rotary_angles = stack.rotary_angles
        fields.count, fields.hidden, fields.causal = len(kind.weights_of), kind.hidden_size, kind.blocks[0].causal
        self._layers = (layouts.Layer * fields.count)()
        fields.layers = self._layers
        for layer, index, block in zip(self._layers, kind.weights_of, kind.blocks, strict=True):
            filling.layer(layer, stack.blocks[index], block.self_attn.source)
        fields.continues = kind.continues_source
        self._states = torch.tensor(kind.states, dtype=torch.long)
        fields.states, fields.state_count = self._states.data_ptr(), len(kind.states)
        filling.norm(fields.final_norm, stack.final_norm, kind.hidden_size)
        for bias in self._biases:
            if isinstance(getattr(bias, "kind", None), spec.RelativeBias):
                filling.watch(bias, "weight")
                filling.copied.append(bias.weight)
        self.embeds = _fits(filling.embedding, fields.embedding, stack.embed)
        head = getattr(stack, "head", None)
        self.scores = head is not None and _fits(filling.head, fields.head, head, stack.embed)
        blocks = [stack.blocks[index] for index in kind.weights_of]
        self._weights = sum(each.numel() for block in blocks for each in block.parameters())
        self._weight_bytes = sum(each.numel() * each.element_size() for block in blocks for each in block.parameters())
        self._pointers = [each.data_ptr() for each in filling.parameters]
        self._copied_versions = self._versions()
        self._module_slots = [(each._modules, name) for each in stack.modules() for name in each._modules]
        self._modules = [modules[name] for modules, name in self._module_slots]
        self._hooks = [hooks for each in stack.modules() for hooks in (each._forward_hooks, each._forward_pre_hooks)]
        self._tables = _Tables(0, [], [])

    @classmethod
    def of(cls, stack: Any) -> "NativeStack | None":
        """Return the kernels' view of a stack; None if it has bricks or dtypes that they do not know."""
        if library() is None or not has("float32"):
            return None
        try:
            return cls(stack)
        except Unsupported:
            return None

    def _versions(self) -> list[int]:
        return [0 if each.is_inference() else each._version for each in self._filling.copied]

    def are_current(self) -> bool:
        """True if the stack is as it was: its modules, its parameters and their memory, the values of copied ones.

        It is not if a module has a hook, which would not be called.
        """
        now = [parameters.get(name) for parameters, name in self._filling.slots]
        modules = [held.get(name) for held, name in self._module_slots]
        return (
            all(map(is_, now, self._filling.parameters))
            and all(map(is_, modules, self._modules))
            and list(map(Tensor.data_ptr, self._filling.parameters)) == self._pointers
            and self._versions() == self._copied_versions
            and not any(self._hooks)
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of keys and values."""
        return torch.bfloat16 if self._layers[0].self_attn.k.kind == KINDS[torch.bfloat16] else torch.float32

    @property
    def hidden_size(self) -> int:
        """Width of the states."""
        return self._fields.hidden

    @property
    def source_size(self) -> int:
        """Width of what the stack reads of a source."""
        if self.spec.continues_source:
            return self.hidden_size * (1 + max(layer.state for layer in self._layers))
        first = self._layers[0]
        return (first.self_attn if first.source else first.cross_attn).k.n

    @property
    def address(self) -> int:
        """Address of the stack's description, for native loops."""
        return addressof(self._fields)

    def threads(self, tokens: int, rows: int) -> int:
        """Return the number of threads of a pass over so many tokens that scores so many rows.

        Results do not depend on it.
        """
        head = self._fields.head.vocab.m * self.hidden_size if rows else 0
        products = tokens * self._weights + rows * head
        time_us = max((self._weight_bytes + 4 * head) / _BYTES_PER_US, products / _PRODUCTS_PER_US)
        return 1 if time_us < _WORTH_THREADS_US else torch.get_num_threads()

    def reach(self, places: int) -> None:
        """Tabulate rotary angles and relative biases for positions below `places`."""
        if places <= self._tables.count or not (self.rotary or any(self._biases)):
            return
        count = max(64, 1 << (places - 1).bit_length())
        positions = torch.arange(count)[None]
        pairs = [self._rotary_angles(kind, positions, torch.float32) for kind in self.rotary]
        angles = [tuple(x[0, 0].contiguous() for x in pair) for pair in pairs]
        array = (layouts.Angles * max(1, len(angles)))()
        for fields, (cos, sin) in zip(array, angles, strict=False):
            fields.cos, fields.sin, (fields.count, fields.width) = cos.data_ptr(), sin.data_ptr(), cos.shape
        biases = {bias: _bias_table(bias, count) for bias in self._biases if bias is not None}
        for layer, bias in zip(self._layers, self._biases, strict=True):
            if bias is not None:
                values = biases[bias]
                layer.bias.values, layer.bias.width = values.data_ptr(), values.shape[1]
                layer.bias.reach = 0 if _is_by_key(bias) else count
        self._fields.angles = array
        self._tables = _Tables(count, angles, list(biases.values()))  # pyright: ignore[reportArgumentType]

    def run(
        self,
        sources: Sources,
        dtype: torch.dtype,
        *,
        x: Float[Tensor, "tokens D"] | None = None,
        hidden: Float[Tensor, "tokens D"] | None = None,
        logits: Float[Tensor, "rows V"] | None = None,
        every_token: bool = False,
    ) -> None:
        """Read the new tokens of sources: write their keys and values to the cache, and what is asked for to tensors.

        Args:
            sources: Entries of SOURCE_DTYPE, whose pointers and sizes the caller vouches for.
            dtype: Of the cache's tensors.
            x: Embedded tokens in float32, where the sources have no ids.
            hidden: Takes the output: the last hidden states, or several side by side.
            logits: Takes the logits of every hypothesis' last token, or of every token.
        """
        tokens = int((sources["rows"] * sources["length"]).sum())
        rows = tokens if every_token else int(sources["rows"].sum())
        if not (
            _takes(x, tokens, self.hidden_size)
            and _takes(hidden, tokens, self.spec.output_size)
            and _takes(logits, rows, self._fields.head.vocab.m)
        ):
            refuse("pass", x=x, hidden=hidden, logits=logits)
        threads = self.threads(tokens, 0 if logits is None else rows)
        self._call(f"conjoin_pass_{CACHES[dtype]}", threads, sources, x, hidden, logits, every_token)

    def read_sources(self, sources: Sources, dtype: torch.dtype, states: Float[Tensor, "tokens M"]) -> None:
        """Write every layer's keys and values of encoded sources to the cache.

        Args:
            sources: As for `run`, `length` tokens each in one row, to be written at positions `past` and behind.
            states: The encoder's output, as this stack reads it, in float32.
        """
        tokens, width = int((sources["rows"] * sources["length"]).sum()), self.source_size
        if not _takes(states, tokens, width):
            refuse("read_sources", states=states)
        name, threads = f"conjoin_read_sources_{CACHES[dtype]}", self.threads(tokens, 0)
        self._call(name, threads, sources, states, None, None, False, width)

    def _call(
        self,
        name: str,
        threads: int,
        sources: Sources,
        x: Tensor | None,
        hidden: Tensor | None,
        logits: Tensor | None,
        every_token: bool,
        *more: int,
    ) -> None:
        call = layouts.Call(
            stack=ctypes.pointer(self._fields),
            sources=sources.ctypes.data,
            x=_address(x),
            hidden=_address(hidden),
            logits=_address(logits),
            count=len(sources),
            every_token=every_token,
            threads=threads,
        )
        compiled, clock = library(), running()
        assert compiled is not None
        seconds = None if clock is None else NativeSeconds()
        call.seconds = None if seconds is None else addressof(seconds)
        compiled[name](byref(call), *map(c_int64, more))
        if clock is not None and seconds is not None:
            clock.divide([*seconds])


def _fits(fill: Any, *arguments: Any) -> bool:
    """True if the kernels know a brick; its struct is filled then."""
    try:
        fill(*arguments)
    except Unsupported:
        return False
    return True


def _is_by_key(bias: Any) -> bool:
    """True if a bias depends on positions of keys, not on distances alone."""
    return isinstance(bias.kind, spec.Alibi) and bias.kind.rounded


def _bias_table(bias: Any, count: int) -> Tensor:
    """Return a bias per head by the position of a key below `count`, or by distances up to it."""
    if _is_by_key(bias):
        return bias.heights(torch.arange(count)[None])[0].contiguous()
    return bias.by_distance(count).float().contiguous()


def reason_against(stack: Any) -> str | None:
    """Return why the kernels do not compute a stack; None if they do."""
    if library() is None or not has("float32"):
        return "there are no compiled kernels"
    try:
        NativeStack(stack)
    except Unsupported as reason:
        return str(reason)
    return None


def _takes(x: Tensor | None, rows: int, width: int) -> bool:
    """True if a tensor is None, or a float32 matrix of this shape in CPU memory."""
    return x is None or (x.dtype == torch.float32 and x.shape == (rows, width) and x.is_contiguous() and x.is_cpu)


def _address(x: Int[Tensor, "..."] | Float[Tensor, "..."] | None) -> int | None:
    return None if x is None else x.data_ptr()
