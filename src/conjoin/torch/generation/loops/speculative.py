"""Drafts checked in one pass: the same words as without drafts, in fewer passes."""

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
    """Decode one source, reading several guessed words per pass.

    Greedily, the words are those of greedy decoding. Drawn, they follow the model's distribution: a drawn guess is
    taken with probability min(1, p / q), and a refused one replaced by a draw from what p has over q.

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
        mask = None  # the cache keeps it
        checked = _Checker(scores, control, randomly)
        accepted, ended = _accept(ids, draft, drawn, checked, limits, control)
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
    checked: "_Checker",
    limits: Limits,
    control: Control,
) -> tuple[int, bool]:
    """Append words to `ids` up to the first unlike the draft; returns how many agreed, and whether it ended."""
    for position in range(len(draft) + 1):
        guess = draft[position] if position < len(draft) else None
        word = checked.word(position, ids, guess, None if drawn is None or guess is None else drawn[position])
        ids.append(word)
        control.put(torch.tensor([word]))
        if _ends(ids, limits, control, checked.device):
            return position + (word == guess), True
        if word != guess:
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
    """The model's own choice at each position of a block."""

    def __init__(self, scores: Float[Tensor, "T V"], control: Control, randomly: bool) -> None:
        self.scores = scores
        self.device = scores.device
        self.control = control
        self.randomly = randomly
        plain = control.process is None and not randomly and not control.trace.wanted
        self.best: tuple[Tensor, list[int]] | None = None
        if plain:
            values, words = scores.max(-1)
            self.best = values, words.tolist()

    def word(self, position: int, ids: list[int], guess: int | None, drawn: Tensor | None) -> int:
        """The word at a position, given what stands before it."""
        if self.best is not None:
            values, words = self.best
            self.control.watch.see(values[position : position + 1], len(ids))
            return words[position]
        logits = self.scores[position : position + 1].float()
        edited = self.control.processed(torch.tensor([ids], device=logits.device), logits)
        self.control.trace.note(logits, edited)
        top = edited.amax(-1)
        self.control.watch.see(drawable(top) if self.randomly else top, len(ids))
        self.control.watch.look()
        if not self.randomly:
            return int(edited.argmax(-1))
        return _draw(edited[0].softmax(-1), guess, drawn)


def _draw(p: Float[Tensor, " V"], guess: int | None, drawn: Tensor | None) -> int:
    """Draw from p; a guess that was itself drawn is kept as often as p allows (Leviathan et al. 2023, 2.3)."""
    if guess is None or drawn is None:
        return int(torch.multinomial(p, 1))
    q = drawn.softmax(-1)
    if float(torch.rand(())) < float(p[guess] / q[guess]):
        return guess
    rest = (p - q).clamp(min=0)
    return int(torch.multinomial(rest if float(rest.sum()) > 0 else p, 1))
