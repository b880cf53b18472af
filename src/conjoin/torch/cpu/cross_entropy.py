"""Vocabulary matrix and cross-entropy in one function, a chunk of rows at a time, without keeping logits.

The gradient is computed together with the loss, so that the scores of only one chunk exist at once: memory does not
grow with the vocabulary.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.torch.cpu import native
from conjoin.torch.cpu.linear_grad import Products, fastest_products
from conjoin.torch.cpu.mode import is_eager
from conjoin.torch.cpu.row_counts import rounded_up

CHUNK_SCORES = {"cpu": 2**23, "cuda": 2**27}
"""Scores that exist at once: enough rows for fast matrix products (274 with BERT's vocabulary, 4397 on a GPU)."""


@dataclass(frozen=True, slots=True)
class VocabProjection:
    """The map from vectors to scores: cap * tanh((x W^T + bias) / cap), or without a cap x W^T + bias."""

    weight: Float[Tensor, "V C"]
    bias: Float[Tensor, " V"] | None = None
    softcap: float | None = None

    @property
    def can_be_chunked(self) -> bool:
        """True if the loss can be computed in chunks: not in a compiled model, nor with a sharded vocabulary matrix."""
        return is_eager(self.weight) if self.bias is None else is_eager(self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Loss of some rows and, if wanted, its gradient by their scores before the cap."""

    loss: Float[Tensor, ""]
    grad: Float[Tensor, "n V"] | None


def cross_entropy_sum(
    x: Float[Tensor, "P C"], projection: VocabProjection, labels: Int[Tensor, " N"], label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Return the summed cross-entropy of labels that all count, in float32; its gradient cannot be differentiated.

    Args:
        x: One vector per label; vectors after the last label are filler and are not counted.
    """
    return cast(Any, _ChunkedCrossEntropy).apply(
        x, projection.weight, projection.bias, labels, projection.softcap, label_smoothing, torch.is_grad_enabled()
    )


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Saves gradients instead of scores. They belong to the sum, not the mean, so that narrow dtypes can hold them."""

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
            projection = VocabProjection(weight.to(dtype), None if bias is None else bias.to(dtype), softcap)
            sums = _Sums(x, weight, bias, wants)
            total = x.new_zeros((), dtype=torch.float32)
            for at in _chunks(len(x), len(weight), device):
                rows = x[at].to(dtype)
                chunk = _chunk(rows, projection, labels[at], smoothing, with_grad=any(wants))
                total += chunk.loss
                if chunk.grad is not None:
                    sums.add(at, rows, projection, chunk.grad)
        ctx.save_for_backward(*sums.gradients())
        return total

    @staticmethod
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The gradient of a loss without logits is to be differentiated again (create_graph=True), "
                "but it is computed with the loss and has no graph. Expected: model(..., output_logits=True)."
            )
        gradients = (None if gradient is None else gradient * dloss for gradient in ctx.saved_tensors)
        return (*gradients, None, None, None, None)


def _chunks(rows: int, vocab_size: int, device: str) -> list[slice]:
    """Return slices of the rows; few distinct sizes occur, and only the last slice may be smaller."""
    max_rows = max(1, CHUNK_SCORES.get(device, CHUNK_SCORES["cuda"]) // vocab_size)
    size = -(-rows // max(1, -(-rows // max_rows)))
    if device == "cpu" and rounded_up(size) <= max_rows:
        size = rounded_up(size)
    return [slice(at, at + size) for at in range(0, rows, size)] if rows else []


def _products(dtype: torch.dtype, device: str) -> Products:
    return fastest_products() if device == "cpu" and dtype == torch.float32 else Products()


def _chunk(rows: Tensor, projection: VocabProjection, labels: Tensor, smoothing: float, *, with_grad: bool) -> _Chunk:
    scores = _products(rows.dtype, rows.device.type).forward(rows, projection.weight, projection.bias).float()
    if projection.softcap is not None:
        scores = torch.tanh(scores / projection.softcap) * projection.softcap
    logs = torch.log_softmax(scores, -1)
    spread = smoothing / logs.shape[1]
    counted = logs[: len(labels)]
    loss = counted.gather(1, labels[:, None]).sum() * (smoothing - 1)
    if smoothing:
        loss = loss - counted.sum() * spread
    if not with_grad:
        return _Chunk(loss, None)
    grad = logs.exp_()
    if smoothing:
        grad -= spread
    grad.scatter_add_(1, labels[:, None], grad.new_full((len(labels), 1), smoothing - 1))
    grad[len(labels) :] = 0
    if projection.softcap is not None:
        grad *= 1 - (scores / projection.softcap).square()
    return _Chunk(loss, grad.to(rows.dtype))


def _with_product(
    total: Float[Tensor, "*weight"], grad: Float[Tensor, "rows m"], rows: Float[Tensor, "rows n"]
) -> Float[Tensor, "m n"]:
    """Return total + grad^T rows in float32. The total is overwritten; a total without axes stands for 0."""
    if grad.device.type == "cpu" and grad.dtype in (torch.float32, torch.bfloat16) and fastest_products().dw:
        return native.weight_gradient(grad.contiguous(), rows.contiguous(), total if total.dim() else None)
    part = Products().to_weight(grad, rows).float()
    return total.add_(part) if total.dim() else part


class _Sums:
    """The gradients so far. Those of weight and bias are sums over the chunks, held in float32."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None, wants: list[bool]) -> None:
        self.x = torch.empty_like(x) if wants[0] else None
        self.weight = weight.new_zeros((), dtype=torch.float32) if wants[1] else None
        self.bias = bias.new_zeros(bias.shape, dtype=torch.float32) if wants[2] and bias is not None else None
        self._like = (weight, bias)

    def add(self, at: slice, rows: Tensor, projection: VocabProjection, grad: Tensor) -> None:
        """Add the gradients of one chunk."""
        if self.x is not None:
            self.x[at] = _products(rows.dtype, rows.device.type).to_input(grad, projection.weight)
        if self.weight is not None:
            self.weight = _with_product(self.weight, grad, rows)
        if self.bias is not None:
            self.bias += grad.sum(0, dtype=torch.float32)

    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of x, weight and bias; None for those that are not wanted."""
        weight, bias = self._like
        return (
            self.x,
            None if self.weight is None else self.weight.expand_as(weight).to(weight.dtype),
            None if self.bias is None or bias is None else self.bias.to(bias.dtype),
        )
