"""Contrastive search, everything computed anew at each step (Su et al. 2022, arXiv:2202.06417)."""

import torch
from torch.nn import functional as F

from references.plain import Reading


def contrastive(
    reading: Reading, start: list[int], *, alpha: float, top_k: int, max_new_tokens: int, eos: list[int]
) -> tuple[list[int], float]:
    """Of the likeliest words take the best of (1 - alpha) * probability - alpha * highest cosine to earlier states.

    Returns:
        The ids, and by how little a choice was decided.
    """
    ids, closest = list(start), float("inf")
    while len(ids) < len(start) + max_new_tokens and (len(ids) == len(start) or ids[-1] not in eos):
        values, words = torch.tensor(reading(ids)).topk(top_k)
        worth = []
        every = F.normalize(reading.states([[*ids, word] for word in words.tolist()]), dim=-1)
        for value, word, states in zip(values.exp().tolist(), words.tolist(), every, strict=True):
            worth.append(((1 - alpha) * value - alpha * float((states[:-1] @ states[-1]).max()), word))
        first, second = sorted(worth, reverse=True)[:2]
        closest = min(closest, first[0] - second[0])
        ids.append(first[1])
    return ids, closest
