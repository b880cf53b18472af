"""The training kernels as functions of float32 or bfloat16 tensors."""

import ctypes
from ctypes import c_float, c_int, c_int64, c_uint64, c_void_p
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from conjoin import spec
from conjoin.torch.cpu.native.checks import on_cpu, refuse
from conjoin.torch.cpu.native.kernels import SUFFIX, compiled_function

STEPS = 2**16
"""The kernels take dropout's keep probability in 65536ths."""


@dataclass(frozen=True, slots=True)
class Reads:
    """The keys that the queries of each of n sequences read.

    Args:
        spans: int64. Per sequence, the index of its first query in its row, the number of its queries, and the same of
            its keys. Spans do not overlap and cover the row.
        allowed: Mask with one row per sequence; None if one row holds all sequences, or if everything may be read.
        causal: The last query of a sequence is at its last key, and no query reads later keys.
        window: How far queries read to both sides; None reads all.
    """

    spans: Int[Tensor, "n 4"]
    allowed: Bool[Tensor, "..."] | None = None
    causal: bool = False
    window: spec.Sides | None = None

    @classmethod
    def of_rows(cls, q: Float[Tensor, "R H T E"], k: Float[Tensor, "R K S E"], allowed: Tensor | None) -> "Reads":
        """Return the reads of a batch in which each row is one sequence."""
        return cls(torch.tensor([[0, q.shape[2], 0, k.shape[2]]], device=q.device).repeat(len(q), 1), allowed)


@dataclass(frozen=True, slots=True)
class Call:
    """Attention in training: softmax(q k^T * scale + bias), dropout, and the product with v, or their gradients.

    Args:
        q, k, v: Heads with any strides, in n rows, or in one row that holds all sequences.
        bias: float32, for the longest sequence; shorter ones use its corner.
        kept: Keep probability of weights, in 65536ths. The others are dropped, and kept ones scaled when they are read.
        seed: Seed of Philox; whether a weight is dropped depends on the seed and its place alone.
    """

    q: Float[Tensor, "rows H T E"]
    k: Float[Tensor, "rows K S E"]
    v: Float[Tensor, "rows K S F"]
    bias: Float[Tensor, "1 #H #L M"] | None
    reads: Reads
    scale: float
    kept: int = STEPS
    seed: int = 0

    def forward(self) -> tuple[Float[Tensor, "rows H T F"], Float[Tensor, " weights"]]:
        """Return the output and the weights, [H, queries, keys] per sequence, negative where they are dropped."""
        self._check()
        spans = self.reads.spans
        weights = self.q.new_empty(int((spans[:, 1] * spans[:, 3]).sum()) * self.q.shape[1])
        out = like_tokens(self.q, self.v.shape[-1])
        tensors, numbers = self._arguments()
        types = (c_void_p, c_void_p, c_float, c_uint64, c_int)
        compiled_function(f"conjoin_train_{SUFFIX[self.q.dtype]}", *types)(
            _pointers(*tensors, out, weights),
            _numbers(*numbers, *_strides(out)),
            self.scale,
            self.seed,
            torch.get_num_threads(),
        )
        return out, weights

    def backward(
        self, dout: Float[Tensor, "rows H T F"], weights: Float[Tensor, " weights"], *, of_bias: bool
    ) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, " weights"] | None]:
        """Return the gradients of q, k, v and, if `of_bias`, of the biased scores in the layout of weights."""
        self._check()
        spans, expected = self.reads.spans, (*self.q.shape[:3], self.v.shape[3])
        scores = int((spans[:, 1] * spans[:, 3]).sum()) * self.q.shape[1]
        alike = dout.dtype == weights.dtype == self.q.dtype and weights.is_contiguous() and on_cpu(dout, weights)
        if not alike or dout.shape != expected or weights.numel() != scores:
            refuse("train_backward", q=self.q, v=self.v, dout=dout, weights=weights)
        dout = whole_heads(dout)
        dq, dk, dv = (like_tokens(x, x.shape[-1]) for x in (self.q, self.k, self.v))
        dscores = torch.zeros_like(weights, dtype=torch.float32) if of_bias else None
        tensors, numbers = self._arguments()
        compiled_function(f"conjoin_train_backward_{SUFFIX[self.q.dtype]}", c_void_p, c_void_p, c_float, c_int)(
            _pointers(*tensors, dout, weights, dq, dk, dv, dscores),
            _numbers(*numbers, *(stride for x in (dout, dq, dk, dv) for stride in _strides(x))),
            self.scale,
            torch.get_num_threads(),
        )
        return dq, dk, dv, dscores

    def _check(self) -> None:
        """Check that q, k and v fit together, spans fit their tokens, and mask and bias fit the longest spans."""
        q, k, v, reads, bias = self.q, self.k, self.v, self.reads, self.bias
        spans, rows, limits = reads.spans, q.shape[0], (q.shape[2], k.shape[2])
        fit = (
            q.dtype == k.dtype == v.dtype
            and on_cpu(q, k, v, spans, reads.allowed, bias)
            and k.shape[:3] == v.shape[:3]
            and len(k) == rows
            and q.shape[3] == k.shape[3]
            and not q.shape[1] % max(k.shape[1], 1)
            and spans.dtype == torch.int64
            and spans.is_contiguous()
            and spans.shape == (len(spans), 4)
            and rows in (1, len(spans))
            and (bias is None or bias.dtype == torch.float32)
            and (reads.allowed is None or reads.allowed.dtype == torch.bool)
        )
        if fit and len(spans):
            ends = (spans[:, 0::2] + spans[:, 1::2]).amax(0).tolist()
            longest = spans[:, 1::2].amax(0).tolist()
            fit = int(spans.amin()) >= 0 and all(end <= limit for end, limit in zip(ends, limits, strict=True))
            fit = fit and all(_covers(x, len(spans), q.shape[1], *longest) for x in (reads.allowed, bias))
        if not fit:
            refuse("train", q=q, k=k, v=v, bias=bias, allowed=reads.allowed, spans=spans)

    def _arguments(self) -> tuple[list[Tensor | None], list[int]]:
        """Return tensors and numbers in the order in which `make_training` reads them."""
        mask, mask_strides = _with_strides(self.reads.allowed, self.k.shape[2])
        bias, bias_strides = _with_strides(self.bias, self.k.shape[2])
        whole = [whole_heads(x) for x in (self.q, self.k, self.v)]
        sizes = [len(self.reads.spans), self.q.shape[1], self.k.shape[1], self.q.shape[3], self.v.shape[3]]
        numbers = [*sizes, int(self.reads.causal), *(self.reads.window or (0, 0)), self.kept]
        numbers += [*mask_strides, *bias_strides[1:], *(stride for x in whole for stride in _strides(x))]
        return [*whole, self.reads.spans, mask, bias], numbers


def like_tokens(x: Float[Tensor, "R H T any"], size: int) -> Float[Tensor, "R H T size"]:
    """Return uninitialised heads in which those of one token are adjacent, the layout of the linear layers around."""
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1], size).transpose(1, 2)


def _covers(x: Tensor | None, sequences: int, heads: int, queries: int, keys: int) -> bool:
    """True if a mask or bias has an entry for every score; axes of length 1 are broadcast."""
    if x is None:
        return True
    rows, mask_heads, mask_queries, mask_keys = (1,) * (4 - x.dim()) + tuple(x.shape)
    return (
        rows in (1, sequences)
        and mask_heads in (1, heads)
        and (mask_queries == 1 or mask_queries >= queries)
        and (mask_keys == 1 or mask_keys >= keys)
    )


def whole_heads(x: Float[Tensor, "*any E"]) -> Float[Tensor, "*any E"]:
    """Return x with the numbers of each head one behind the other."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _strides(x: Float[Tensor, "R H T E"]) -> tuple[int, int, int]:
    """Return the strides of rows, heads and tokens; that of a single row is 0, since spans locate its sequences."""
    row, head, token, _ = x.stride()
    return (0 if len(x) == 1 else row), head, token


def _with_strides(x: Tensor | None, keys: int) -> tuple[Tensor | None, tuple[int, ...]]:
    """Return x with a contiguous last axis, and the strides of the other three; 0 broadcasts an axis of length 1."""
    if x is None:
        return None, (0, 0, 0)
    x = x[(None,) * (4 - x.dim())]
    if x.shape[-1] == 1 or x.stride(-1) != 1:
        x = x.expand(*x.shape[:-1], keys if x.shape[-1] == 1 else -1).contiguous()
    return x, tuple(0 if size == 1 else stride for size, stride in zip(x.shape[:3], x.stride()[:3], strict=True))


def _pointers(*tensors: Tensor | None) -> ctypes.Array[c_void_p]:
    """Return the addresses of tensors, which the caller must keep alive until the kernel returns."""
    return (c_void_p * len(tensors))(*(None if x is None else x.data_ptr() for x in tensors))


def _numbers(*numbers: int) -> ctypes.Array[c_int64]:
    return (c_int64 * len(numbers))(*numbers)


def weight_gradient(
    dy: Float[Tensor, "rows m"], x: Float[Tensor, "rows n"], into: Float[Tensor, "m n"] | None = None
) -> Float[Tensor, "m n"]:
    """Return dy^T x of contiguous tensors, in float32; if `into` is given, add to it and return it."""
    fit = x.dim() == dy.dim() == 2 and len(x) == len(dy) and x.dtype == dy.dtype and on_cpu(dy, x, into)
    if into is not None:
        shape = (dy.shape[-1], x.shape[-1])
        fit = fit and into.shape == shape and into.dtype == torch.float32 and into.is_contiguous()
    if not (fit and x.is_contiguous() and dy.is_contiguous()):
        refuse("weight_gradient", dy=dy, x=x, into=into)
    dw = dy.new_empty(dy.shape[1], x.shape[1], dtype=torch.float32) if into is None else into
    types = (*(c_void_p,) * 3, *(c_int64,) * 3, c_int, c_int)
    compiled_function(f"conjoin_weight_gradient_{SUFFIX[dy.dtype]}", *types)(
        dy.data_ptr(), x.data_ptr(), dw.data_ptr(), *dy.shape, x.shape[1], into is not None, torch.get_num_threads()
    )
    return dw


def drop(x: Float[Tensor, "*any"], *, kept: int, seed: int) -> Float[Tensor, "*any"]:
    """Return dropout(x): a seed always drops the same places, and kept values are divided by the keep probability.

    Args:
        kept: Keep probability, in 65536ths.
    """
    if not x.is_cpu:
        refuse("drop", x=x)
    x = x.contiguous()
    y = torch.empty_like(x)
    types = (c_void_p, c_void_p, c_int64, c_uint64, c_int64, c_int)
    compiled_function(f"conjoin_drop_{SUFFIX[x.dtype]}", *types)(
        x.data_ptr(), y.data_ptr(), x.numel(), seed, kept, torch.get_num_threads()
    )
    return y
