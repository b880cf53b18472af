"""How fast is generate, against transformers on the same weights, ids and settings?

    python benchmarks/generate.py [--shapes ...] [--rounds 5] [--sources 64 512] [--batches 1 8] [--quick]

Prints one JSON line per setting. Tokens are compared before anything is timed; both sides generate exactly 32 tokens.
"""

import argparse
import itertools
import warnings
from typing import Any

import _shapes as shapes
import torch
from _harness import floors, machine, race, ratio, report, scratch

from conjoin.torch import EncoderDecoderModel

NEW_TOKENS = 32
MODES = {"greedy": {}, "beam 4": {"num_beams": 4}}


def main() -> None:
    """Run the selected settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=list(shapes.SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sources", type=int, nargs="*", default=[64, 512])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one small shape, three rounds")
    args = parser.parse_args()
    if args.quick:
        args.shapes, args.rounds = ["MiniLM-L6 x MiniLM-L6"], 3
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    report({"question": "generate", "machine": machine(), "floors": floors()})
    for shape in args.shapes:
        with scratch() as folder:
            theirs = shapes.save(shape, folder)
            ours = EncoderDecoderModel.from_pretrained(folder)
        for source, batch, mode in itertools.product(args.sources, args.batches, MODES):
            report(
                {"shape": shape, "source": source, "batch": batch, "mode": mode}
                | _measure(theirs, ours, source, batch, MODES[mode], args.rounds)
            )


def _measure(theirs: Any, ours: Any, source: int, batch: int, mode: dict[str, Any], rounds: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(source * 100 + batch)
    ids = torch.randint(1000, 20000, (batch, source), generator=generator)
    fixed = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "max_length": None, **mode}
    mask = torch.ones_like(ids)
    inputs = {"attention_mask": mask, **fixed}
    with torch.inference_mode():
        expected, actual = theirs.generate(ids, **inputs), ours.generate(ids, **inputs)
        same = float((expected == actual).float().mean()) if expected.shape == actual.shape else 0.0
        timings = race(
            {"transformers": lambda: theirs.generate(ids, **inputs), "conjoin": lambda: ours.generate(ids, **inputs)},
            rounds,
        )
    tokens = batch * NEW_TOKENS
    return {
        "tokens_equal": same,
        **ratio(timings["transformers"], timings["conjoin"]),
        "tokens_per_s": {name: round(tokens / t.median, 1) for name, t in timings.items()},
        "ms_per_step": {name: round(t.median / NEW_TOKENS * 1000, 2) for name, t in timings.items()},
    }


if __name__ == "__main__":
    main()
