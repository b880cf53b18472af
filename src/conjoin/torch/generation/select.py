"""Picking words from scores."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.torch.cpu.native.select import argmax, selects
from conjoin.torch.cpu.native.select import top_k as native_top_k

Generators = torch.Generator | Sequence[torch.Generator] | None
"""What draws: one generator for a whole batch, one for each of its sources, or PyTorch's own."""
_FEW = 256
"""Tokens that the kernel finds faster than PyTorch."""


def top_k(scores: Float[Tensor, "R V"], k: int) -> tuple[Float[Tensor, "R k"], Int[Tensor, "R k"]]:
    """Return torch.topk of every row, sooner where few of many tokens are wanted."""
    return native_top_k(scores, k) if k <= _FEW and selects(scores) else scores.topk(k)


def best(scores: Float[Tensor, "R V"]) -> Int[Tensor, " R"]:
    """Return torch.argmax of every row: the first of equals, or a NaN."""
    return argmax(scores) if selects(scores) else scores.argmax(-1)


def drawable(best: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The best score of each row, NaN for infinity: a softmax over infinity is none."""
    return best.masked_fill(best == torch.inf, torch.nan)


def draw(
    probabilities: Float[Tensor, "r V"],
    count: int,
    places: Int[Tensor, " r"] | None = None,
    rows: int = 0,
    generator: Generators = None,
) -> Int[Tensor, "r count"]:
    """Words of every row, drawn without replacement.

    Args:
        places: Where these rows stood in a batch of `rows`, if others have left it. They draw what they would draw
            there, so that a row does not depend on when its neighbours end.
        generator: One for all rows, PyTorch's own by default; or one per source, whose rows stand next to each other.
    """
    if isinstance(generator, Sequence):
        copies = rows // len(generator)
        sources = range(len(generator)) if places is None else (places[::copies] // copies).tolist()
        blocks = zip(probabilities.split(copies), sources, strict=True)
        return torch.cat([torch.multinomial(block, count, generator=generator[source]) for block, source in blocks])
    if places is None:
        return torch.multinomial(probabilities, count, generator=generator)
    whole = probabilities.new_zeros(rows, probabilities.shape[1])
    whole[:, :count] = 1.0
    whole[places] = probabilities
    return torch.multinomial(whole, count, generator=generator)[places]


def is_any_of(tokens: Int[Tensor, "*n"], wanted: tuple[int, ...]) -> Tensor:
    """Which tokens are among a few ids."""
    hits = torch.zeros_like(tokens, dtype=torch.bool)
    for token in wanted:
        hits = hits | (tokens == token)
    return hits
