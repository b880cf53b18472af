"""Real data: does MiniLM -> MiniLM, trained by conjoin, beat random weights and transformers' trainer on one budget?

The task is to write a package's one-line synopsis from its description (35,782 training pairs, 2,000 test pairs).

    python benchmarks/synopsis.py probe ours transformers --data DATA    # learning rates, the same protocol for both
    python benchmarks/synopsis.py train ours --data DATA                 # one process per contender
    python benchmarks/synopsis.py train random --data DATA
    python benchmarks/synopsis.py train transformers --data DATA
    python benchmarks/synopsis.py train smollm2 --data DATA
    python benchmarks/synopsis.py evaluate --data DATA --machine epyc-zen4-2core

DATA is the folder of synopsis.{train,validation,test}.jsonl.gz. The budget is CPU time of the training process, which
has one thread: on a quiet core it is wall time, and on a shared one everybody gets as much. It counts from the first
step to the last; loading, tokenizing and saving are outside for all alike, and nothing is evaluated during training.
Learning rates rise and fall by the share of the budget that is used.
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
    """Do what the command line says."""
    asked = _parser().parse_args()
    if not (asked.data / "synopsis.train.jsonl.gz").is_file():
        raise SystemExit(f"{asked.data}: no synopsis.train.jsonl.gz here; --data names the folder of the data set.")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    asked.run(asked)


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
    train.add_argument("--learning-rate", type=float, help="the best of the probes, or a default")
    train.add_argument("--limit", type=int, help="training pairs")
    train.set_defaults(run=_train)
    probe = commands.add_parser("probe", parents=[shared], help="choose learning rates by validation loss")
    probe.add_argument("name", choices=names, nargs="+")
    probe.add_argument("--budget-cpu-seconds", type=float, default=100)
    probe.add_argument("--learning-rates", type=float, nargs="+", default=list(PROBED))
    probe.add_argument("--pairs", type=int, default=500, help="validation pairs")
    probe.set_defaults(run=_probe, limit=None)
    evaluate = commands.add_parser("evaluate", parents=[shared], help="score what is trained and write the results")
    evaluate.add_argument("name", nargs="*", metavar="name", help="all that are trained, by default")
    evaluate.add_argument("--limit", type=int, help="test pairs")
    evaluate.add_argument("--machine", default="cpu", help="a short name for the file of results")
    evaluate.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder of results")
    evaluate.set_defaults(run=_evaluate)
    return parser


def _job(asked: argparse.Namespace, out: Path, rate: float) -> contenders.Job:
    return contenders.Job(
        data=asked.data,
        work=asked.out / "checkpoints",
        out=out,
        rate=rate,
        budget_s=asked.budget_cpu_seconds,
        limit=asked.limit,
    )


def _train(asked: argparse.Namespace) -> None:
    name = asked.name
    rate = asked.learning_rate or _best_rate(asked.out, "ours" if name == "random" else name)
    report(contenders.train(name, _job(asked, asked.out / name, rate)))


def _probe(asked: argparse.Namespace) -> None:
    for name in asked.name:
        for rate in asked.learning_rates:
            out = asked.out / "probes" / f"{name}-{rate:g}"
            record = contenders.train(name, _job(asked, out, rate))
            pairs = contenders.read_pairs(asked.data / "synopsis.validation.jsonl.gz", asked.pairs)
            record |= {"validation_pairs": len(pairs), "validation_loss": validation_loss(out, pairs)}
            (out / "probe.json").write_text(json.dumps(record))
            report({key: record[key] for key in ("name", "rate", "steps", "pairs", "cpu_s", "validation_loss")})


def _best_rate(out: Path, name: str) -> float:
    """The learning rate with the lowest validation loss."""
    probes = [probe for probe in read_probes(out) if probe["name"] == name]
    return min(probes, key=lambda probe: probe["validation_loss"])["rate"] if probes else contenders.RATES[name]


def read_probes(out: Path) -> list[dict[str, Any]]:
    """What the probes came to."""
    return [json.loads(path.read_text()) for path in sorted((out / "probes").glob("*/probe.json"))]


def _evaluate(asked: argparse.Namespace) -> None:
    every = [name for name in contenders.CONTENDERS if (asked.out / name / "trained.json").is_file()]
    pairs = contenders.read_pairs(asked.data / "synopsis.test.jsonl.gz", asked.limit)
    for name in asked.name or every:
        if name not in every:
            raise SystemExit(f"{name} is not trained yet: python benchmarks/synopsis.py train {name} ...")
        judge(asked.out / name, pairs)
    if "ours" in (asked.name or every):
        judge_precisions(asked.out / "ours", pairs)
    path = write_results(asked.out, every, pairs, read_probes(asked.out), asked)
    report({"results": str(path)})


if __name__ == "__main__":
    main()
