"""Normalisation layers, built from their spec."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin import spec
from conjoin.torch.cpu.pointwise import norms_in_training, rms_norm


class RMSNorm(nn.Module):
    """Root mean square normalisation, computed in float32 (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, kind: spec.RMSNorm, size: int) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """Scale every vector to unit root mean square, then by the weight."""
        if norms_in_training(x, self.weight):
            return rms_norm(x, self.weight, self.kind, self._by_operators)
        return self._by_operators(x, self.weight)

    def _by_operators(self, x: Float[Tensor, "*lead D"], weight: Float[Tensor, " D"]) -> Float[Tensor, "*lead D"]:
        kind = self.kind
        half = weight.dtype == torch.float16
        if x.dtype == torch.float32 and not half:
            return F.rms_norm(x, x.shape[-1:], weight + kind.offset if kind.offset else weight, kind.eps)
        dtype = torch.float16 if half and x.dtype == torch.float32 else x.dtype
        normed = F.rms_norm(x.float(), x.shape[-1:], None, kind.eps)
        if kind.scale_in_float32:
            return (normed * (weight.float() + kind.offset)).to(dtype)
        return normed.to(dtype) * (weight + kind.offset)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation, built from its spec."""

    def __init__(self, kind: spec.LayerNorm, size: int) -> None:
        super().__init__(size, eps=kind.eps, bias=kind.bias)


def build_norm(kind: spec.Norm, size: int) -> nn.Module:
    """Return the layer that a norm's spec describes, over the last axis of width `size`."""
    match kind:
        case spec.LayerNorm():
            return LayerNorm(kind, size)
        case spec.BareLayerNorm(eps=eps):
            return nn.LayerNorm(size, eps=eps, elementwise_affine=False)
        case spec.RMSNorm():
            return RMSNorm(kind, size)


class LayerNormOfHeads(LayerNorm):
    """Layer normalisation of every head by weights of its own, which stand one head behind the other."""

    def forward(self, input: Float[Tensor, "*lead H E"]) -> Float[Tensor, "*lead H E"]:
        """Normalise over the last axis, then scale and shift."""
        heads, bias = input.shape[-2:], self._parameters["bias"]
        normed = F.layer_norm(input, heads[-1:], eps=self.eps) * self.weight.view(heads)
        return normed if bias is None else normed + bias.view(heads)


def build_qk_norm(kind: spec.QKNorm, heads: int, head_size: int) -> nn.Module:
    """Return the norm of the queries or the keys."""
    size = kind.size(heads, head_size)
    if kind.over == "each_head" and isinstance(kind.norm, spec.LayerNorm):
        return LayerNormOfHeads(kind.norm, size)
    return build_norm(kind.norm, size)
