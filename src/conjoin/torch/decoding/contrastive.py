"""Contrastive search: likely words whose states do not repeat what was written (Su et al. 2022, arXiv:2202.06417)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from conjoin.torch.decoding.loop import Control, Decoded, Limits
from conjoin.torch.decoding.reader import Reader
from conjoin.torch.decoding.select import is_any_of, top_k


def contrastive_search(
    reader: Reader, prompt: Int[Tensor, "B P"], limits: Limits, control: Control, *, alpha: float, k: int
) -> Decoded:
    """Of the k likeliest words, take the best of (1 - alpha) * probability - alpha * highest cosine to earlier states.

    All k candidates of a source are read in one pass as rows of that source; the one taken is already read.
    """
    batch, device = len(prompt), prompt.device
    tokens = torch.full((batch, limits.max_length), limits.pad, dtype=torch.long, device=device)
    tokens[:, : limits.prompt] = prompt
    ended = torch.zeros(batch, dtype=torch.bool, device=device)
    hidden = reader.read(prompt)
    states = hidden.new_zeros(batch, limits.max_length, hidden.shape[2])
    states[:, : limits.prompt] = hidden
    logits = reader.decoder.score(hidden[:, -1]).float()
    reader.expand(k)
    first = torch.arange(batch, device=device) * k
    length = limits.prompt
    while True:
        candidates, likely = _candidates(tokens[:, :length], logits, control, k)
        read = reader.read(candidates.flatten()[:, None])[:, 0].view(batch, k, -1)
        chosen = _choose(likely, read, states[:, :length], alpha)
        picked = candidates.gather(1, chosen[:, None]).squeeze(1)
        picked = torch.where(ended, limits.pad, picked)
        tokens[:, length] = picked
        here = read.gather(1, chosen[:, None, None].expand(-1, 1, read.shape[2])).squeeze(1)
        states[:, length] = here
        length += 1
        if control.streamer is not None:
            control.streamer.put(picked.cpu())
        ended = ended | is_any_of(picked, limits.eos)
        if (stopped := control.stopped(tokens[:, :length])) is not None:
            ended = ended | stopped
        if length >= limits.max_length or bool(ended.all()):
            break
        reader.reorder((first + chosen).repeat_interleave(k))
        logits = reader.decoder.score(here).float()
    if control.streamer is not None:
        control.streamer.end()
    return Decoded(sequences=tokens[:, :length])


def _candidates(
    ids: Int[Tensor, "B t"], logits: Float[Tensor, "B V"], control: Control, k: int
) -> tuple[Int[Tensor, "B k"], Float[Tensor, "B k"]]:
    """The k likeliest words and their probabilities."""
    edited = control.processed(ids, logits)
    control.trace.note(logits, edited)
    values, candidates = top_k(edited, k)
    return candidates, (values - edited.logsumexp(-1, keepdim=True)).exp()


def _choose(
    likely: Float[Tensor, "B k"], read: Float[Tensor, "B k D"], states: Float[Tensor, "B t D"], alpha: float
) -> Int[Tensor, " B"]:
    alike = torch.matmul(F.normalize(read.float(), dim=-1), F.normalize(states.float(), dim=-1).transpose(1, 2))
    return ((1 - alpha) * likely - alpha * alike.amax(-1)).argmax(-1)
