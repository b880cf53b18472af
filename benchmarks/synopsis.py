"""Real data: does MiniLM -> MiniLM, trained by conjoin, beat random weights and transformers' Trainer on equal budgets?

The task is to write a package's one-line synopsis from its description (35,782 training pairs, 2,000 test pairs).

    python benchmarks/synopsis.py probe ours transformers --data DATA    # learning rates, the same protocol for both
    python benchmarks/synopsis.py train ours --data DATA                 # one process per contender
    python benchmarks/synopsis.py train random --data DATA
    python benchmarks/synopsis.py train transformers --data DATA
    python benchmarks/synopsis.py train smollm2 --data DATA
    python benchmarks/synopsis.py evaluate --data DATA --machine epyc-zen4-2core

DATA is the folder of synopsis.{train,validation,test}.jsonl.gz. The budget is CPU time of the training process, which
has one thread: on a quiet core it equals wall time, and on a shared core all contenders get equally much. It counts
from the first step to the last, without loading, tokenizing and saving; nothing is evaluated during training. Learning
rates rise and fall with the share of the budget that is used.
"""

import argparse
import json
import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import _synopsis_contenders as contenders
import torch
import transformers
from _harness import report
from _synopsis_precision import judge_precisions
from _synopsis_report import judge, validation_loss, write_results

PROBED = (1e-4, 2e-4, 5e-4)


def main() -> None:
    """Run the command line."""
    args = _parser().parse_args()
    if not (args.data / "synopsis.train.jsonl.gz").is_file():
        raise SystemExit(f"{args.data}: no synopsis.train.jsonl.gz here; --data names the folder of the data set.")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--data", type=Path, required=True, help="folder of synopsis.*.jsonl.gz")
    shared.add_argument("--out", type=Path, default=Path("out/synopsis"))
    names = list(contenders.CONTENDERS)
    train = commands.add_parser("train", parents=[shared], help="train one contender")
    train.add_argument("name", choices=names)
    train.add_argument("--budget-cpu-seconds", type=float, default=1500)
    train.add_argument("--learning-rate", type=float, help="default: the best of the probes, or a fixed rate")
    train.add_argument("--limit", type=int, help="number of training pairs")
    train.set_defaults(run=_train)
    probe = commands.add_parser("probe", parents=[shared], help="choose learning rates by validation loss")
    probe.add_argument("name", choices=names, nargs="+")
    probe.add_argument("--budget-cpu-seconds", type=float, default=100)
    probe.add_argument("--learning-rates", type=float, nargs="+", default=list(PROBED))
    probe.add_argument("--pairs", type=int, default=500, help="number of validation pairs")
    probe.set_defaults(run=_probe, limit=None)
    evaluate = commands.add_parser("evaluate", parents=[shared], help="score the trained models and write the results")
    evaluate.add_argument("name", nargs="*", metavar="name", help="contenders; by default all that are trained")
    evaluate.add_argument("--limit", type=int, help="number of test pairs")
    evaluate.add_argument("--machine", default="cpu", help="short name of the machine, for the file of results")
    evaluate.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder of results")
    evaluate.set_defaults(run=_evaluate)
    return parser


def _job(args: argparse.Namespace, out: Path, rate: float) -> contenders.Job:
    return contenders.Job(
        data=args.data,
        work=args.out / "checkpoints",
        out=out,
        rate=rate,
        budget_s=args.budget_cpu_seconds,
        limit=args.limit,
    )


def _train(args: argparse.Namespace) -> None:
    name = args.name
    rate = args.learning_rate or _best_rate(args.out, "ours" if name == "random" else name)
    report(contenders.train(name, _job(args, args.out / name, rate)))


def _probe(args: argparse.Namespace) -> None:
    for name in args.name:
        for rate in args.learning_rates:
            out = args.out / "probes" / f"{name}-{rate:g}"
            record = contenders.train(name, _job(args, out, rate))
            pairs = contenders.read_pairs(args.data / "synopsis.validation.jsonl.gz", args.pairs)
            record |= {"validation_pairs": len(pairs), "validation_loss": validation_loss(out, pairs)}
            (out / "probe.json").write_text(json.dumps(record))
            report({key: record[key] for key in ("name", "rate", "steps", "pairs", "cpu_s", "validation_loss")})


def _best_rate(out: Path, name: str) -> float:
    """Return the learning rate with the lowest validation loss."""
    probes = [probe for probe in read_probes(out) if probe["name"] == name]
    return min(probes, key=lambda probe: probe["validation_loss"])["rate"] if probes else contenders.RATES[name]


def read_probes(out: Path) -> list[dict[str, Any]]:
    """Return the records of the probes."""
    return [json.loads(path.read_text()) for path in sorted((out / "probes").glob("*/probe.json"))]


def _evaluate(args: argparse.Namespace) -> None:
    every = [name for name in contenders.CONTENDERS if (args.out / name / "trained.json").is_file()]
    pairs = contenders.read_pairs(args.data / "synopsis.test.jsonl.gz", args.limit)
    for name in args.name or every:
        if name not in every:
            raise SystemExit(f"{name} is not trained yet: python benchmarks/synopsis.py train {name} ...")
        judge(args.out / name, pairs)
    if "ours" in (args.name or every):
        judge_precisions(args.out / "ours", pairs)
    path = write_results(args.out, every, pairs, read_probes(args.out), args)
    report({"results": str(path)})


if __name__ == "__main__":
    main()
