"""Memory and time of training data of many pairs: tokenized into the cache, opened again, and put into batches.

    python benchmarks/data.py --pairs 5000000

Pairs are short texts of a made-up language, so that tokenizing takes minutes. Memory is anonymous memory (RssAnon of
/proc/self/status): what a process cannot give back, unlike pages of mapped files.
"""

import argparse
import json
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

WORDS = 1000
BATCHES = 200


def main() -> None:
    """Write the pairs, and measure in fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=300_000)
    parser.add_argument("--workers", type=int, default=1, help="processes that tokenize")
    parser.add_argument("--in-memory", action="store_true", help="without the cache, to compare")
    parser.add_argument("--folder", type=Path, help="where the files are written; a temporary folder by default")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args)))
        return
    folder = args.folder or Path(tempfile.mkdtemp())
    try:
        write_files(folder, args.pairs)
        options = ["--pairs", str(args.pairs), "--workers", str(args.workers), "--folder", str(folder), "--measure"]
        options += ["--in-memory"] if args.in_memory else []
        for name in ("first",) if args.in_memory else ("first", "again"):
            output = subprocess.run([sys.executable, __file__, *options], check=True, stdout=subprocess.PIPE).stdout
            line = {"question": "data", "process": name, "pairs": args.pairs, "workers": args.workers}
            print(
                json.dumps(line | {"machine": platform.processor() or platform.machine()} | json.loads(output)),
                flush=True,
            )
    finally:
        if args.folder is None:
            shutil.rmtree(folder)


def write_files(folder: Path, count: int) -> None:
    """Write tokenizers and pairs: sources of 4 to 20 words, targets of 2 to 10."""
    words = [f"w{number}" for number in range(WORDS)]
    for side in ("source", "target"):
        (folder / side).mkdir(parents=True, exist_ok=True)
        (folder / side / "vocab.txt").write_text(
            "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n"
        )
        (folder / side / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    draw = random.Random(0)
    with open(folder / "pairs.jsonl", "w") as file:
        for _ in range(count):
            source, target = draw.choices(words, k=draw.randint(4, 20)), draw.choices(words, k=draw.randint(2, 10))
            file.write(f'{{"source": "{" ".join(source)}", "target": "{" ".join(target)}"}}\n')


def anonymous_bytes() -> int:
    """Return this process's anonymous memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class Peak:
    """The highest anonymous memory while it is entered."""

    def __enter__(self) -> "Peak":
        self.bytes, self._is_over = anonymous_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._is_over.wait(0.01):
            self.bytes = max(self.bytes, anonymous_bytes())

    def __exit__(self, *_: Any) -> None:
        self._is_over.set()
        self._thread.join()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Tokenize or open the pairs, plan an epoch and make batches."""
    from conjoin import BertConfig, EncoderDecoderConfig, TrainingArguments
    from conjoin.join.pair import pair_spec
    from conjoin.tokenizer import AutoTokenizer, TokenizerPair
    from conjoin.training.data.arrays import batch_arrays, counted_labels, tokens_of
    from conjoin.training.data.batching import Plan, choose_batching
    from conjoin.training.data.datasets import Making, to_examples

    config = BertConfig(vocab_size=WORDS + 5)
    spec = pair_spec(EncoderDecoderConfig.from_encoder_decoder_configs(config, config))
    pair = TokenizerPair(*(AutoTokenizer.from_pretrained(args.folder / side) for side in ("source", "target")))
    settings = {"data_cache": False} if args.in_memory else {"data_cache_dir": str(args.folder / "cache")}
    arguments = TrainingArguments(tokens_per_batch=800, preprocessing_num_workers=args.workers, **settings)
    pair(["w1"], text_target=["w1"])
    before = anonymous_bytes()
    start, cpu = time.perf_counter(), time.process_time()
    with Peak() as peak:
        examples = to_examples(args.folder / "pairs.jsonl", "pairs", Making(arguments, spec, pair, keeps_texts=False))
        made_s, made_cpu_s = time.perf_counter() - start, time.process_time() - cpu
        start = time.process_time()
        batching = choose_batching(arguments, examples.lengths)
        plan = Plan(lengths=examples.lengths, batching=batching, sampling="group_by_length", seed=1, batches_per_step=1)
        batches = plan.epoch(0)
        planned_s = time.process_time() - start
        start = time.process_time()
        for batch in batches[:BATCHES]:
            batch_arrays(examples, batch, 0)
            counted_labels(examples, [batch])
            tokens_of(examples, [batch])
        step_s = (time.process_time() - start) / BATCHES
    after = anonymous_bytes()
    return {
        "seconds": round(made_s, 1),
        "cpu_seconds": round(made_cpu_s, 1),
        "pairs_per_cpu_second": round(args.pairs / made_cpu_s),
        "plan_cpu_seconds": round(planned_s, 2),
        "batches": len(batches),
        "batch_cpu_ms": round(1000 * step_s, 3),
        "bytes_per_pair": round((after - before) / args.pairs, 1),
        "peak_bytes_per_pair": round((peak.bytes - before) / args.pairs, 1),
    }


if __name__ == "__main__":
    main()
