"""What can be done with a trained model: a smaller vocabulary, fewer layers, texts chosen by MBR, calibration.

    python benchmarks/after_training.py trim MODEL --data DATA
    python benchmarks/after_training.py shrink MODEL --data DATA --minutes 10
    python benchmarks/after_training.py mbr MODEL --data DATA --candidates 32
    python benchmarks/after_training.py calibrate MODEL --data DATA --minutes 10 --candidates 8 --pairs 1500

MODEL is what `train_minutes.py` saved (out/minutes/{task}/NAME/model), DATA its folder of pairs. Texts of the first
--limit sources (500) of --split (test) are written in beams of 4, in --precision, and scored as there; speed is greedy
search in batches of --batch-size (8), both models in turn in one process, the median of --rounds ratios.

- trim: `conjoin trim` to the tokens of the training pairs; parameters, speed, and how many texts stay the same.
- shrink: `conjoin shrink` to half the decoder layers, then `conjoin train --max-minutes N`; speed and scores of both.
- mbr: beams of 4 beside samples from which MBR chooses.
- calibrate: candidates of the first --pairs training pairs, then `conjoin train --calibrate --max-minutes N`.

One line of JSON each goes to stdout.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from _harness import race, ratio, report
from _synopsis_contenders import read_pairs
from train_minutes import BEAMS, METRICS, TARGET_TOKENS

from conjoin import EncoderDecoderModel
from conjoin.evaluation import MBR, TextSettings, generate_texts, measure_texts

BEAM_SEARCH: dict[str, Any] = {"num_beams": BEAMS}
GREEDY: dict[str, Any] = {"num_beams": 1}


def main() -> None:
    """Run the command line."""
    args = _parser().parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    report({"what": args.what, **args.run(args), "threads": args.threads, "precision": args.precision})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("model", type=Path)
    shared.add_argument("--data", type=Path, required=True, help="folder of {task}.{train,test}.jsonl.gz")
    shared.add_argument("--task", choices=list(METRICS), default="synopsis")
    shared.add_argument("--work", type=Path, default=Path("out/after"), help="folder of what is made")
    shared.add_argument("--limit", type=int, default=500, help="number of test pairs")
    shared.add_argument("--split", choices=("test", "validation"), default="test", help="of the pairs that are written")
    shared.add_argument("--batch-size", type=int, default=8)
    shared.add_argument("--rounds", type=int, default=5)
    shared.add_argument("--threads", type=int, default=2)
    shared.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    commands = parser.add_subparsers(required=True, dest="what")
    trim = commands.add_parser("trim", parents=[shared])
    trim.add_argument("--min-count", type=int, default=1, help="a token is kept that occurs so often")
    trim.set_defaults(run=run_trim)
    shrink = commands.add_parser("shrink", parents=[shared])
    mbr = commands.add_parser("mbr", parents=[shared])
    mbr.add_argument("--utility", default="rougeL")
    mbr.add_argument("--settings", type=json.loads, default={}, help="JSON: settings of the samples, as of generate")
    mbr.set_defaults(run=run_mbr)
    calibrate = commands.add_parser("calibrate", parents=[shared])
    calibrate.add_argument("--pairs", type=int, default=1500)
    for command, run in ((shrink, run_shrink), (calibrate, run_calibrate)):
        command.add_argument("--minutes", type=float, default=10)
        command.set_defaults(run=run)
    for command, number in ((mbr, 32), (calibrate, 8)):
        command.add_argument("--candidates", type=int, default=number)
    return parser


def run_trim(args: argparse.Namespace) -> dict[str, Any]:
    """Leave out the tokens that no training pair has."""
    out = args.work / "trimmed"
    texts = args.work / "texts.txt"
    pairs = read_pairs(args.data / f"{args.task}.train.jsonl.gz")
    texts.write_text("\n".join(text for pair in pairs for text in (pair["source"], pair["target"])), encoding="utf-8")
    count = ["--min-count", str(args.min_count)]
    _conjoin(args, "trim", str(args.model), "--texts", str(texts), *count, "--out", str(out), "--overwrite")
    before, after = _load(args, args.model), _load(args, out)
    sources = _sources(args)
    same = [
        one == other
        for one, other in zip(*(_write(args, model, sources, GREEDY) for model in (before, after)), strict=True)
    ]
    return {
        "min_count": args.min_count,
        "parameters": _change(_size(before), _size(after)),
        "speed": _race(args, before, after, sources),
        "same_texts": f"{sum(same)} of {len(same)}",
    }


def run_shrink(args: argparse.Namespace) -> dict[str, Any]:
    """Halve the decoder's layers, and train what is left."""
    before = _load(args, args.model)
    layers = before.spec.decoder.num_layers // 2
    small, out = args.work / "shrunk", args.work / "shrunk-trained"
    _conjoin(args, "shrink", str(args.model), "--decoder-layers", str(layers), "--out", str(small), "--overwrite")
    _train(args, out, "--model", str(small), "--train", str(args.data / f"{args.task}.train.jsonl.gz"))
    after, sources = _load(args, out), _sources(args)
    return {
        "decoder_layers": [before.spec.decoder.num_layers, layers],
        "minutes": args.minutes,
        "parameters": _change(_size(before), _size(after)),
        "speed": _race(args, before, after, sources),
        "before": _scores(args, _write(args, before, sources, BEAM_SEARCH)),
        "untrained": _scores(args, _write(args, _load(args, small), sources, BEAM_SEARCH)),
        "after": _scores(args, _write(args, after, sources, BEAM_SEARCH)),
    }


def run_mbr(args: argparse.Namespace) -> dict[str, Any]:
    """Choose among samples."""
    model, sources = _load(args, args.model), _sources(args)
    result: dict[str, Any] = {"candidates": args.candidates, "utility": args.utility, "settings": args.settings}
    chosen = MBR(num_candidates=args.candidates, utility=args.utility)
    settings = TextSettings(mbr=chosen, generation=_limited(args, args.settings), seed=1, batch_size=256)
    for name, write in {
        "beams": lambda: _write(args, model, sources, BEAM_SEARCH),
        "mbr": lambda: [*generate_texts(model, sources, settings)],
    }.items():
        start = time.monotonic()
        result[name] = {**_scores(args, write()), "write_s": round(time.monotonic() - start, 1)}
    return result


def run_calibrate(args: argparse.Namespace) -> dict[str, Any]:
    """Teach the model to prefer its better candidates."""
    train, candidates = args.work / "some.jsonl", args.work / "candidates.jsonl"
    out, number = args.work / "calibrated", str(args.candidates)
    with gzip.open(args.data / f"{args.task}.train.jsonl.gz", "rt", encoding="utf-8") as lines:
        train.write_text("".join(islice(lines, args.pairs)), encoding="utf-8")
    start = time.monotonic()
    groups = ["--num-beams", number, "--set", f"num_beam_groups={number}", "--set", "diversity_penalty=1.0"]
    asked = [*groups, "--num-return-sequences", number, "--max-new-tokens", str(TARGET_TOKENS[args.task])]
    _conjoin(args, "generate", str(args.model), "-i", str(train), "-o", str(candidates), *asked, "--overwrite")
    seconds = round(time.monotonic() - start, 1)
    _train(args, out, "--model", str(args.model), "--calibrate", str(candidates))
    sources = _sources(args)
    scores = {
        name: _scores(args, _write(args, _load(args, folder), sources, BEAM_SEARCH))
        for name, folder in {"before": args.model, "after": out}.items()
    }
    facts = {"candidates": args.candidates, "pairs": args.pairs, "minutes": args.minutes, "candidates_s": seconds}
    return {**facts, **scores}


def _conjoin(args: argparse.Namespace, *words: str) -> None:
    with (args.work / f"{args.what}.log").open("a", encoding="utf-8") as log:
        threads = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
        subprocess.run([sys.executable, "-m", "conjoin", *words], check=True, stdout=log, stderr=log, env=threads)


def _train(args: argparse.Namespace, out: Path, *words: str) -> None:
    minutes = ["--max-minutes", f"{args.minutes:g}"]
    _conjoin(args, "train", *words, "--out", str(out), *minutes, "--overwrite-output-dir")


def _load(args: argparse.Namespace, folder: Path) -> Any:
    return EncoderDecoderModel.from_pretrained(folder, dtype=getattr(torch, args.precision))


def _sources(args: argparse.Namespace) -> list[str]:
    return [pair["source"] for pair in read_pairs(args.data / f"{args.task}.{args.split}.jsonl.gz", args.limit)]


def _write(args: argparse.Namespace, model: Any, sources: Sequence[str], generation: dict[str, Any]) -> list[str]:
    settings = TextSettings(generation=_limited(args, generation), batch_size=args.batch_size)
    return [*generate_texts(model, sources, settings)]


def _limited(args: argparse.Namespace, generation: dict[str, Any]) -> dict[str, Any]:
    return {"max_new_tokens": TARGET_TOKENS[args.task], **generation}


def _race(args: argparse.Namespace, before: Any, after: Any, sources: Sequence[str]) -> dict[str, float]:
    some = sources[: 8 * args.batch_size]
    models = {"before": before, "after": after}
    timings = race(
        {name: lambda model=model: _write(args, model, some, GREEDY) for name, model in models.items()}, args.rounds
    )
    return ratio(timings["before"], timings["after"])


def _scores(args: argparse.Namespace, texts: Sequence[str]) -> dict[str, float]:
    targets = [pair["target"] for pair in read_pairs(args.data / f"{args.task}.{args.split}.jsonl.gz", args.limit)]
    return {m.name: round(float(m.value), 2) for m in measure_texts(METRICS[args.task], texts, targets)}


def _size(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _change(before: int, after: int) -> dict[str, Any]:
    return {"before": before, "after": after, "percent": round(100 * (after / before - 1), 1)}


if __name__ == "__main__":
    main()
