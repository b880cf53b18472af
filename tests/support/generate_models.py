"""Tiny models that generate, each saved once per session and loaded by both sides; and sources for them."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import oracle
from conjoin import EncoderDecoderModel

torch.set_num_threads(1)  # more of them wait for each other longer than a tiny model runs

PAIRS = {
    "bert-bert": ("bert", "bert"),
    "bert-gpt2": ("bert", "gpt2"),
    "roberta-roberta": ("roberta", "roberta/small"),
    "roberta-gpt2": ("roberta", "gpt2/wide"),
    "bert-bart": ("bert", "bart"),
    "electra-electra": ("electra", "electra/flat"),
}
WHOLE = {"bart": "bart", "t5": "t5/gated", "mbart": "mbart"}
NAMES = (*PAIRS, *WHOLE)
PAD, EOS = 3, 7
"""Of every decoder; the keys' own ids where they are these already."""


@functools.cache
def _room() -> Path:
    room = tempfile.mkdtemp(prefix="generate")
    atexit.register(shutil.rmtree, room)
    return Path(room)


@functools.cache
def models(name: str, seed: int = 0) -> tuple[EncoderDecoderModel, Any]:
    """Ours and transformers' model of the same files."""
    folder = _room() / f"{name}-{seed}"
    if name in PAIRS:
        theirs = oracle.save_pair(*PAIRS[name], folder, seed, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=5)
    else:
        theirs = oracle.save_whole(WHOLE[name], folder, seed)
    return EncoderDecoderModel.from_pretrained(folder), theirs


def sources(name: str, seed: int = 0, lengths: tuple[int, ...] = (7, 5, 3)) -> tuple[Tensor, Tensor]:
    """Ids [B, S] that both vocabularies hold, padded on the right, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    pad = oracle.TINY[PAIRS[name][0] if name in PAIRS else WHOLE[name]]["pad_token_id"]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(oracle.FIRST_ORDINARY_ID, 53, (len(lengths), max(lengths)), generator=generator)
    return ids.masked_fill(~mask, pad), mask.long()
