"""What float32 weights lose as bfloat16 or 8 bits, on a model that learned something: scores and texts side by side."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _synopsis_contenders import SOURCE_TOKENS, TARGET_TOKENS, load

from conjoin import EncoderDecoderModel
from conjoin.evaluation import TextSettings, compare, generate_texts, measure_texts

Pairs = list[dict[str, str]]
PRECISIONS: dict[str, Callable[[EncoderDecoderModel], EncoderDecoderModel]] = {
    "float32": lambda model: model,
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "int8": lambda model: model.quantize("int8"),
}
ALLOWED = 0.3
"""Points of ROUGE-L that another precision may differ from float32 by."""


def judge_precisions(folder: Path, pairs: Pairs) -> None:
    """Write greedy predictions in every precision, where they are not there yet."""
    for name, change in PRECISIONS.items():
        file = _file(folder, name, pairs)
        if file.is_file():
            continue
        model = change(load(folder))
        settings = TextSettings(
            batch_size=32, max_source_length=SOURCE_TOKENS, generation={"max_new_tokens": TARGET_TOKENS, "num_beams": 1}
        )
        start = time.process_time()
        texts = generate_texts(model, [pair["source"] for pair in pairs], settings)
        made = {"texts": texts, "cpu_s": round(time.process_time() - start, 1)}
        file.write_text(json.dumps(made, ensure_ascii=False, indent=0))


def precision_lines(folder: Path, pairs: Pairs) -> list[str]:
    """A table of them, greedy; nothing where they are not judged."""
    if not all(_file(folder, name, pairs).is_file() for name in PRECISIONS):
        return []
    made = {name: json.loads(_file(folder, name, pairs).read_text()) for name in PRECISIONS}
    references = [pair["target"] for pair in pairs]
    measures = {name: measure_texts(("rougeL",), one["texts"], references)[0] for name, one in made.items()}
    lines = [
        "Ours in other precisions, greedy:",
        "",
        "| weights | ROUGE-L, difference from float32 | 95 % | same texts | CPU s | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in made.items():
        found = compare(measures["float32"], measures[name])
        same = sum(a == b for a, b in zip(one["texts"], made["float32"]["texts"], strict=True)) / len(pairs)
        verdict = "within" if abs(found.difference) <= ALLOWED else "outside"
        interval = f"{found.low:+.2f} to {found.high:+.2f}"
        cells = (name, f"{found.difference:+.2f}", interval, f"{same:.1%}", f"{one['cpu_s']:g}", f"{verdict} {ALLOWED}")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _file(folder: Path, name: str, pairs: Pairs) -> Path:
    return folder / f"predictions-{name}-{len(pairs)}.json"
