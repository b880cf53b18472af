"""report.html of a run: curves, samples and attention in one file without external resources."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from conjoin.checkpoint import replacing_file
from conjoin.errors import FileError
from conjoin.training.folder.metrics_log import is_number, read_log
from conjoin.training.report import attention
from conjoin.training.report.charts import Series, heat_map, line_chart
from conjoin.training.report.page import page, sample_card, section, tiles

FILE = "report.html"
NOT_VALUES = ("step", "epoch", "time_s", "kind")
SHOWN_PREDICTIONS = 12
"""Maximum predictions shown of one sample: the first, the last and some between."""

Lines = Sequence[Mapping[str, Any]]


def write_report(run_folder: str | PathLike[str]) -> Path:
    """Write a run's report.html from its metrics.jsonl and attention.json.

    Returns:
        The report's path.

    Raises:
        FileError: the folder has no metrics.jsonl, it or attention.json is damaged, or the report cannot be written.
    """
    folder = Path(run_folder)
    lines = list(read_log(folder))
    if not lines:
        raise FileError(f"{folder}: no metrics.jsonl with a line in it, so there is nothing to report.")
    of_kind: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        of_kind[line.get("kind", "")].append(line)
    title = folder.resolve().name
    sections = (
        tiles(_facts(lines, of_kind["eval"])),
        section("Curves", _charts(of_kind["train"], of_kind["eval"])),
        section("Samples", _samples(of_kind["sample"])),
        section("What the decoder reads", _attention(folder / attention.FILE)),
    )
    with replacing_file(folder / FILE) as file:
        file.write(page(title, "A conjoin training run.", sections))
    return folder / FILE


def _facts(lines: Lines, evaluations: Lines) -> list[tuple[str, str]]:
    last = lines[-1]
    facts = [("steps", f"{last['step']:,}"), ("epochs", f"{last.get('epoch') or 0:.2f}")]
    facts.append(("training time", _duration(max(line.get("time_s") or 0 for line in lines))))
    values: Mapping[str, Any] = evaluations[-1] if evaluations else {}
    facts += [
        (_plain(name), f"{value:.4f}")
        for name, value in values.items()
        if name not in NOT_VALUES and is_number(value) and not _is_timing(name)
    ]
    return facts[:10]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes >= 10 else f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"


def _charts(training: Lines, evaluations: Lines) -> str:
    trained, evaluated = _series(training, dots=False), _series(evaluations, dots=True)
    loss = [_named("training", trained.pop("loss", None)), _named("validation", evaluated.pop("loss", None))]
    groups: dict[str, list[Series]] = {"loss": [each for each in loss if each is not None]}
    for name, series in {**evaluated, **trained}.items():
        groups.setdefault(_group(name), []).append(Series(_plain(name), series.points, series.dots))
    charts = [line_chart(title, series[:6], log=title == "loss") for title, series in groups.items() if series]
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _series(lines: Lines, *, dots: bool) -> dict[str, Series]:
    """Return every number of these lines over steps, without the prefix `eval_`."""
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in lines:
        for name, value in line.items():
            if name not in NOT_VALUES and is_number(value) and not _is_timing(name):
                points[name.removeprefix("eval_")].append((line["step"], value))
    return {name: Series(name, values, dots) for name, values in points.items()}


def _named(name: str, series: Series | None) -> Series | None:
    return None if series is None else Series(name, series.points, series.dots)


def _group(name: str) -> str:
    """Return the chart that a number belongs to."""
    if name.startswith("lr"):
        return "learning rate"
    return "ROUGE" if name.startswith("rouge") else _plain(name)


def _plain(name: str) -> str:
    names = {"eval_loss": "validation loss", "tokens_per_s": "tokens per second", "grad_norm": "gradient norm"}
    plain = names.get(name, name.removeprefix("eval_").removeprefix("lr_"))
    return plain.replace("_", " ")


def _is_timing(name: str) -> bool:
    """True if a number describes the machine rather than the model."""
    return "runtime" in name or "per_second" in name


def _samples(lines: Lines) -> str:
    predicted: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for line in lines:
        predicted[line["source"], line.get("target", "")].append((line["step"], line["prediction"]))
    return "".join(
        sample_card(source, target, _spread(predictions)) for (source, target), predictions in predicted.items()
    )


def _spread(items: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return some of many items, including the first and the last."""
    if len(items) <= SHOWN_PREDICTIONS:
        return items
    gaps = SHOWN_PREDICTIONS - 1
    return [items[round(place * (len(items) - 1) / gaps)] for place in range(SHOWN_PREDICTIONS)]


def _attention(path: Path) -> str:
    if not path.is_file():
        return ""
    return "".join(_example(each) for each in attention.read(path) if each["layers"])


def _example(example: Mapping[str, Any]) -> str:
    """Draw the mean over layers, and each layer in a fold-out."""
    source, target, layers = example["source"], example["target"], example["layers"]
    mean = [[sum(weights) / len(layers) for weights in zip(*rows, strict=True)] for rows in zip(*layers, strict=True)]
    each = "".join(f"<p>layer {number}</p>{heat_map(target, source, layer)}" for number, layer in enumerate(layers, 1))
    apart = f"<details><summary>layer by layer</summary>{each}</details>" if len(layers) > 1 else ""
    return f'<div class="card">{heat_map(target, source, mean)}{apart}</div>'
