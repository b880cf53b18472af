"""How fast is conjoin on a GPU, against transformers as it is, and with its static cache and torch.compile?

    python benchmarks/gpu.py                                  # everything, in eight minutes on one GPU
    python benchmarks/gpu.py --rows bart-base:b1 train --rounds 9
    python benchmarks/gpu.py --out benchmarks/results/DATE_MACHINE_gpu.md
    python benchmarks/gpu.py --device cpu --small             # tests the program, not the speed

All contenders have the same random weights. Tokens are compared in float32 before anything is timed, then all run in
bfloat16, in interleaved rounds in one process; the figure is the median of per-round ratios to the fastest peer.
Exactly 32 tokens are generated. Prints a line of JSON per row. transformers has no cross-attention for Llama, so
MiniLM -> SmolLM2 is compared with its own full passes, and timed alone. Rows that the time does not suffice for are
named. The exit code is 1 if a row failed or generated wrong tokens; being slow is not an error.
"""

import argparse
import contextlib
import json
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import _shapes as shapes
import torch
import transformers
from _harness import Timing, machine, race, ratio, report, scratch, spread
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from conjoin.torch import EncoderDecoderModel

NEW_TOKENS, LIMIT_S, NEAR_TIE = 32, 480.0, 1e-4
OURS, AGAIN = "conjoin", "conjoin, again"
PLAIN, STATIC, COMPILED = "transformers", "transformers, static cache, compiled", "transformers, compiled"
PAIRS = 16
"""Pairs of a training step: sources of up to 512 tokens, targets of up to 128."""
CHECKED = 8
"""Sources at most whose tokens are compared."""

Run = Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Generation, or one training step.

    Args:
        compiled: The compiled peer runs too; it compiles anew for each batch, number of beams and length.
    """

    shape: str
    work: Literal["generate", "train"] = "generate"
    batch: int = 1
    beams: int = 1
    source: int = 64
    compiled: bool = False

    @property
    def name(self) -> str:
        """Name of the row."""
        if self.work == "train":
            return f"{self.shape}:train"
        mode = f"-beam{self.beams}" if self.beams > 1 else ""
        return f"{self.shape}:b{self.batch}{mode}-s{self.source}"


MINILM_SMOLLM2 = "MiniLM-L6 -> SmolLM2-135M"
SHAPES = {"bert-base x bert-base": "tiny", "bart-base": "bart-tiny", MINILM_SMOLLM2: MINILM_SMOLLM2}
"""Shapes, and what replaces them with --small."""


def rows_of(shape: str) -> Iterator[Row]:
    """Yield the rows of a shape, the most telling first."""
    for batch, beams, source in (
        (1, 1, 64), (8, 1, 64), (128, 1, 64), (8, 4, 64), (128, 4, 512), (1, 4, 64),
        (128, 1, 512), (128, 4, 64), (1, 1, 512), (8, 1, 512), (8, 4, 512), (1, 4, 512),
    ):  # fmt: skip
        is_compiled = source == 64 and beams == 1 and shape != MINILM_SMOLLM2
        yield Row(shape=shape, batch=batch, beams=beams, source=source, compiled=is_compiled)
    yield Row(shape=shape, work="train", compiled=shape != MINILM_SMOLLM2)


@dataclass(slots=True)
class Setting:
    """How everything runs."""

    device: torch.device
    rounds: int
    is_small: bool
    compiles: bool

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of timed models."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def synchronised(self, run: Run) -> Run:
        """Return a run that waits for the device."""
        return run if self.device.type != "cuda" else lambda: (run(), torch.cuda.synchronize())


class Cast:
    """The models of one shape, in one dtype each, loaded once."""

    def __init__(self, shape: str, folder: Path, setting: Setting) -> None:
        self.setting, self.folder = setting, folder / "saved"
        self.has_peer = shape != MINILM_SMOLLM2
        if self.has_peer:
            shapes.save(SHAPES[shape] if setting.is_small else shape, folder / "made", lively=True)
            made = EncoderDecoderModel.from_pretrained(folder / "made")
        else:
            made = shapes.minilm_smollm2(is_small=setting.is_small)
        made.save_pretrained(self.folder)
        self.vocab_size = min(made.encoder.spec.vocab_size, made.decoder.spec.vocab_size)
        self.positions = made.encoder.spec.max_positions or 512
        self._made: dict[tuple[str, torch.dtype], Any] = {}

    def model(self, name: str, dtype: torch.dtype) -> Any:
        """Return a contender's model; compiled ones have weights of their own, and leave the plain one alone."""
        if (name, dtype) not in self._made:
            if name == OURS:
                model: Any = EncoderDecoderModel.from_pretrained(self.folder, dtype=dtype)
            else:
                model = AutoModelForSeq2SeqLM.from_pretrained(self.folder, dtype=dtype, attn_implementation="sdpa")
            model = model.to(self.setting.device).eval()
            if self.setting.compiles and name == COMPILED:
                model.forward = torch.compile(model.forward)
            elif self.setting.compiles and name == STATIC and not model._can_compile_fullgraph:
                # Where it can, generate compiles by itself, as soon as its cache is static.
                model.forward = torch.compile(model.forward, mode="reduce-overhead")
            self._made[name, dtype] = model
        return self._made[name, dtype]

    def ids(self, batch: int, length: int) -> Tensor:
        """Return random sources."""
        generator = torch.Generator().manual_seed(length * 100 + batch)
        length = min(length, self.positions)
        ids = torch.randint(self.vocab_size // 20, self.vocab_size // 2, (batch, length), generator=generator)
        return ids.to(self.setting.device)


def generate(model: Any, ids: Tensor, beams: int, **settings: Any) -> list[list[int]]:
    """Return the new tokens."""
    fixed = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "max_length": None, "num_beams": beams}
    with torch.inference_mode():
        return model.generate(ids, attention_mask=torch.ones_like(ids), **fixed, **settings)[:, 1:].tolist()


def measure_generation(row: Row, cast: Cast, setting: Setting) -> dict[str, Any]:
    """Compare tokens in float32, then race in the dtype of the setting."""
    tokens = compare_tokens(row, cast)
    ids = cast.ids(row.batch, row.source)
    settings: dict[str, dict[str, Any]] = {OURS: {}}
    if cast.has_peer:
        settings[PLAIN] = {}
    if row.compiled:
        settings[STATIC] = {"cache_implementation": "static", "disable_compile": not setting.compiles}
    runs: dict[str, Run] = {
        name: lambda name=name: generate(cast.model(name, setting.dtype), ids, row.beams, **settings[name])
        for name in settings
    }
    absent = drop_failing(runs)
    peaks = {name: peak_megabytes(run) for name, run in runs.items()} if setting.device.type == "cuda" else {}
    record = race_all(runs, setting)
    seconds: dict[str, list[float]] = record["seconds"]
    steps = {name: round(sorted(s)[len(s) // 2] / NEW_TOKENS * 1e3, 3) for name, s in seconds.items()}
    return {**record, "tokens": tokens, "ms_per_step": steps, "peak_mb": peaks, "absent_peers": absent}


def compare_tokens(row: Row, cast: Cast) -> dict[str, Any]:
    """Return the share of tokens that are transformers' in float32, and whether that is right."""
    ids = cast.ids(min(row.batch, CHECKED), row.source)
    ours = cast.model(OURS, torch.float32)
    actual = generate(ours, ids, row.beams)
    if cast.has_peer:
        expected = generate(cast.model(PLAIN, torch.float32), ids, row.beams)
        judge = cast.model(PLAIN, torch.float32)
    elif row.beams == 1:
        expected, judge = logits_of(ours, ids, actual).argmax(-1).tolist(), ours
    else:
        return {"compared_with": None, "right": all(len(line) == NEW_TOKENS for line in actual)}
    pairs = [pair for lines in zip(expected, actual, strict=True) for pair in zip(*lines, strict=True)]
    equal = sum(a == b for a, b in pairs) / len(pairs)
    gap = 0.0 if row.beams > 1 else widest_tie(judge, ids, expected, actual)
    right = equal == 1 or (row.beams == 1 and gap < NEAR_TIE)
    return {"compared_with": PLAIN if cast.has_peer else "full passes", "equal": round(equal, 4), "right": right}


def logits_of(model: Any, ids: Tensor, written: list[list[int]]) -> Tensor:
    """Return the logits of one full pass over these tokens, the end token forbidden as in generation."""
    start, end = model.config.decoder_start_token_id, model.config.eos_token_id
    target = torch.tensor([[start, *line[:-1]] for line in written], device=ids.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=target).logits.float()
        logits[..., end] = -torch.inf
    return logits


def widest_tie(judge: Any, ids: Tensor, expected: list[list[int]], actual: list[list[int]]) -> float:
    """Return the difference of logits where two outputs first differ; the largest over all sources."""
    logits, gaps = logits_of(judge, ids, expected), [0.0]
    for row, (theirs, ours) in enumerate(zip(expected, actual, strict=True)):
        at = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b), None)
        if at is not None:
            gaps.append(float((logits[row, at, theirs[at]] - logits[row, at, ours[at]]).abs()))
    return max(gaps)


def measure_training(cast: Cast, setting: Setting, *, compiled: bool) -> dict[str, Any]:
    """Compare losses without dropout in float32, then race steps of AdamW under autocast to bfloat16."""
    batch = training_batch(cast, setting)
    names = [OURS, *([PLAIN] if cast.has_peer else []), *([COMPILED] if compiled and setting.compiles else [])]
    with torch.no_grad():
        losses = {name: float(cast.model(name, torch.float32)(**batch).loss) for name in names if name != COMPILED}
    runs = {name: training_step(cast.model(name, torch.float32), batch, setting) for name in names}
    absent = drop_failing(runs)
    peaks = {name: peak_megabytes(run) for name, run in runs.items()} if setting.device.type == "cuda" else {}
    real = int(batch["attention_mask"].sum() + (batch["labels"] != -100).sum())
    record = race_all(runs, setting)
    rates = {name: round(real / sorted(s)[len(s) // 2], 1) for name, s in record["seconds"].items()}
    right = max(losses.values()) - min(losses.values()) < 1e-3 * max(losses.values())
    compared = {"compared_with": PLAIN if cast.has_peer else None, "losses": losses, "right": right}
    return {**record, "tokens": compared, "tokens_per_s": rates, "peak_mb": peaks, "absent_peers": absent}


def training_batch(cast: Cast, setting: Setting) -> dict[str, Tensor]:
    """Return pairs of natural lengths, padded."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(2, PAIRS, generator=generator)
    sizes = (4, 2) if setting.is_small else (250, 45)
    limits = (16, 8) if setting.is_small else (512, 128)
    lengths = [
        (mean * (0.5 * draw - 0.125).exp()).long().clamp(2, limit)
        for mean, draw, limit in zip(sizes, normal, limits, strict=True)
    ]
    masks = [torch.arange(int(each.max())) < each[:, None] for each in lengths]
    ids = [torch.randint(10, cast.vocab_size, mask.shape, generator=generator) for mask in masks]
    batch = {
        "input_ids": ids[0].masked_fill(~masks[0], 0),
        "attention_mask": masks[0].long(),
        "labels": ids[1].masked_fill(~masks[1], -100),
    }
    return {name: tensor.to(setting.device) for name, tensor in batch.items()}


def training_step(model: Any, batch: dict[str, Tensor], setting: Setting) -> Run:
    """Return a step: forward, backward and update."""
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=setting.device.type == "cuda")

    def step() -> None:
        model.train()
        with torch.autocast(setting.device.type, torch.bfloat16, enabled=setting.device.type == "cuda"):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()

    return step


def drop_failing(runs: dict[str, Run]) -> dict[str, str]:
    """Run each once, which also compiles; peers that cannot run leave, with the reason.

    Raises:
        RuntimeError, ValueError: conjoin cannot run.
    """
    absent: dict[str, str] = {}
    for name in list(runs):
        try:
            runs[name]()
        except Exception as error:
            if name == OURS:
                raise
            absent[name] = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
            del runs[name]
    return absent


def race_all(runs: dict[str, Run], setting: Setting) -> dict[str, Any]:
    """Race conjoin, itself again, and the peers; the ratio is to the fastest peer."""
    contenders = {name: setting.synchronised(run) for name, run in runs.items()}
    timings = race({**contenders, AGAIN: contenders[OURS]}, setting.rounds)
    peers = [name for name in runs if name != OURS]
    best = min(peers, key=lambda name: timings[name].median, default=None)
    figures: dict[str, Any] = {} if best is None else ratio(timings[best], timings[OURS])
    return {"best_peer": best, **figures, "peers": ratios(timings, peers), "seconds": seconds_of(timings)} | {
        "spread": spread(timings[OURS], timings[AGAIN])
    }


def ratios(timings: dict[str, Timing], peers: list[str]) -> dict[str, dict[str, float]]:
    """Return the ratio to every peer."""
    return {name: ratio(timings[name], timings[OURS]) for name in peers}


def seconds_of(timings: dict[str, Timing]) -> dict[str, list[float]]:
    """Return the seconds of every round."""
    return {name: [round(s, 5) for s in timing.seconds] for name, timing in timings.items()}


def peak_megabytes(run: Run) -> float:
    """Return the most memory that a run had allocated, the weights of all contenders included."""
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def measure(row: Row, cast: Cast, setting: Setting) -> dict[str, Any]:
    """Measure one row; an error becomes its result, so that other rows continue."""
    try:
        if row.work == "train":
            return measure_training(cast, setting, compiled=row.compiled)
        return measure_generation(row, cast, setting)
    except Exception as error:
        traceback.print_exc()
        return {"broke": f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"}


def main() -> int:
    """Measure the selected rows within the time."""
    args = parse()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.device(args.device)
    setting = Setting(device, args.rounds, args.small, device.type == "cuda" and not args.no_compile)
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    first = {"question": "gpu", "gpu": name, "rounds": args.rounds, "machine": machine()}
    report(first)
    start, lines = time.perf_counter(), list[dict[str, Any]]()
    for shape, rows in groupby(selected(args.rows), key=lambda row: row.shape):
        with scratch() as folder:
            cast = None
            for row in rows:
                print(f"# {row.name}", file=sys.stderr, flush=True)
                if time.perf_counter() - start > args.limit_s:
                    record: dict[str, Any] = {"skipped": f"the {args.limit_s:.0f} seconds are over"}
                else:
                    cast = cast or Cast(shape, folder, setting)
                    record = measure(row, cast, setting)
                lines.append({"row": row.name, **record})
                report(lines[-1])
                if args.out:
                    write_page(args.out, first, lines)
            del cast
            release()
    report({"seconds": round(time.perf_counter() - start, 1), "rows": len(lines)})
    return int(any("broke" in line or not line.get("tokens", {}).get("right", True) for line in lines))


def parse() -> Any:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=[""], metavar="PART", help="rows whose name contains one of these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="models of a few MB: test the program, not the speed")
    parser.add_argument("--no-compile", action="store_true", help="the static cache without torch.compile")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="seconds after which no row begins")
    parser.add_argument("--out", type=Path, help="file for a page of results, written row by row")
    return parser.parse_args()


def selected(parts: list[str]) -> list[Row]:
    """Return the rows whose names contain one of these texts."""
    return [row for shape in SHAPES for row in rows_of(shape) if any(part in row.name for part in parts)]


def release() -> None:
    """Free what the models of a shape took, compiled programs too."""
    with contextlib.suppress(AttributeError):
        torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def write_page(path: Path, first: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """Write machine, command, table and lines."""
    table = ["| row | ratio | quartiles | against | spread | tokens | verdict |", "| --- " * 7 + "|"]
    for line in lines:
        figure = f"{line['ratio']:.2f}x | {line['low']:.2f} - {line['high']:.2f}" if "ratio" in line else " | "
        right = {True: "right", False: "WRONG"}.get(line.get("tokens", {}).get("right"), "")
        state = line.get("broke") or line.get("skipped") or "; ".join(line.get("absent_peers", {}).values())
        cells = (line["row"], figure, line.get("best_peer") or "", str(line.get("spread", "")), right, state)
        table.append("| " + " | ".join(cells) + " |")
    command = shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]])
    raw = "\n".join(json.dumps(line, sort_keys=True) for line in (first, *lines))
    parts = (f"# GPU speed, {first['gpu']}", f"```\n{command}\n```", "\n".join(table), f"```\n{raw}\n```")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
