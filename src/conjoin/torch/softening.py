"""What attention does between its products in training: scores become weights, and some of those are dropped."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from conjoin.torch import native
from conjoin.torch.dropout import draw, keep, new_seed, scale_of, share_kept


@dataclass(frozen=True, slots=True)
class Attending:
    """What is the same for all rows.

    Args:
        scale: Of scores.
        dropout: Of weights: the share that is set to 0; the others grow when they are read.
    """

    scale: float
    dropout: float


@dataclass(frozen=True, slots=True)
class Softening:
    """softmax(scores * scale + bias) over what is allowed, then dropout, for some rows at a time.

    Weights are kept with a negative sign where they are dropped, so that one tensor tells both.

    Args:
        allowed: Broadcasts to [R, H, T, S]; None allows everything. A query that may read nothing has weights of 0.
        seed: Of the kernel's draws; None where plain steps do the work.
    """

    allowed: Bool[Tensor, "..."] | None
    bias: Float[Tensor, "1 H T S"] | None
    how: Attending
    seed: int | None

    @classmethod
    def of(
        cls, allowed: Bool[Tensor, "..."] | None, bias: Float[Tensor, "1 H T S"] | None, how: Attending
    ) -> "Softening":
        """By the kernel, where there is one."""
        seed = None
        if native.has("float32"):
            seed = new_seed() if how.dropout else 0
        bias = None if bias is None else bias.float()
        return cls(allowed, bias, how, seed)

    def forward(
        self, scores: Float[Tensor, "n H T S"], at: slice, weights: Float[Tensor, "n H T S"]
    ) -> Float[Tensor, "n H T S"]:
        """Write the weights of some rows, and return what of them is read. Scores are float32, and used up."""
        read = torch.empty_like(weights) if self.how.dropout else weights
        allowed = None if self.allowed is None else _rows_of(_four_axes(self.allowed), at)
        if self.seed is not None:
            native.soften(
                scores,
                weights,
                read if self.how.dropout else None,
                self.how.scale,
                allowed,
                self.bias,
                kept=share_kept(self.how.dropout),
                seed=self.seed,
                first_row=at.start,
            )
            return read
        scores *= self.how.scale
        plain = softmax_over(scores if self.bias is None else scores + self.bias, allowed).to(weights.dtype)
        if not self.how.dropout:
            return weights.copy_(plain)
        mask = draw(plain.shape, self.how.dropout)
        weights.copy_(torch.where(mask != 0, plain, -plain))
        return keep(plain, mask).mul_(scale_of(self.how.dropout))

    def backward(
        self, weights: Float[Tensor, "n H T S"], slope: Float[Tensor, "n H T S"]
    ) -> tuple[Float[Tensor, "n H T S"], Float[Tensor, "n H T S"]]:
        """What was read, and the gradient of scores by that of what was read, which is used up."""
        if self.seed is None:
            read = weights.clamp_min(0) * scale_of(self.how.dropout)
            slope.mul_(read)
            part = slope.sum(-1, keepdim=True, dtype=torch.float32)
            return read, slope.sub_(weights.abs() * part).mul_(self.how.scale)
        read = torch.empty_like(weights) if self.how.dropout else None
        native.soften_backward(weights, slope, read, self.how.scale, kept=share_kept(self.how.dropout))
        return weights if read is None else read, slope


def softmax_over(scores: Float[Tensor, "*lead T S"], allowed: Bool[Tensor, "..."] | None) -> Float[Tensor, "*lead T S"]:
    """Softmax over what is allowed; zeros where nothing is."""
    if allowed is None:
        return scores.softmax(-1)
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    alive = allowed.any(-1, keepdim=True)
    return weights if bool(alive.all()) else weights.masked_fill(~alive, 0.0)


def _rows_of(x: Tensor, at: slice) -> Tensor:
    """Some rows of what may be the same for all rows."""
    return x if len(x) == 1 else x[at]


def _four_axes(x: Tensor) -> Tensor:
    return x[(None,) * (4 - x.dim())]
