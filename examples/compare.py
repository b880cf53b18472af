"""Test whether the second model is significantly better than the first on the same pairs.

python examples/compare.py out/first out/second test.jsonl
"""

import sys

from conjoin import EncoderDecoderModel
from conjoin.evaluation import evaluate
from conjoin.texts.pairs import Columns
from conjoin.training import read_pairs


def main(first: str, second: str, data: str) -> None:
    """Evaluate both models and print a significance test for each metric."""
    pairs = read_pairs(data, Columns())
    models = (EncoderDecoderModel.from_pretrained(name) for name in (first, second))
    metrics = "bleu,chrf,exact_match"
    scores = [evaluate(model, pairs.sources, pairs.targets, metrics=metrics) for model in models]
    for row in scores[0].compare(scores[1], method="randomisation"):
        print(f"{row.name:<16}{row.first:8.2f} {row.second:8.2f}   p = {row.p_value:.3f}   better: {row.better or '-'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
