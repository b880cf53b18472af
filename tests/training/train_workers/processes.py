"""Runs of two processes: `torchrun --nproc-per-node 2 processes.py FOLDER`. The test compares them with runs of one.

Also called without a launcher, by the test itself, for the runs of one process.
"""

import atexit
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from conjoin import EncoderDecoderModel, Seq2SeqTrainer
from training_toys import arguments, halves, toy_rows

BATCHES = 4
"""Batches per step, over all processes."""


def train(folder: Path, name: str, *, processes: int, resume: bool = False, **changes: Any) -> Seq2SeqTrainer:
    """A run of 5 steps; the second and the last step of an epoch have fewer batches than there is room for."""
    torch.manual_seed(7)
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(folder / "encoder", folder / "decoder")
    settings: dict[str, Any] = {
        "max_steps": 5,
        "gradient_accumulation_steps": BATCHES // processes,
        "max_grad_norm": 0.5,
        "save_steps": 2,
        "save_total_limit": None,
        "adam_epsilon": 1e-3,
        "eval_samples": 2,
        "eval_strategy": "steps",
        "eval_steps": 3,
    }
    rows = toy_rows(BATCHES * 8 + 3 * 8, 2)  # a step of four batches, then one of three
    trainer = Seq2SeqTrainer(
        model, args=arguments(folder / name, **settings | changes), train_dataset=rows, eval_dataset=toy_rows(9, 1)
    )
    trainer.train(resume_from_checkpoint=True if resume else None)
    return trainer


def _check_that_nothing_is_left() -> None:
    """Fail if a process ends while threads of `torch.distributed` run, which sometimes aborts it."""
    if torch.distributed.is_initialized():
        os._exit(3)


def main() -> None:
    """All runs of two processes, one after another."""
    atexit.register(_check_that_nothing_is_left)  # after what training has registered
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    train(folder, "ddp", processes=2)
    train(folder, "ddp-fresh", processes=2, fresh_first=2)
    train(folder, "one-then-ddp", processes=2, resume=True)
    found = train(folder, "fsdp", processes=2, fsdp="full", ema_decay=0.5, predict_with_generate=True)
    scores = found.predict(toy_rows(9, 1)).predictions
    if found.world.first:
        (folder / "fsdp" / "predictions.txt").write_text("\n".join(scores))
    train(folder, "fsdp-cut", processes=2, fsdp="full", ema_decay=0.5, max_steps=2, lr_scheduler_type="constant")
    train(folder, "fsdp-cut", processes=2, fsdp="full", ema_decay=0.5, resume=True, lr_scheduler_type="constant")
    train(folder, "fsdp-to-one", processes=2, fsdp="full", max_steps=2, lr_scheduler_type="constant")
    train(folder, "one-to-fsdp", processes=2, fsdp="full", resume=True, lr_scheduler_type="constant")


if __name__ == "__main__":
    main()


__all__ = ["halves", "train"]
