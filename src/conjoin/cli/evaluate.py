"""`conjoin evaluate`: how good a model is on pairs, how sure that is, and whether it beats another."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from conjoin.cli import _options as options
from conjoin.cli._outputs import claim_file
from conjoin.cli._streams import emit
from conjoin.cli._talk import progress, say
from conjoin.errors import FileError, plain
from conjoin.evaluation.evaluate import Evaluation, comparison_dict, evaluate
from conjoin.evaluation.metrics import DEFAULT_METRICS, metric_names
from conjoin.evaluation.resampling import Comparison
from conjoin.evaluation.texts import TextSettings
from conjoin.texts.pairs import Columns, Pairs, read_pairs


class Method(StrEnum):
    """Significance tests."""

    bootstrap = "bootstrap"
    randomisation = "randomisation"


def evaluate_model(
    model: options.Model,
    data: Annotated[str, typer.Argument(help="Pairs: .jsonl, .csv, .tsv (each also .gz) or .parquet.")],
    against: Annotated[str | None, typer.Option(help="A second model, to compare with on the same pairs.")] = None,
    metrics: Annotated[str, typer.Option(help="Of texts, with commas; loss and token_accuracy are always there.")] = (
        ",".join(DEFAULT_METRICS)
    ),
    predictions: Annotated[
        Path | None, typer.Option(help="Write source, target, prediction and loss of every pair here, as JSON lines.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Let --predictions replace what is there; never the data.")
    ] = False,
    test: Annotated[Method, typer.Option(help="Of --against: paired bootstrap or approximate randomisation.")] = (
        Method.bootstrap
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first pairs only.")] = None,
    source_column: options.SourceColumn = "source",
    target_column: Annotated[str, typer.Option(help="The key or column that holds the target.")] = "target",
    source_prefix: Annotated[str, typer.Option(help="Text put before every source.")] = "",
    drop_empty: Annotated[bool, typer.Option("--drop-empty", help="Leave out pairs with an empty side.")] = False,
    batch_size: options.BatchSize = 32,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
    max_source_length: options.MaxSourceLength = None,
    num_beams: options.NumBeams = None,
    max_new_tokens: options.MaxNewTokens = None,
    set: options.Set = None,
    dtype: options.DtypeOption = None,
    device: options.Device = None,
    as_json: options.AsJson = False,
) -> None:
    """Score a model on pairs it was not trained on: texts by metrics, tokens by loss, with 95 % intervals."""
    names = metric_names(metrics)
    named = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    settings = TextSettings(
        batch_size=batch_size,
        max_source_length=max_source_length,
        generation=options.generation_settings(set, **named),
    )
    columns = Columns(source=source_column, target=target_column, prefix=source_prefix, drop_empty=drop_empty)
    pairs = read_pairs(data, columns)
    if pairs.weights is not None:
        say(f"{pairs.name}: its column weight has no effect here, every pair counts once.")
    pairs = Pairs(pairs.name, pairs.sources[:limit], pairs.targets[:limit], pairs.lines[:limit])
    models = [model, *([against] if against else [])]
    written = _written(predictions, len(models))
    for path in written:
        claim_file(path, inputs=[data], overwrite=overwrite)
    found: list[Evaluation] = []
    unsaved: list[str] = []
    for number, name in enumerate(models):
        loaded = options.load(name, dtype, device, (source_language, target_language))
        found.append(_evaluate(loaded, name, pairs, names, settings))
        unsaved += _save(found[-1], written[number]) if written else []
    compared = found[0].compare(found[1], method=test.value) if against else []
    if as_json:
        emit(json.dumps(_as_dict(model, data, found, against, test, compared), indent=2, ensure_ascii=False))
    else:
        _print_table(found, models, compared)
    if unsaved:
        raise FileError("\n".join(unsaved))


def _evaluate(model: Any, name: str, pairs: Pairs, names: Sequence[str], settings: TextSettings) -> Evaluation:
    with progress(name, 2 * len(pairs)) as advance:  # every pair is read once and written once
        found = evaluate(model, pairs.sources, pairs.targets, metrics=names, settings=settings, progress=advance)
    if found.cut:
        say(f"{found.cut:,} sources were longer than {name} reads: their ends were not read.")
    return found


def _written(path: Path | None, models: int) -> list[Path]:
    """The second model's predictions go beside the first one's: pairs.jsonl, pairs.against.jsonl."""
    if path is None:
        return []
    if not path.name:
        raise FileError(f"{path} is a folder; expected a file to write.")
    return [path, path.with_suffix(f".against{path.suffix}")][:models]


def _save(found: Evaluation, path: Path) -> list[str]:
    """Write predictions; what keeps them from being written is for later, since scores come first."""
    try:
        found.save_predictions(path)
    except FileError as error:
        return [str(error)]
    say(f"{path}: {len(found.predictions):,} predictions.")
    return []


def _as_dict(
    model: str,
    data: str,
    found: Sequence[Evaluation],
    against: str | None,
    test: Method,
    compared: Sequence[Comparison],
) -> dict[str, Any]:
    told = {"model": model, "data": data, **found[0].to_dict()}
    if against:
        told["against"] = {"model": against, **found[1].to_dict()}
        told["comparison"] = {"test": test.value, "metrics": comparison_dict(compared)}
    return told


def _print_table(found: Sequence[Evaluation], names: Sequence[str], compared: Sequence[Comparison]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for name, each in zip(names, found, strict=True):
        table = Table("metric", box=None, title=_title(f"{name}: {len(each.references):,} pairs"), title_justify="left")
        table.add_column("score", justify="right")
        table.add_column("95 % interval", justify="right")
        for score in each.estimates():
            table.add_row(score.name, f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}")
        console.print(table)
    if compared:
        table = Table(
            "metric", box=None, title=_title(f"second - first ({names[1]} - {names[0]})"), title_justify="left"
        )
        for column in ("difference", "95 % interval", "p"):
            table.add_column(column, justify="right")
        table.add_column("better")
        for row in compared:
            interval, p_value = f"{row.low:+.4f} to {row.high:+.4f}", f"{row.p_value:.3f}"
            table.add_row(row.name, f"{row.difference:+.4f}", interval, p_value, row.better or "no difference")
        console.print(table)


def _title(text: str) -> Any:
    from rich.text import Text

    return Text(plain(text), style="table.title")
