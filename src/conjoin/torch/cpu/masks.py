"""Masks of attention: which keys a query may read."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from conjoin import spec


@dataclass(frozen=True, slots=True)
class Mask:
    """The keys that queries may read.

    Args:
        allowed: Bool, True = may be read, broadcastable to [R, H, T, S]; None allows everything.
        causal: Only for `allowed=None` and T = S: position t reads 0..t.
    """

    allowed: Bool[Tensor, "R 1 T S"] | None = None
    causal: bool = False


def self_mask(
    key_mask: Bool[Tensor, "R S"] | None,
    *,
    causal: bool,
    window: spec.Sides | None,
    past: int,
    length: int,
    device: torch.device,
    together: Bool[Tensor, "R 1 T T"] | None = None,
    places: Int[Tensor, "R S"] | None = None,
) -> Mask:
    """Return the mask with which `length` new positions read themselves and the `past` positions before them.

    Args:
        key_mask: True at real tokens, over past and new ones.
        causal, window: As in `readable`.
        together: True where two positions belong to one segment; only without `past`.
        places: Positions of each row's tokens that windows count; by default their indices.
    """
    total = past + length
    narrow = window is not None and total > window.least
    allowed = None
    by_index = narrow and places is None
    if by_index or (causal and length > 1 and (past or key_mask is not None or together is not None)):
        near = window if by_index else None
        allowed = readable(length, total, causal=causal, window=near, device=device)[None, None]
    near = _near(places, past, window) if narrow and places is not None and window is not None else None
    padding = None if key_mask is None else key_mask[:, None, None, :]
    for part in (together, near, padding):
        if part is not None:
            allowed = part if allowed is None else allowed & part
    return Mask(allowed, causal=causal and length > 1 and allowed is None)


def joint_mask(
    source: Bool[Tensor, "B 1 #T S"] | None,
    near: Bool[Tensor, "#R 1 #T S"] | None,
    own: Mask,
    sizes: tuple[int, int, int, int],
    device: torch.device,
) -> Mask:
    """Return the mask over the keys of a source and, behind them, those of the target.

    Args:
        source: True at source tokens that may be read, each row for R / B rows of the target.
        near: True at source tokens in the window of a query.
        own: Mask over the target's own positions.
        sizes: R, T, S and the number of the target's positions.
    """
    rows, length, size, total = sizes
    if source is not None and rows != len(source):
        source = source.repeat_interleave(rows // len(source), 0)
    first = source if near is None else near if source is None else source & near
    last = own.allowed
    if own.causal:
        last = readable(length, total, causal=True, window=None, device=device)[None, None]
    if first is None and last is None:
        return Mask()
    parts = [
        torch.ones(1, 1, 1, width, dtype=torch.bool, device=device) if part is None else part
        for part, width in ((first, size), (last, total))
    ]
    shape = (max(len(part) for part in parts), 1, max(part.shape[2] for part in parts))
    return Mask(torch.cat([part.expand(*shape, -1) for part in parts], -1))


def readable(
    queries: int, keys: int, *, causal: bool, window: spec.Sides | None, device: torch.device
) -> Bool[Tensor, "queries keys"]:
    """Return a mask, True where one of the last `queries` of `keys` positions may read a key.

    Args:
        causal: Queries read no later keys.
        window: How far queries read to both sides; None means all keys.
    """
    query = torch.arange(keys - queries, keys, device=device)[:, None]
    key = torch.arange(keys, device=device)[None]
    allowed = key <= query if causal else torch.ones(queries, keys, dtype=torch.bool, device=device)
    return allowed if window is None else allowed & window.hold(query - key)


def _near(places: Int[Tensor, "R S"], past: int, window: spec.Sides) -> Bool[Tensor, "R 1 T S"]:
    """Return a mask, True where a key is in the window of a query; queries are the positions after `past`."""
    return window.hold(places[:, past:, None] - places[:, None, :])[:, None]


def up_to_last(tokens: Bool[Tensor, "R T"]) -> Bool[Tensor, "R T"]:
    """Return True at all positions up to the last True of each row."""
    return tokens.flip(1).cummax(1).values.flip(1)
