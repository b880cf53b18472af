"""Speculative decoding: one pass checks a draft of several tokens, and the result is the same as without drafts."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.torch.generation.loop import Control, Decoded, Limits
from conjoin.torch.generation.loops.drafters import Drafter
from conjoin.torch.generation.reader import Reader, split_record
from conjoin.torch.generation.select import drawable


def speculate(
    reader: Reader,
    prompt: Int[Tensor, "1 P"],
    limits: Limits,
    control: Control,
    drafter: Drafter,
    *,
    randomly: bool,
    mask: Tensor | None = None,
) -> Decoded:
    """Decode one source, reading several drafted tokens per pass.

    Without sampling, the tokens are those of greedy decoding. With sampling, they follow the model's distribution p: a
    token drafted with probability q is accepted with probability min(1, p / q), and a rejected one is replaced by a
    draw from max(0, p - q), normalised.

    Args:
        mask: [1, P], for a prompt that is padded on the left.
    """
    ids: list[int] = prompt[0].tolist()
    fresh = ids.copy()
    ended = False
    while not ended:
        known, room = len(ids), limits.max_length - len(ids)
        draft, drawn = drafter.propose(ids, room - 1) if room > 1 and known > limits.prompt else ([], None)
        block = torch.tensor([fresh + draft], device=prompt.device)
        scores = reader.all_scores(block, mask)[0, len(fresh) - 1 :]
        mask = None  # the cache stores it
        checker = _Checker(scores, control, randomly)
        accepted, ended = _accept(ids, draft, drawn, checker, limits, control)
        drafter.hear(len(draft), accepted)
        reader.cache.crop(len(ids) - 1)
        if reader.records:
            record = reader.records.pop()
            reader.records += split_record(record, len(fresh), len(ids) - known, known - len(fresh))
        fresh = ids[-1:]
    control.watch.look()
    control.end_stream()
    return Decoded(sequences=torch.tensor([ids], device=prompt.device))


def _accept(
    ids: list[int],
    draft: list[int],
    drawn: Float[Tensor, "k V"] | None,
    checker: "_Checker",
    limits: Limits,
    control: Control,
) -> tuple[int, bool]:
    """Append tokens to `ids` up to the first that differs from the draft.

    Returns:
        The number of accepted tokens, and True if the hypothesis has ended.
    """
    for position in range(len(draft) + 1):
        drafted = draft[position] if position < len(draft) else None
        token = checker.token(position, ids, drafted, None if drawn is None or drafted is None else drawn[position])
        ids.append(token)
        control.put(torch.tensor([token]))
        if _ends(ids, limits, control, checker.device):
            return position + (token == drafted), True
        if token != drafted:
            return position, False
    return len(draft), False


def _ends(ids: list[int], limits: Limits, control: Control, device: torch.device) -> bool:
    if ids[-1] in limits.eos or len(ids) >= limits.max_length:
        return True
    if control.stops is None:
        return False
    stopped = control.stopped(torch.tensor([ids], device=device))
    return stopped is not None and bool(stopped.any())


class _Checker:
    """Chooses the model's own token at each position of a block."""

    def __init__(self, scores: Float[Tensor, "T V"], control: Control, randomly: bool) -> None:
        self.scores = scores
        self.device = scores.device
        self.control = control
        self.randomly = randomly
        is_plain = control.process is None and not randomly and not control.trace.wanted
        self.best: tuple[Tensor, list[int]] | None = None
        if is_plain:
            values, tokens = scores.max(-1)
            self.best = values, tokens.tolist()

    def token(self, position: int, ids: list[int], drafted: int | None, drawn: Tensor | None) -> int:
        """Return the token at a position that follows `ids`."""
        if self.best is not None:
            values, tokens = self.best
            self.control.watch.see(values[position : position + 1], len(ids))
            return tokens[position]
        logits = self.scores[position : position + 1].float()
        edited = self.control.processed(torch.tensor([ids], device=logits.device), logits)
        self.control.trace.note(logits, edited)
        top = edited.amax(-1)
        self.control.watch.see(drawable(top) if self.randomly else top, len(ids))
        self.control.watch.look()
        if not self.randomly:
            return int(edited.argmax(-1))
        return _draw(edited[0].softmax(-1), drafted, drawn, self.control.generator_of(0))


def _draw(p: Float[Tensor, " V"], drafted: int | None, drawn: Tensor | None, generator: torch.Generator | None) -> int:
    """Draw from p; a drafted token is accepted with probability min(1, p / q) (Leviathan et al. 2023, 2.3)."""
    if drafted is None or drawn is None:
        return int(torch.multinomial(p, 1, generator=generator))
    q = drawn.softmax(-1)
    if float(torch.rand((), generator=generator, device=None if generator is None else p.device)) < float(
        p[drafted] / q[drafted]
    ):
        return drafted
    rest = (p - q).clamp(min=0)
    return int(torch.multinomial(rest if float(rest.sum()) > 0 else p, 1, generator=generator))
