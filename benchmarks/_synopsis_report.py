"""Score the models trained on the synopsis data, and write the page of results."""

import argparse
import datetime
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from _harness import machine
from _synopsis_contenders import SOURCE_TOKENS, TARGET_TOKENS, load
from _synopsis_precision import precision_lines

from conjoin import Seq2SeqTrainer, TrainingArguments
from conjoin.evaluation import Comparison, Measure, TextSettings, compare, estimate, generate_texts, measure_texts

Pairs = list[dict[str, str]]
METRICS = ("rouge1", "rouge2", "rougeL", "exact_match")
MODES: dict[str, dict[str, Any]] = {"greedy": {"num_beams": 1}, "beam 4": {"num_beams": 4}}
SHOWN = 5
"""Number of test pairs whose predictions are printed."""


def validation_loss(folder: Path, pairs: Pairs) -> float:
    """Return the loss per label (with the end token, without the start token), the same for every contender."""
    arguments = TrainingArguments(
        output_dir=str(folder / "evaluation"),
        max_source_length=SOURCE_TOKENS,
        max_target_length=TARGET_TOKENS,
        per_device_eval_batch_size=32,
        use_cpu=True,
        report_to="none",
    )
    rows = [{name: pair[name] for name in ("source", "target")} for pair in pairs]
    return Seq2SeqTrainer(load(folder), args=arguments, eval_dataset=rows).evaluate()["eval_loss"]


def judge(folder: Path, pairs: Pairs) -> None:
    """Write predictions for all pairs, in every mode, unless they exist already."""
    missing = [mode for mode in MODES if not _predictions_file(folder, mode, pairs).is_file()]
    if not missing:
        return
    model = load(folder)
    facts_file = folder / "evaluated.json"
    facts = json.loads(facts_file.read_text()) if facts_file.is_file() else {}
    facts |= {"parameters": model.num_parameters(), "test_loss": validation_loss(folder, pairs)}
    if folder.name == "transformers":
        facts["logits_differ_by"] = _logits_difference(folder, pairs[:8])
    for mode in missing:
        generation = {"max_new_tokens": TARGET_TOKENS, **MODES[mode]}
        settings = TextSettings(batch_size=32, max_source_length=SOURCE_TOKENS, generation=generation)
        start = time.process_time()
        texts = generate_texts(model, [pair["source"] for pair in pairs], settings)
        facts[f"{mode}_cpu_s"] = round(time.process_time() - start, 1)
        _predictions_file(folder, mode, pairs).write_text(json.dumps(texts, ensure_ascii=False, indent=0))
    facts_file.write_text(json.dumps(facts))


@torch.inference_mode()
def _logits_difference(folder: Path, pairs: Pairs) -> float:
    """Return the difference of logits between transformers' model and its checkpoint in conjoin, which predicts."""
    theirs, ours = transformers.EncoderDecoderModel.from_pretrained(folder / "model").eval(), load(folder)
    sources, targets = ([pair[side] for pair in pairs] for side in ("source", "target"))
    cut: dict[str, Any] = {"truncation": True, "max_length": SOURCE_TOKENS, "max_target_length": TARGET_TOKENS}
    batch: Any = ours.tokenizer(sources, text_target=targets, padding=True, return_tensors="pt", **cut)
    inputs: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    output: Any = ours(**inputs)
    return float((theirs(**inputs).logits - output.logits).abs().max())


def _predictions_file(folder: Path, mode: str, pairs: Pairs) -> Path:
    return folder / f"predictions-{mode.replace(' ', '')}-{len(pairs)}.json"


def _measures(folder: Path, mode: str, pairs: Pairs) -> list[Measure]:
    texts = json.loads(_predictions_file(folder, mode, pairs).read_text())
    return measure_texts(METRICS, texts, [pair["target"] for pair in pairs])


def write_results(
    out: Path, names: Sequence[str], pairs: Pairs, probes: Sequence[dict[str, Any]], args: argparse.Namespace
) -> Path:
    """Write the page of results for the models evaluated so far."""
    done = [name for name in names if all(_predictions_file(out / name, mode, pairs).is_file() for mode in MODES)]
    records = {name: json.loads((out / name / "trained.json").read_text()) for name in done}
    facts = {name: json.loads((out / name / "evaluated.json").read_text()) for name in done}
    measures = {(name, mode): _measures(out / name, mode, pairs) for name in done for mode in MODES}
    page = [
        "# Synopses from descriptions: MiniLM -> MiniLM by conjoin, beside random weights and transformers' trainer",
        "",
        _machine_line(),
        f"Test: {len(pairs)} pairs. Intervals: 95 %, bootstrap over the test pairs; p: paired bootstrap. "
        "Written by `benchmarks/synopsis.py evaluate`.",
        "",
        "```",
        *_commands(records, probes, len(pairs), args.machine),
        "```",
        "",
        *_scores_table(done, measures),
        "",
        *_seen_table(records, facts),
        "",
        *_comparisons(done, measures),
        *precision_lines(out / "ours", pairs),
        *_probe_table(probes),
        "",
        "Policies:",
        "",
        *(f"- {name}: `{json.dumps(record['policy'])}`" for name, record in records.items()),
        "",
        f"The first {min(SHOWN, len(pairs))} test pairs, beam 4:",
        "",
        *_samples(out, done, pairs),
    ]
    path = args.results / f"{datetime.date.today().isoformat()}_{args.machine}_synopsis.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(page).rstrip() + "\n", encoding="utf-8")
    return path


def _machine_line() -> str:
    facts = machine()
    return (
        f"Machine: {facts['cpu']}, {facts['cores']} cores, one thread per contender, bfloat16 with float32 weights; "
        f"torch {facts['torch']}, transformers {facts['transformers']}, Python {facts['python']}."
    )


def _commands(
    records: dict[str, dict[str, Any]], probes: Sequence[dict[str, Any]], tested: int, machine_name: str
) -> list[str]:
    lines: list[str] = []
    for name in dict.fromkeys(probe["name"] for probe in probes):
        mine = [probe for probe in probes if probe["name"] == name]
        rates = " ".join(f"{rate:g}" for rate in sorted(probe["rate"] for probe in mine))
        seconds = mine[0]["budget_cpu_s"]
        lines.append(
            f"python benchmarks/synopsis.py probe {name} --data DATA --budget-cpu-seconds {seconds:g} "
            f"--learning-rates {rates}"
        )
    lines += [
        f"python benchmarks/synopsis.py train {name} --data DATA --budget-cpu-seconds {record['budget_cpu_s']:g} "
        f"--learning-rate {record['rate']:g}"
        for name, record in records.items()
    ]
    return [*lines, f"python benchmarks/synopsis.py evaluate --data DATA --limit {tested} --machine {machine_name}"]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]


def _scores_table(names: Sequence[str], measures: dict[tuple[str, str], list[Measure]]) -> list[str]:
    rows: list[list[object]] = []
    for mode in MODES:
        for name in names:
            scores = (estimate(measure) for measure in measures[name, mode])
            rows.append([name, mode, *(f"{s.value:.2f} ({s.low:.2f} to {s.high:.2f})" for s in scores)])
    return _table(["contender", "decoding", "ROUGE-1", "ROUGE-2", "ROUGE-L", "exact match %"], rows)


def _seen_table(records: dict[str, dict[str, Any]], facts: dict[str, dict[str, Any]]) -> list[str]:
    keys = ("rate", "cpu_s", "wall_s", "steps", "pairs", "source_tokens", "target_tokens")
    rows = [
        [
            name,
            f"{facts[name]['parameters'] / 1e6:.1f} M",
            *(f"{record[key]:,}" if isinstance(record[key], int) else f"{record[key]:g}" for key in keys),
            f"{facts[name]['test_loss']:.3f}",
        ]
        for name, record in records.items()
    ]
    head = ["contender", "parameters", "learning rate", "CPU s", "wall s", "steps", "pairs seen"]
    note = "Loss is per token; SmolLM2 has other tokens than MiniLM, so its loss cannot be compared with the others."
    if "transformers" in facts:
        note += (
            " All predictions are made by conjoin; with transformers' checkpoint, its logits are within "
            f"{facts['transformers']['logits_differ_by']:.1g} of transformers' own."
        )
    return [*_table([*head, "source tokens", "target tokens", "test loss"], rows), "", note]


def _comparisons(names: Sequence[str], measures: dict[tuple[str, str], list[Measure]]) -> list[str]:
    """Return paired tests of our model against each other contender."""
    rows: list[list[object]] = []
    for other in names:
        if other == "ours" or "ours" not in names:
            continue
        for mode in MODES:
            for mine, theirs in zip(measures["ours", mode], measures[other, mode], strict=True):
                rows.append([f"ours - {other}", mode, mine.name, *_difference(compare(theirs, mine))])
    head = ["difference", "decoding", "metric", "by", "95 %", "p"]
    return [*_table(head, rows), ""] if rows else []


def _difference(row: Comparison) -> tuple[str, str, str]:
    return f"{row.difference:+.2f}", f"{row.low:+.2f} to {row.high:+.2f}", f"{row.p_value:.3f}"


def _probe_table(probes: Sequence[dict[str, Any]]) -> list[str]:
    if not probes:
        return ["No learning rates were probed."]
    seconds = ", ".join(sorted({f"{probe['budget_cpu_s']:g}" for probe in probes}))
    text = (
        f"Probed learning rates: {seconds} CPU seconds of training, then the loss of "
        f"{probes[0]['validation_pairs']} validation pairs. Random weights use our model's rate."
    )
    ordered = sorted(probes, key=lambda probe: (probe["name"], probe["rate"]))
    rows = [[p["name"], f"{p['rate']:g}", p["steps"], p["pairs"], f"{p['validation_loss']:.3f}"] for p in ordered]
    return [text, "", *_table(["contender", "learning rate", "steps", "pairs", "validation loss"], rows)]


def _samples(out: Path, names: Sequence[str], pairs: Pairs) -> list[str]:
    texts = {name: json.loads(_predictions_file(out / name, "beam 4", pairs).read_text()) for name in names}
    lines: list[str] = []
    for index, pair in enumerate(pairs[:SHOWN]):
        lines += [f"- reference: {pair['target']}", *(f"  - {name}: {texts[name][index]}" for name in names)]
    return lines
