"""Attention for training on a CPU: a kernel or, without it, products over groups of rows that fit the cache.

PyTorch has no fused attention with dropout on a CPU, and its other implementation draws masks slowly and computes in
float32 throughout; in bfloat16 the fused one is slower than plain products.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from conjoin.torch.cpu import native
from conjoin.torch.cpu.dropout import draw, is_exact, keep, new_seed, scale_of, share_kept
from conjoin.torch.cpu.masks import readable
from conjoin.torch.cpu.mode import mode_of

_GROUP_SCORES = 2**20
"""Scores per group of rows: 4 MB, a core's share of the last-level cache."""


@dataclass(frozen=True, slots=True)
class AttentionOptions:
    """Settings of attention that are the same for all rows.

    Args:
        scale: Factor of the scores.
        dropout: Share of the weights that is set to 0; the others are scaled up when they are read.
    """

    scale: float
    dropout: float


def trains_fast(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> bool:
    """True if `attend_in_training` supports these tensors and is the fastest implementation."""
    if mode_of(q, k, v, bias) != "training" or (bias is not None and len(bias) > 1):
        return False
    dtypes = {_dtype(tensor) for tensor in (q, k, v)}
    others = set[torch.dtype]() if bias is None else {_dtype(bias)}
    if len(dtypes) > 1 or not dtypes | others <= {torch.float32, torch.bfloat16}:
        return False
    return is_exact(dropout) if dropout else native.has("float32") or _dtype(q) == torch.bfloat16


def _dtype(x: Tensor) -> torch.dtype:
    cast = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64  # autocast leaves float64 alone
    return torch.get_autocast_dtype("cpu") if cast else x.dtype


def attend_in_training(
    q: Float[Tensor, "R H T E"],
    k: Float[Tensor, "R K S E"],
    v: Float[Tensor, "R K S E"],
    reads: native.Reads,
    bias: Float[Tensor, "1 H L M"] | None,
    options: AttentionOptions,
) -> Float[Tensor, "R H T E"]:
    """Return dropout(softmax(q k^T * scale + bias)) v; a query that may read no key returns zeros.

    Args:
        bias: Bias of the longest sequence; shorter ones use its corner.
        reads: Keys that queries read. Rows with several sequences, causal reads and windows need the kernel.
    """
    q, k, v = (x.to(_dtype(x)) for x in (q, k, v))
    with torch.autocast("cpu", enabled=False):
        if native.has("float32"):
            return cast(Any, _ByKernel).apply(q, k, v, bias, reads, options)
        return cast(Any, _InGroups).apply(q, k, v, bias, reads.allowed, options)


class _ByKernel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, reads: native.Reads, options: AttentionOptions
    ) -> Tensor:
        seed, wide = new_seed() if options.dropout else 0, None if bias is None else bias.float()
        out, weights = native.Call(q, k, v, wide, reads, options.scale, share_kept(options.dropout), seed).forward()
        ctx.save_for_backward(q, k, v, bias, weights)
        ctx.reads, ctx.options = reads, options
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, bias, weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable_gradients(ctx, (q, k, v, bias), _by_operators(ctx), dy)
        call = native.Call(q, k, v, None, ctx.reads, ctx.options.scale, share_kept(ctx.options.dropout))
        *gradients, dscores = call.backward(dy, weights, of_bias=ctx.needs_input_grad[3])
        return *gradients, None if dscores is None else _bias_gradient(bias, dscores, ctx.reads, q), None, None


def _by_operators(ctx: Any) -> Tensor:
    """Return the output of the kernel, computed with PyTorch's operators."""
    q, k, v, bias, weights = ctx.saved_tensors
    y = q.new_zeros(*q.shape[:3], v.shape[-1])
    for (row, queries, keys), part in _sequences(ctx.reads, weights, q):
        allowed = _allowed_in(ctx.reads, row, part)
        corner = None if bias is None else bias[..., : part.shape[-2], : part.shape[-1]]
        own, source = (slice(row, row + 1), slice(None), queries), (slice(row, row + 1), slice(None), keys)
        y[own] = attend_plainly(q[own], k[source], v[source], allowed, corner, ctx.options, ~part.signbit())
    return y


def _sequences(
    reads: native.Reads, weights: Float[Tensor, " weights"], q: Float[Tensor, "rows H T E"]
) -> Iterator[tuple[tuple[int, slice, slice], Float[Tensor, "1 H queries keys"]]]:
    """Yield row, queries and keys of each sequence, and its part of a tensor in the layout of the kernel's weights."""
    begin, spans = 0, cast("list[tuple[int, int, int, int]]", reads.spans.tolist())
    for at, (query, queries, key, keys) in enumerate(spans):
        shape = (1, q.shape[1], queries, keys)
        end = begin + math.prod(shape)
        row = at if len(q) > 1 else 0
        yield (row, slice(query, query + queries), slice(key, key + keys)), weights[begin:end].view(shape)
        begin = end


def _allowed_in(
    reads: native.Reads, row: int, weights: Float[Tensor, "1 H queries keys"]
) -> Bool[Tensor, "..."] | None:
    """Return the mask of a sequence; True where a key may be read."""
    if reads.allowed is not None:
        return reads.allowed[row : row + 1] if len(reads.allowed) > 1 else reads.allowed
    return readable(*weights.shape[-2:], causal=reads.causal, window=reads.window, device=weights.device)


def _bias_gradient(bias: Tensor, dscores: Float[Tensor, " weights"], reads: native.Reads, q: Tensor) -> Tensor:
    """Return the gradient of the bias: that of the scores, summed over all sequences."""
    total = torch.zeros_like(bias, dtype=torch.float32)
    for _, part in _sequences(reads, dscores, q):
        corner = total[..., : part.shape[-2], : part.shape[-1]]
        corner += part.sum_to_size(corner.shape)
    return total.to(bias.dtype)


class _InGroups(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        allowed: Tensor | None,
        options: AttentionOptions,
    ) -> Tensor:
        rows, heads, queries, _ = q.shape
        weights = q.new_empty(rows, heads, queries, k.shape[2])
        out = native.like_tokens(q, v.shape[-1])
        for at in _groups(weights.shape):
            scores = (
                (_grouped(q[at], k).float() @ _folded(k[at]).float().mT).view(weights[at].shape).mul_(options.scale)
            )
            visible = allowed if allowed is None or len(allowed) == 1 else allowed[at]
            plain = softmax_over(scores if bias is None else scores + bias.float(), visible).to(weights.dtype)
            weights[at] = read = plain
            if options.dropout:
                mask = draw(plain.shape, options.dropout)
                weights[at] = torch.where(mask != 0, plain, -plain)
                read = keep(plain, mask).mul_(scale_of(options.dropout))
            out[at] = (_grouped(read, k) @ _folded(v[at])).view(q[at].shape)
        ctx.save_for_backward(q, k, v, bias, allowed, weights)
        ctx.options = options
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, bias, allowed, weights = ctx.saved_tensors
        if torch.is_grad_enabled():
            y = attend_plainly(q, k, v, allowed, bias, ctx.options, ~weights.signbit())
            return _differentiable_gradients(ctx, (q, k, v, bias), y, dy)
        dq, dk, dv = (native.like_tokens(x, x.shape[-1]) for x in (q, k, v))
        dbias = torch.zeros(bias.shape) if ctx.needs_input_grad[3] else None
        for at in _groups(weights.shape):
            dy_rows = _grouped(dy[at], k)
            read = weights[at].clamp_min(0) * scale_of(ctx.options.dropout)
            ds = (dy_rows @ _folded(v[at]).mT).view(weights[at].shape).mul_(read)
            ds.sub_(weights[at].abs() * ds.sum(-1, keepdim=True, dtype=torch.float32))
            dv[at] = (_grouped(read, k).mT @ dy_rows).view(v[at].shape)
            if dbias is not None:
                dbias += ds.float().sum_to_size(bias.shape)
            ds = _grouped(ds.mul_(ctx.options.scale), k)
            dq[at] = (ds @ _folded(k[at])).view(q[at].shape)
            dk[at] = (ds.mT @ _grouped(q[at], k)).view(k[at].shape)
        return dq, dk, dv, None if dbias is None else dbias.to(bias.dtype), None, None


def _differentiable_gradients(
    ctx: Any, inputs: tuple[Tensor | None, ...], y: Tensor, dy: Tensor
) -> tuple[Tensor | None, ...]:
    """Return gradients that can be differentiated: those of y, the output as computed by PyTorch's operators."""
    needed = ctx.needs_input_grad[: len(inputs)]
    wanted = [x for x, needs in zip(inputs, needed, strict=True) if x is not None and needs]
    gradients = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return (*(next(gradients) if needs else None for needs in needed), None, None)


def _groups(shape: torch.Size) -> list[slice]:
    """Return slices of the rows that are computed together."""
    size = max(1, _GROUP_SCORES // shape[1:].numel())
    return [slice(at, at + size) for at in range(0, shape[0], size)]


def _folded(x: Float[Tensor, "n K S E"]) -> Float[Tensor, "nK S E"]:
    return x.flatten(0, 1)


def _grouped(x: Float[Tensor, "n H T any"], k: Float[Tensor, "R K S E"]) -> Float[Tensor, "nK GT any"]:
    """Concatenate the queries of all heads that share a key head."""
    return x.reshape(x.shape[0] * k.shape[1], -1, x.shape[-1])


def attend_plainly(
    q: Float[Tensor, "R H T E"],
    k: Float[Tensor, "R K S E"],
    v: Float[Tensor, "R K S E"],
    allowed: Bool[Tensor, "..."] | None,
    bias: Float[Tensor, "1 H T S"] | None,
    options: AttentionOptions,
    kept: Bool[Tensor, "R H T S"],
) -> Float[Tensor, "R H T E"]:
    """Return `attend_in_training` with PyTorch's operators, dropping the weights that are not `kept`."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q.float() @ k.float().mT * options.scale
    weights = softmax_over(scores if bias is None else scores + bias, allowed)
    return ((weights * kept * scale_of(options.dropout)).to(v.dtype) @ v).to(q.dtype)


def softmax_over(scores: Float[Tensor, "*lead T S"], allowed: Bool[Tensor, "..."] | None) -> Float[Tensor, "*lead T S"]:
    """Return the softmax over the allowed keys; zeros if no key is allowed."""
    if allowed is None:
        return scores.softmax(-1)
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    alive = allowed.any(-1, keepdim=True)
    return weights if bool(alive.all()) else weights.masked_fill(~alive, 0.0)
