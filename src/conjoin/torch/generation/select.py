"""Picking words from scores."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BLOCK = 64
_SMALL = 4096
"""Vocabularies below this are searched at once: two stages cost more than they save."""


def top_k(scores: Float[Tensor, "R V"], k: int) -> tuple[Float[Tensor, "R k"], Int[Tensor, "R k"]]:
    """torch.topk without looking at every word twice: the best blocks first, then the best words inside these.

    On a CPU 4 times faster at 32 rows of 50,000 words, with the same values.
    """
    rows, words = scores.shape
    if scores.device.type != "cpu" or words < _SMALL or k > words // _BLOCK // 4:
        return scores.topk(k)
    blocks = words // _BLOCK
    main = scores[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK))
    best = main.amax(-1).topk(k).indices
    inner = main.gather(1, best[..., None].expand(-1, -1, _BLOCK)).flatten(1)
    where = (best[..., None] * _BLOCK + torch.arange(_BLOCK)).flatten(1)
    tail = scores[:, blocks * _BLOCK :]
    if tail.shape[1]:
        inner = torch.cat((inner, tail), 1)
        where = torch.cat((where, torch.arange(blocks * _BLOCK, words).expand(rows, -1)), 1)
    values, picked = inner.topk(k)
    return values, where.gather(1, picked)


def best(scores: Float[Tensor, "R V"]) -> Int[Tensor, " R"]:
    """torch.argmax, the first of equals, or a NaN, in two stages: a maximum is found faster than its place."""
    words = scores.shape[1]
    if scores.device.type != "cpu" or words < _SMALL:
        return scores.argmax(-1)
    blocks = words // _BLOCK
    main = scores[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK))
    block = main.amax(-1).argmax(-1)
    start = block * _BLOCK
    inner = scores.gather(1, start[:, None] + torch.arange(_BLOCK))
    found = start + inner.argmax(-1)
    tail = scores[:, blocks * _BLOCK :]
    if tail.shape[1] == 0:
        return found
    behind, where = tail.max(-1)
    return torch.where((behind > inner.amax(-1)) | behind.isnan(), where + blocks * _BLOCK, found)


def drawable(best: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The best score of each row, NaN for infinity: a softmax over infinity is none."""
    return best.masked_fill(best == torch.inf, torch.nan)


def draw(
    probabilities: Float[Tensor, "r V"], count: int, places: Int[Tensor, " r"] | None = None, rows: int = 0
) -> Int[Tensor, "r count"]:
    """Words of every row, drawn without replacement.

    Args:
        places: Where these rows stood in a batch of `rows`, if others have left it. They draw what they would draw
            there, so that a row does not depend on when its neighbours end.
    """
    if places is None:
        return torch.multinomial(probabilities, count)
    whole = probabilities.new_zeros(rows, probabilities.shape[1])
    whole[:, :count] = 1.0
    whole[places] = probabilities
    return torch.multinomial(whole, count)[places]


def is_any_of(tokens: Int[Tensor, "*n"], wanted: tuple[int, ...]) -> Tensor:
    """Which tokens are among a few ids."""
    hits = torch.zeros_like(tokens, dtype=torch.bool)
    for token in wanted:
        hits = hits | (tokens == token)
    return hits
