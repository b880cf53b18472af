"""Contrastive search, everything computed anew at each step (Su et al. 2022, arXiv:2202.06417)."""

from torch.nn import functional as F

from references.plain import Reading


def contrastive(
    reading: Reading, start: list[int], *, alpha: float, top_k: int, max_new_tokens: int, eos: list[int]
) -> list[int]:
    """Of the likeliest words take the best of (1 - alpha) * probability - alpha * highest cosine to earlier states."""
    ids = list(start)
    while len(ids) < len(start) + max_new_tokens and ids[-1:] != [word for word in ids[-1:] if word in eos]:
        log_probs = reading.run(ids).logits[0, -1].log_softmax(-1)
        values, words = log_probs.topk(top_k)
        worth = []
        for value, word in zip(values.exp().tolist(), words.tolist(), strict=True):
            states = F.normalize(reading.states([*ids, word]), dim=-1)
            worth.append(((1 - alpha) * value - alpha * float((states[:-1] @ states[-1]).max()), word))
        ids.append(max(worth)[1])
    return ids
