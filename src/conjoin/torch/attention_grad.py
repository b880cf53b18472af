"""Attention that trains on a CPU: plain matrix products over groups of rows small enough for the cache.

With dropout PyTorch has no fused attention on a CPU, and its plain one draws masks slowly, in float32 throughout; in
bfloat16 the fused one is slower than plain products.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from conjoin.torch.dropout import draws_fast, scale_of
from conjoin.torch.linear_grad import ordinary
from conjoin.torch.softening import Attending, Softening, softmax_over

_GROUP_SCORES = 2**20
"""Scores per group of rows: 4 MB, what a core's share of the last cache holds."""


def trains_fast(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> bool:
    """Whether `attend_in_training` takes these, and is the fastest."""
    given = (q, k, v) if bias is None else (q, k, v, bias)
    if torch.compiler.is_compiling() or q.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    return (
        all(_dtype(tensor) in (torch.float32, torch.bfloat16) for tensor in given)
        and any(tensor.requires_grad for tensor in given)
        and (draws_fast(q, dropout) if dropout else _dtype(q) == torch.bfloat16)
        and ordinary(*given)
        and k.numel() > 0
        and q.numel() > 0
    )


def _dtype(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def attend_in_training(
    q: Float[Tensor, "R H T E"],
    k: Float[Tensor, "R K S E"],
    v: Float[Tensor, "R K S E"],
    allowed: Bool[Tensor, "..."] | None,
    bias: Float[Tensor, "1 H T S"] | None,
    how: Attending,
) -> Float[Tensor, "R H T E"]:
    """dropout(softmax(q k^T * scale + bias)) v over what is allowed; a query that may read nothing gives zeros."""
    q, k, v = (x.to(_dtype(x)) for x in (q, k, v))
    with torch.autocast("cpu", enabled=False):
        return _Attention.apply(q, k, v, bias, allowed, how)  # pyright: ignore[reportReturnType]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, allowed: Tensor | None, how: Attending
    ) -> Tensor:
        rows, heads, queries, _ = q.shape
        weights = q.new_empty(rows, heads, queries, k.shape[2])
        out = _like_tokens(q)
        softening = Softening.of(allowed, bias, how)
        for at in _groups(weights.shape):
            scores = _grouped(q[at], k).float() @ _folded(k[at]).float().mT
            read = softening.forward(scores.view(weights[at].shape), at, weights[at])
            out[at] = (_grouped(read, k) @ _folded(v[at])).view(q[at].shape)
        ctx.save_for_backward(q, k, v, bias, allowed, weights)
        ctx.softening = softening
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            return _differentiable(ctx, dy)
        q, k, v, bias, _, weights = ctx.saved_tensors
        dq, dk, dv = (_like_tokens(x) for x in (q, k, v))
        dbias = torch.zeros(bias.shape) if ctx.needs_input_grad[3] else None
        for at in _groups(weights.shape):
            slope = _grouped(dy[at], k)
            ds = (slope @ _folded(v[at]).mT).view(weights[at].shape)
            read, ds = ctx.softening.backward(weights[at], ds)
            dv[at] = (_grouped(read, k).mT @ slope).view(v[at].shape)
            if dbias is not None:
                dbias += ds.float().sum_to_size(bias.shape) / ctx.softening.how.scale
            ds = _grouped(ds, k)
            dq[at] = (ds @ _folded(k[at])).view(q[at].shape)
            dk[at] = (ds.mT @ _grouped(q[at], k)).view(k[at].shape)
        return dq, dk, dv, None if dbias is None else dbias.to(bias.dtype), None, None


def _groups(shape: torch.Size) -> list[slice]:
    """Rows that are computed together."""
    size = max(1, _GROUP_SCORES // shape[1:].numel())
    return [slice(at, at + size) for at in range(0, shape[0], size)]


def _like_tokens(x: Float[Tensor, "R H T E"]) -> Float[Tensor, "R H T E"]:
    """Room for as much, heads of a token side by side, as the linear layers before and after want them."""
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)


def _folded(x: Float[Tensor, "n K S E"]) -> Float[Tensor, "nK S E"]:
    return x.flatten(0, 1)


def _grouped(x: Float[Tensor, "n H T any"], k: Float[Tensor, "R K S E"]) -> Float[Tensor, "nK GT any"]:
    """Query heads that share a key head, one under the other."""
    return x.reshape(x.shape[0] * k.shape[1], -1, x.shape[-1])


def _differentiable(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again: those of the same function made of PyTorch's own operators."""
    q, k, v, bias, allowed, weights = ctx.saved_tensors
    y = attend_plainly(q, k, v, allowed, bias, ctx.softening.how, ~weights.signbit())
    wanted = [x for x, needed in zip((q, k, v, bias), ctx.needs_input_grad, strict=False) if needed]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return (*(next(found) if needed else None for needed in ctx.needs_input_grad[:4]), None, None)


def attend_plainly(
    q: Float[Tensor, "R H T E"],
    k: Float[Tensor, "R K S E"],
    v: Float[Tensor, "R K S E"],
    allowed: Bool[Tensor, "..."] | None,
    bias: Float[Tensor, "1 H T S"] | None,
    how: Attending,
    kept: Bool[Tensor, "R H T S"],
) -> Float[Tensor, "R H T E"]:
    """`attend_in_training` in plain steps, where it is known which weights are kept."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q.float() @ k.float().mT * how.scale
    weights = softmax_over(scores if bias is None else scores + bias, allowed)
    return ((weights * kept * scale_of(how.dropout)).to(v.dtype) @ v).to(q.dtype)
