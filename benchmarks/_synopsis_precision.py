"""The loss of quality from bfloat16 or 8-bit weights, on a trained model: scores and equal texts."""

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
"""Largest acceptable difference of ROUGE-L between another precision and float32."""


def judge_precisions(folder: Path, pairs: Pairs) -> None:
    """Write greedy predictions in every precision, unless they exist already."""
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
        record = {"texts": texts, "cpu_s": round(time.process_time() - start, 1)}
        file.write_text(json.dumps(record, ensure_ascii=False, indent=0))


def precision_lines(folder: Path, pairs: Pairs) -> list[str]:
    """Return a table of the precisions, greedy; no lines if predictions are missing."""
    if not all(_file(folder, name, pairs).is_file() for name in PRECISIONS):
        return []
    records = {name: json.loads(_file(folder, name, pairs).read_text()) for name in PRECISIONS}
    references = [pair["target"] for pair in pairs]
    measures = {name: measure_texts(("rougeL",), record["texts"], references)[0] for name, record in records.items()}
    lines = [
        "Ours in other precisions, greedy:",
        "",
        "| weights | ROUGE-L, difference from float32 | 95 % | same texts | CPU s | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, record in records.items():
        row = compare(measures["float32"], measures[name])
        same = sum(a == b for a, b in zip(record["texts"], records["float32"]["texts"], strict=True)) / len(pairs)
        verdict = f"{'within' if abs(row.difference) <= ALLOWED else 'outside'} {ALLOWED}"
        interval = f"{row.low:+.2f} to {row.high:+.2f}"
        cells = (name, f"{row.difference:+.2f}", interval, f"{same:.1%}", f"{record['cpu_s']:g}", verdict)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _file(folder: Path, name: str, pairs: Pairs) -> Path:
    return folder / f"predictions-{name}-{len(pairs)}.json"
