"""The loss of words without their scores: vocabulary matrix and cross-entropy in one, a chunk of rows at a time.

The gradient is made together with the loss, so that no more than a chunk's scores are ever there: memory does not grow
with the vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.torch.cpu import native
from conjoin.torch.cpu.linear_grad import Products, fastest_products
from conjoin.torch.cpu.mode import is_eager
from conjoin.torch.cpu.row_counts import rounded_up

CHUNK_SCORES = {"cpu": 2**23, "cuda": 2**27}
"""Scores that exist at once: enough rows for matrix products at full speed (274 of BERT's words, 4397 on a GPU)."""


@dataclass(frozen=True, slots=True)
class Words:
    """What turns a vector into scores: cap * tanh((x W^T + bias) / cap), or without a cap x W^T + bias."""

    weight: Float[Tensor, "V C"]
    bias: Float[Tensor, " V"] | None = None
    softcap: float | None = None

    @property
    def can_be_chunked(self) -> bool:
        """True if the loss can be computed in chunks: not in a compiled model, nor with a sharded vocabulary matrix."""
        return is_eager(self.weight) if self.bias is None else is_eager(self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Loss of some rows, and where it is wanted its slope by their scores before bias and cap."""

    loss: Float[Tensor, ""]
    slope: Float[Tensor, "n V"] | None


def word_loss_sum(
    x: Float[Tensor, "P C"], words: Words, labels: Int[Tensor, " N"], label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Summed cross-entropy of labels that all count, in float32; its gradient cannot be differentiated again.

    Args:
        x: Vectors of the labels; those behind the last label are filler, and nothing comes of them.
    """
    return _WordLoss.apply(  # pyright: ignore[reportReturnType]
        x, words.weight, words.bias, labels, words.softcap, label_smoothing, torch.is_grad_enabled()
    )


class _WordLoss(torch.autograd.Function):
    """Keeps gradients, not scores. They are of the sum, and so of the size of the weights' own in any dtype."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        softcap: float | None,
        smoothing: float,
        with_gradient: bool,
    ) -> Tensor:
        wants = [with_gradient and needed for needed in ctx.needs_input_grad[:3]]
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):
            words = Words(weight.to(dtype), None if bias is None else bias.to(dtype), softcap)
            sums = _Sums(x, weight, bias, wants)
            total = x.new_zeros((), dtype=torch.float32)
            for at in _chunks(len(x), len(weight), device):
                rows = x[at].to(dtype)
                chunk = _chunk(rows, words, labels[at], smoothing, with_slope=any(wants))
                total += chunk.loss
                if chunk.slope is not None:
                    sums.add(at, rows, words, chunk.slope)
        ctx.save_for_backward(*sums.found())
        return total

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The gradient of a loss without logits is to be differentiated again (create_graph=True), "
                "but it is computed with the loss and has no graph. Expected: model(..., output_logits=True)."
            )
        found = (None if gradient is None else gradient * slope for gradient in ctx.saved_tensors)
        return (*found, None, None, None, None)


def _chunks(rows: int, vocab_size: int, device: str) -> list[slice]:
    """Parts of the rows, of few sizes, the last one smaller than the others."""
    most = max(1, CHUNK_SCORES.get(device, CHUNK_SCORES["cuda"]) // vocab_size)
    size = -(-rows // max(1, -(-rows // most)))
    if device == "cpu" and rounded_up(size) <= most:
        size = rounded_up(size)
    return [slice(at, at + size) for at in range(0, rows, size)] if rows else []


def _products(dtype: torch.dtype, device: str) -> Products:
    return fastest_products() if device == "cpu" and dtype == torch.float32 else Products()


def _chunk(rows: Tensor, words: Words, labels: Tensor, smoothing: float, *, with_slope: bool) -> _Chunk:
    scores = _products(rows.dtype, rows.device.type).forward(rows, words.weight, words.bias).float()
    if words.softcap is not None:
        scores = torch.tanh(scores / words.softcap) * words.softcap
    logs = torch.log_softmax(scores, -1)
    spread = smoothing / logs.shape[1]
    counted = logs[: len(labels)]
    loss = counted.gather(1, labels[:, None]).sum() * (smoothing - 1)
    if smoothing:
        loss = loss - counted.sum() * spread
    if not with_slope:
        return _Chunk(loss, None)
    slope = logs.exp_()
    if smoothing:
        slope -= spread
    slope.scatter_add_(1, labels[:, None], slope.new_full((len(labels), 1), smoothing - 1))
    slope[len(labels) :] = 0
    if words.softcap is not None:
        slope *= 1 - (scores / words.softcap).square()
    return _Chunk(loss, slope.to(rows.dtype))


def _with_product(
    total: Float[Tensor, "*weight"], slope: Float[Tensor, "rows m"], rows: Float[Tensor, "rows n"]
) -> Float[Tensor, "m n"]:
    """total + slope^T rows, in float32; the total is used up, and one of no axes is nothing yet."""
    if slope.device.type == "cpu" and slope.dtype in (torch.float32, torch.bfloat16) and fastest_products().dw:
        return native.weight_gradient(slope.contiguous(), rows.contiguous(), total if total.dim() else None)
    part = Products().to_weight(slope, rows).float()
    return total.add_(part) if total.dim() else part


class _Sums:
    """The gradients so far. Those of the words are sums over chunks, held in float32."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None, wants: list[bool]) -> None:
        self.x = torch.empty_like(x) if wants[0] else None
        self.weight = weight.new_zeros((), dtype=torch.float32) if wants[1] else None
        self.bias = bias.new_zeros(bias.shape, dtype=torch.float32) if wants[2] and bias is not None else None
        self._like = (weight, bias)

    def add(self, at: slice, rows: Tensor, words: Words, slope: Tensor) -> None:
        """Add what a chunk gives."""
        if self.x is not None:
            self.x[at] = _products(rows.dtype, rows.device.type).to_input(slope, words.weight)
        if self.weight is not None:
            self.weight = _with_product(self.weight, slope, rows)
        if self.bias is not None:
            self.bias += slope.sum(0, dtype=torch.float32)

    def found(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of vectors, weight and bias that were wanted."""
        weight, bias = self._like
        return (
            self.x,
            None if self.weight is None else self.weight.expand_as(weight).to(weight.dtype),
            None if self.bias is None or bias is None else self.bias.to(bias.dtype),
        )
