"""Is the second model better than the first on the same pairs, or was it luck?

python examples/compare.py out/first out/second test.jsonl
"""

import sys

from conjoin import EncoderDecoderModel
from conjoin.evaluation import evaluate
from conjoin.texts.pairs import Columns
from conjoin.training import read_pairs


def main(first: str, second: str, data: str) -> None:
    """Two evaluations and a test for each metric."""
    pairs = read_pairs(data, Columns())
    models = (EncoderDecoderModel.from_pretrained(name) for name in (first, second))
    one, other = (evaluate(model, pairs.sources, pairs.targets, metrics="bleu,chrf,exact_match") for model in models)
    for row in one.compare(other, method="randomisation"):
        print(f"{row.name:<16}{row.first:8.2f} {row.second:8.2f}   p = {row.p_value:.3f}   better: {row.better or '-'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
