"""Bulk generation for sources and targets of natural lengths, against static batches of conjoin's own `generate`.

Random weights never end a target, so the model is the hand-set copier of `_copying.py`: it copies the source until it
meets a stop word there, whose place is drawn independently of the source's length. Both sides read texts and return
texts, with the same tokenizer.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from _copying import END, FIRST, Rewriting, copier
from _harness import race, ratio, spread
from _profile import phase_shares
from _rows import Bulk
from _speed import AGAIN

from conjoin import BertTokenizer
from conjoin.evaluation import TextSettings, generate_texts

STOP = FIRST - 1
"""Id of the word at which the copier writes the end token."""

SPECIAL = {0: "[PAD]", 1: "[CLS]", END: "[SEP]", 3: "[UNK]", 4: "[MASK]"}
MEAN, SPREAD, LONGEST = 28, 0.5, 128
"""Log-normal lengths as of sentences and translations: mean, standard deviation of the logarithm, maximum."""

MOST_ROUNDS = 2
"""A round takes minutes."""

Texts = list[str]


def measure(row: Bulk, folder: Path, rounds: int) -> dict[str, Any]:
    """Race bulk generation against static batches, and against itself."""
    model, _ = copier(row.shape, _reads_next, folder)
    model = model.to(torch.bfloat16) if row.kind == "bf16" else model
    vocab_size, positions = model.decoder.spec.vocab_size, model.decoder.spec.max_positions
    model.tokenizer = _tokenizer(folder / "words", vocab_size)
    longest = min(LONGEST, positions - 2)
    sources, targets = _texts(row.sources, vocab_size, longest)
    settings = {"max_new_tokens": longest + 1, "max_length": None}
    runs = {
        "static": lambda: _static(model, sources, row.batch, settings),
        "bulk": lambda: generate_texts(model, sources, TextSettings(batch_size=row.batch, generation=settings)),
    }
    outputs: dict[str, Texts] = {"static": runs["static"]()}
    profile = phase_shares(model, lambda: outputs.update(bulk=runs["bulk"]()))
    equal = {name: sum(map(str.__eq__, texts, targets)) / len(targets) for name, texts in outputs.items()}
    timings = race(runs | {AGAIN: runs["bulk"]}, min(rounds, MOST_ROUNDS), warmups=0)
    written = sum(len(target.split()) + 1 for target in targets)
    return {
        "best_peer": "conjoin, static batches",
        **ratio(timings["static"], timings["bulk"]),
        "spread": spread(timings["bulk"], timings[AGAIN]),
        "ms_per_step": {name: round(t.median / written * 1000, 4) for name, t in timings.items()},
        "tokens_per_s": round(written / timings["bulk"].median, 1),
        "seconds": {name: [round(s, 3) for s in t.seconds] for name, t in timings.items()},
        "profile": profile,
        "tokens": {"equal": equal, "right": set(equal.values()) == {1.0}},
        "mean_length": {"target": round(written / len(targets), 1)},
    }


def _static(model: Any, sources: Texts, size: int, settings: dict[str, Any]) -> Texts:
    """Generate in batches of sources of similar length, the longest first."""
    results = [""] * len(sources)
    order = sorted(range(len(sources)), key=lambda index: -len(sources[index].split()))
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        inputs = model.tokenizer([sources[index] for index in batch], padding=True, return_tensors="pt")
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        ids = model.generate(**inputs, **settings)
        for index, text in zip(batch, model.tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
            results[index] = text
    return results


def _reads_next(vocab_size: int, positions: int) -> Rewriting:
    """Copy from the second source position on, since the first holds [CLS]; the stop word becomes the end token."""
    tokens = torch.arange(vocab_size)
    tokens[STOP] = END
    return Rewriting(tokens, (torch.arange(positions) + 1).clamp(max=positions - 1))


def _texts(count: int, vocab_size: int, longest: int) -> tuple[Texts, Texts]:
    """Return sources and their targets: the words before the stop word."""
    random = np.random.default_rng(0)
    sources: Texts = []
    targets: Texts = []
    for _ in range(count):
        length, written = (_draw(random, longest) for _ in range(2))
        words = [f"w{word}" for word in random.integers(FIRST, vocab_size, max(length, written + 1))]
        sources.append(" ".join((*words[:written], f"w{STOP}", *words[written + 1 :])))
        targets.append(" ".join(words[:written]))
    return sources, targets


def _draw(random: np.random.Generator, longest: int) -> int:
    return int(np.clip(random.lognormal(np.log(MEAN) - SPREAD**2 / 2, SPREAD), 3, longest - 1))


def _tokenizer(folder: Path, vocab_size: int) -> BertTokenizer:
    """Return a tokenizer whose words are w5, w6, ..."""
    words = (SPECIAL.get(index, f"w{index}") for index in range(vocab_size))
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return BertTokenizer.from_pretrained(folder)
