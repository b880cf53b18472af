"""A model that copies, with hand-set weights, and two texts that measure copy speculation.

Random weights never copy, and a network that is small enough to learn copying within a benchmark does not have the size
to be measured. So the weights of a full-size BERT pair are set by hand, and its output is known: positions carry a
code, the decoder's last cross-attention looks for the code of one source position, and the token at that position
outweighs everything else. The time of a forward pass does not depend on the values in its matrices, so plain greedy
search costs the same as with any weights of this shape, and the cost of speculation depends on the text alone. Only the
text is artificial:

- copy-heavy: the target is the source with 5 % edits. Of 64 tokens, two are changed (as a correction changes words) and
  one is left out; a longer source also has one token repeated.
- never copied: each token becomes its neighbour in a list ordered by frequency, so that target tokens are about as
  frequent in the source as in summaries or replies, and wrong copies are offered all the time.

Tokens are drawn by Zipf's law. Sources and targets end with the end token; nothing is forced.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _shapes as shapes
import torch
from _harness import ratio, spread
from _profile import phase_shares
from _rows import Copying
from _speed import AGAIN, quiet_race
from torch import Tensor

from conjoin.torch import EncoderDecoderModel

END = 2
FIRST = 10
"""Ids below this are special tokens."""

CHANGED = 40
"""The rarest 1/40 of a vocabulary: the copier replaces these tokens by others."""

SOURCES = 3
"""Texts per round, one after another."""

QUIET_WEIGHTS = 0.05
"""Factor of the random weights that the copier does not need: they are not zero, but have no influence."""


@dataclass(frozen=True, slots=True)
class Rewriting:
    """The mapping from sources to targets.

    Args:
        tokens: [V], the target token for each source token.
        reads: [P], the source position that each target position copies.
    """

    tokens: Tensor
    reads: Tensor

    def target(self, source: Tensor) -> list[int]:
        """Return the target of a source, with its end token."""
        written = self.tokens[source[self.reads.clamp(max=len(source) - 1)]].tolist()
        return written[: written.index(END) + 1]


def copying(vocab_size: int, positions: int) -> Rewriting:
    """Return 5 % edits: changed tokens are drawn into the source (see `texts`), 1 in 64 left out, 1 in 128 repeated."""
    tokens = torch.arange(vocab_size)
    rare = _rare(vocab_size)
    tokens[rare:] = torch.arange(FIRST, FIRST + vocab_size - rare)
    place = torch.arange(positions)
    reads = place + (place + 64 - 22) // 64 - (place + 128 - 110) // 128
    return Rewriting(tokens, reads.clamp(max=positions - 1))


def never_copying(vocab_size: int, positions: int) -> Rewriting:
    """Replace each token by its neighbour in frequency."""
    tokens = torch.arange(vocab_size)
    tokens[FIRST:] = ((tokens[FIRST:] - FIRST) ^ 1).clamp(max=vocab_size - FIRST - 1) + FIRST
    return Rewriting(tokens, torch.arange(positions))


def texts(vocab_size: int, length: int, count: int) -> list[Tensor]:
    """Return sources of Zipf-distributed tokens, with one token in 32 that the copier changes, and an end token."""
    generator = torch.Generator().manual_seed(length)
    rare = _rare(vocab_size)
    frequency = 1 / torch.arange(1, rare - FIRST + 1)
    rows = torch.multinomial(frequency.expand(count, -1), length, replacement=True, generator=generator) + FIRST
    rows[:, 11::32] = torch.randint(rare, vocab_size, rows[:, 11::32].shape, generator=generator)
    rows[:, -1] = END
    return list(rows)


def _rare(vocab_size: int) -> int:
    return vocab_size - vocab_size // CHANGED


def measure(row: Copying, folder: Path, rounds: int) -> dict[str, Any]:
    """Race copy speculation against plain greedy, and against itself."""
    model, rewriting = copier(row.shape, copying if row.copied else never_copying, folder)
    vocab_size = model.decoder.spec.vocab_size
    written = [(text[None], rewriting.target(text)) for text in texts(vocab_size, row.source, SOURCES)]
    plain, copied = (lambda on=on: _write(model, written, copy_speculation=on) for on in (False, True))
    first, second = plain(), copied()
    if first != [target for _, target in written]:
        raise ValueError(f"{row.name}: the output of the hand-made model is not the expected one.")
    timings = quiet_race({"plain": plain, "copying": copied, AGAIN: copied}, "copying", rounds)
    num_tokens = sum(len(target) for _, target in written)
    return {
        "best_peer": "conjoin, plain",
        **ratio(timings["plain"], timings["copying"]),
        "spread": spread(timings["copying"], timings[AGAIN]),
        "ms_per_step": {name: round(t.median / num_tokens * 1000, 3) for name, t in timings.items()},
        "tokens_per_s": round(num_tokens / timings["copying"].median, 1),
        "seconds": {name: [round(s, 4) for s in t.seconds] for name, t in timings.items()},
        "profile": phase_shares(model, copied),
        "tokens": {"equal": {"conjoin, plain": float(first == second)}, "right": first == second},
    }


def _write(model: Any, written: list[tuple[Tensor, list[int]]], **settings: Any) -> list[list[int]]:
    return [
        model.generate(ids, max_new_tokens=ids.shape[1] + 8, max_length=None, **settings)[0, 1:].tolist()
        for ids, _ in written
    ]


def copier(shape: str, rewrite: Callable[[int, int], Rewriting], folder: Path) -> tuple[EncoderDecoderModel, Rewriting]:
    """Return a BERT pair of a shape that rewrites its sources.

    Args:
        rewrite: (size of the vocabulary, number of positions) -> the rewriting.
        folder: An empty folder for the checkpoint.
    """
    model = shapes.build(shape)
    rewriting = rewrite(model.config.decoder.vocab_size, model.config.decoder.max_position_embeddings)
    _teach(model, rewriting)
    model.save_pretrained(folder)
    return EncoderDecoderModel.from_pretrained(folder).eval(), rewriting


@torch.no_grad()
def _teach(model: Any, rewriting: Rewriting) -> None:
    """Set the weights of a BERT pair. The first `size` channels encode positions as signs, all others tokens."""
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.mul_(QUIET_WEIGHTS)
    config = model.config.decoder
    hidden, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    generator = torch.Generator().manual_seed(0)
    places = _signs(config.max_position_embeddings, size, generator)
    tokens = torch.zeros(config.vocab_size, hidden)
    tokens[:, size:] = _signs(config.vocab_size, hidden - size, generator)
    bert = model.decoder.bert
    _embed(model.encoder.embeddings, tokens[rewriting.tokens], places)
    _embed(bert.embeddings, tokens, places[rewriting.reads])
    cross = bert.encoder.layer[-1].crossattention
    for matrix in (cross.self.query.weight, cross.self.key.weight):
        matrix.zero_().view(-1, size, hidden)[:, :, :size] = SHARPNESS * torch.eye(size)
    cross.self.value.weight.copy_(torch.eye(hidden))
    cross.output.dense.weight.copy_(LOUDNESS * torch.eye(hidden))
    model.decoder.cls.predictions.transform.dense.weight.copy_(torch.eye(hidden))


SHARPNESS, LOUDNESS = 5.0, 4.0
"""Scales of the attention to one position, and of its value relative to the decoder's own states."""


def _signs(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (rows, columns), generator=generator) * 2.0 - 1.0


def _embed(embeddings: Any, tokens: Tensor, places: Tensor) -> None:
    embeddings.word_embeddings.weight.copy_(tokens)
    embeddings.position_embeddings.weight.zero_()[:, : places.shape[1]] = places
