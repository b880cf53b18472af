"""How fast is training, against transformers' Seq2SeqTrainer on the same weights, pairs, batch size and optimizer?

    python benchmarks/train.py [--shapes ...] [--kinds fp32 bf16] [--tasks natural short] [--rounds 3] [--quick]

Prints one JSON line per shape, dtype and task, in real tokens per second. Before anything is timed, both train the same
model without dropout on the same batches, and the resulting weights are compared. bf16 is autocast over float32 weights
on both sides.
"""

import argparse
import itertools
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import _shapes as shapes
import numpy as np
import torch
import transformers
from _harness import Timing, floors, machine, ratio, report, scratch
from torch import Tensor, nn

from conjoin import EncoderDecoderModel, Seq2SeqTrainer, TrainingArguments

BATCH, SAME_STEPS = 8, 2
LARGEST_DIFFERENCE = {"fp32": 0.02, "bf16": 0.5}
"""Largest relative difference of the steps. AdamW's first steps are signs of gradients; rounding flips small ones."""
SMALL, LARGE = "MiniLM-L6 x MiniLM-L6", "bert-base x bert-base"
Kind = Literal["fp32", "bf16"]
Row = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Lengths:
    """A log-normal distribution of lengths: mean, standard deviation of the logarithm, maximum."""

    mean: float
    spread: float
    longest: int

    def draw(self, random: np.random.Generator) -> int:
        """Draw a length."""
        length = random.lognormal(np.log(self.mean) - self.spread**2 / 2, self.spread)
        return int(np.clip(length, 4, self.longest))


TASKS = {
    "natural": (Lengths(250, 0.5, 512), Lengths(45, 0.5, 128)),
    "short": (Lengths(28, 0.5, 128), Lengths(28, 0.5, 128)),
}
"""Lengths of sources and targets, as of texts and summaries (natural) and of sentences and translations (short)."""


@dataclass(frozen=True, slots=True)
class Work:
    """A training task: the model's folder, the rows and the dtype."""

    folder: Path
    rows: list[Row]
    kind: Kind
    start: str = "start"

    @property
    def tokens(self) -> int:
        """Tokens of sources and targets, without padding."""
        return sum(len(row["input_ids"]) + len(row["labels"]) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a run."""

    seconds: float
    loss: float
    folder: Path


def main() -> None:
    """Race over shapes, kinds and tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=[SMALL, LARGE])
    parser.add_argument("--kinds", nargs="*", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--tasks", nargs="*", default=["natural"], choices=list(TASKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--contenders", nargs="*", choices=CONTENDERS, default=[*CONTENDERS], help="fewer, for more rounds"
    )
    parser.add_argument("--quick", action="store_true", help="the small shape, natural lengths, 24 pairs, two rounds")
    args = parser.parse_args()
    if args.quick:
        args.shapes, args.kinds, args.tasks = [SMALL], ["fp32", "bf16"], ["natural"]
        args.pairs, args.rounds = 24, 2
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    report({"question": "train", "machine": machine(), "floors": floors()})
    for shape in args.shapes:
        with scratch() as folder:
            vocab_size = shapes.save(shape, folder / "start").get_output_embeddings().weight.shape[0]
            _without_dropout(folder / "start", folder / "exact")
            for kind, task in itertools.product(args.kinds, args.tasks):
                setting = {"shape": shape, "kind": kind, "task": task, "pairs": args.pairs}
                work = Work(folder, pairs(task, args.pairs, vocab_size), kind)
                report(setting | _race(work, args.rounds, args.contenders))


def _without_dropout(folder: Path, copy: Path) -> None:
    """Copy a model without dropout, whose training is deterministic: for comparing results, not for timing."""
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    for part in (config, *(config[half] for half in ("encoder", "decoder") if half in config)):
        part |= {name: 0.0 for name in part if "dropout" in name and name != "classifier_dropout"}
    (copy / "config.json").write_text(json.dumps(config))


def pairs(task: str, count: int, vocab_size: int) -> list[Row]:
    """Return rows of random ids, with the lengths of a task."""
    random = np.random.default_rng(0)
    rows: list[Row] = []
    for _ in range(count):
        source, target = (random.integers(10, vocab_size, lengths.draw(random)).tolist() for lengths in TASKS[task])
        rows.append({"input_ids": source, "attention_mask": [1] * len(source), "labels": target})
    return rows


def _race(work: Work, rounds: int, names: list[str]) -> dict[str, Any]:
    """Run interleaved rounds, each an epoch over the same pairs from the same weights."""
    same = _compare(Work(work.folder, work.rows[: SAME_STEPS * BATCH], work.kind, "exact"))
    timings = {name: Timing(name) for name in names if work.kind == "bf16" or name != "transformers fp32"}
    for index in range(rounds):
        for name in list(timings)[:: 1 if index % 2 else -1]:
            timings[name].seconds.append(CONTENDERS[name](work).seconds)
    ours = {name: timing for name, timing in timings.items() if name.startswith("conjoin")}
    return same | {
        "tokens_per_s": {name: round(work.tokens / timing.median, 1) for name, timing in timings.items()},
        "seconds": {name: [round(s, 2) for s in timing.seconds] for name, timing in timings.items()},
        "against": {
            name: {other: ratio(timing, mine) for other, timing in timings.items() if other not in ours}
            for name, mine in ours.items()
        },
    }


def _budget(work: Work) -> int:
    """Return the tokens per batch for `BATCH` pairs on average; the longest pair must fit."""
    longest = max(len(row["input_ids"]) + len(row["labels"]) for row in work.rows)
    return max(longest, BATCH * work.tokens // len(work.rows))


def _compare(work: Work) -> dict[str, Any]:
    """Train both on the same batches in the same order, and compare loss and weights.

    Raises:
        SystemExit: the weights differ, so there is nothing to time.
    """
    sequential = {"train_sampling_strategy": "sequential"}
    theirs, ours = (run(work, keep=True, **sequential) for run in (_theirs, _ours))
    before, expected, actual = (_weights(folder) for folder in (work.folder / work.start, theirs.folder, ours.folder))
    difference = sum(float((expected[name] - actual[name]).square().sum()) for name in before) ** 0.5
    change = sum(float((expected[name] - before[name]).square().sum()) for name in before) ** 0.5
    result = {"steps_differ_by": round(difference / change, 5), "losses": [round(theirs.loss, 5), round(ours.loss, 5)]}
    if difference > LARGEST_DIFFERENCE[work.kind] * change or abs(theirs.loss / ours.loss - 1) > 0.01:
        raise SystemExit(f"Both sides trained, but not to the same weights: {result}")
    return result


def _weights(folder: Path) -> dict[str, Tensor]:
    """Load weights with transformers, in float64, without the pooler, which is neither used nor trained."""
    state = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).state_dict()
    return {name: w.double() for name, w in state.items() if w.is_floating_point() and ".pooler." not in name}


def _theirs(work: Work, *, keep: bool = False, **changes: Any) -> Trained:
    """Train an epoch with transformers."""
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(work.folder / work.start)
    settings = transformers.Seq2SeqTrainingArguments(
        output_dir=str(work.folder / "theirs"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        use_cpu=True,
        bf16=work.kind == "bf16",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        dataloader_pin_memory=False,
        optim="adamw_torch_fused",
        **changes,
    )
    trainer = transformers.Seq2SeqTrainer(model=model, args=settings, train_dataset=work.rows, data_collator=_collate)
    out = trainer.train()
    if keep:
        model.save_pretrained(work.folder / "theirs")
    return Trained(out.metrics["train_runtime"], out.training_loss, work.folder / "theirs")


def _collate(rows: list[Row]) -> dict[str, Tensor]:
    """Pad dynamically, as DataCollatorForSeq2Seq does."""
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        name: nn.utils.rnn.pad_sequence([torch.tensor(row[name]) for row in rows], True, value)
        for name, value in fill.items()
    }


def _ours(work: Work, *, keep: bool = False, **changes: Any) -> Trained:
    """Train an epoch with conjoin."""
    model = EncoderDecoderModel.from_pretrained(work.folder / work.start)
    settings = TrainingArguments(
        output_dir=str(work.folder / "ours"),
        overwrite_output_dir=True,
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        use_cpu=True,
        bf16=work.kind == "bf16",
        doctor=False,
        report_to="none",
        save_strategy="no",
        **changes,
    )
    out = Seq2SeqTrainer(model, args=settings, train_dataset=work.rows).train()
    if keep:
        model.save_pretrained(work.folder / "ours-weights", untied=True)
    return Trained(out.metrics["train_runtime"], out.training_loss, work.folder / "ours-weights")


CONTENDERS: dict[str, Callable[[Work], Trained]] = {
    "transformers": _theirs,
    "transformers, grouped": lambda work: _theirs(work, train_sampling_strategy="group_by_length"),
    "transformers fp32": lambda work: _theirs(Work(work.folder, work.rows, "fp32")),
    "conjoin": _ours,
    "conjoin, by tokens": lambda work: _ours(work, tokens_per_batch=_budget(work)),
}
"""The contenders; transformers in float32 only races against bfloat16."""


if __name__ == "__main__":
    main()
