"""`conjoin evaluate`: score a model on pairs, with confidence intervals, and test whether it beats another model."""

import json
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from conjoin.cli import options
from conjoin.cli.outputs import claim_file
from conjoin.cli.streams import emit
from conjoin.cli.talk import progress, say
from conjoin.errors import FileError, plain
from conjoin.evaluation.evaluate import Evaluation, comparison_dict, evaluate
from conjoin.evaluation.metrics import DEFAULT_METRICS, metric_names
from conjoin.evaluation.resampling import Comparison
from conjoin.evaluation.texts import TextSettings
from conjoin.texts.pairs import Columns, Pairs, read_pairs
from conjoin.texts.tables import kind_of


class Method(StrEnum):
    """Significance tests."""

    bootstrap = "bootstrap"
    randomisation = "randomisation"


def evaluate_model(
    model: options.Model,
    data: Annotated[str, typer.Argument(help="File of pairs: .jsonl, .csv, .tsv (each also .gz) or .parquet.")],
    against: Annotated[
        str | None, typer.Option(help="Folder or hub id of a second model, to compare on the same pairs.")
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="Text metrics, separated by commas; loss and token_accuracy are always included.")
    ] = ",".join(DEFAULT_METRICS),
    predictions: Annotated[
        Path | None,
        typer.Option(help="JSON Lines file to write source, target, prediction and loss of every pair to."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the --predictions file if it exists; never the data.")
    ] = False,
    test: Annotated[
        Method, typer.Option(help="Significance test for --against: paired bootstrap or approximate randomisation.")
    ] = Method.bootstrap,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first LIMIT pairs.")] = None,
    source_column: options.SourceColumn = "source",
    target_column: options.TargetColumn = "target",
    source_prefix: options.SourcePrefix = "",
    drop_empty: Annotated[
        bool, typer.Option("--drop-empty", help="Skip pairs with an empty source or target.")
    ] = False,
    batch_size: options.BatchSize = 32,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
    max_source_length: options.MaxSourceLength = None,
    num_beams: options.NumBeams = None,
    max_new_tokens: options.MaxNewTokens = None,
    seed: options.Seed = 0,
    mbr: options.MbrCandidates = None,
    utility: options.UtilityOption = None,
    mbr_candidates: options.MbrKind = None,
    set: options.Set = None,
    dtype: options.DtypeOption = None,
    device: options.Device = None,
    as_json: options.AsJson = False,
) -> None:
    """Score a model on held-out pairs: text metrics, loss and token accuracy, with 95 % confidence intervals."""
    names = metric_names(metrics)
    settings = TextSettings(
        batch_size=batch_size,
        max_source_length=max_source_length,
        generation=options.generation_settings(set, num_beams=num_beams, max_new_tokens=max_new_tokens),
        seed=seed,
        mbr=options.mbr_settings(mbr, utility, mbr_candidates),
    )
    columns = Columns(source=source_column, target=target_column, drop_empty=drop_empty)
    pairs = read_pairs(data, columns)
    if pairs.weights is not None:
        say(f"{pairs.name}: its column weight has no effect here; every pair counts once.")
    pairs = Pairs(pairs.name, pairs.sources[:limit], pairs.targets[:limit], pairs.lines[:limit])
    models = [model, *([against] if against else [])]
    outputs = _prediction_paths(predictions, len(models))
    for path in outputs:
        claim_file(path, inputs=[data], overwrite=overwrite)
    evaluations: list[Evaluation] = []
    write_errors: list[str] = []
    for number, name in enumerate(models):
        loaded = options.load(name, dtype, device, (source_language, target_language))
        evaluations.append(evaluate_loaded(loaded, name, pairs, names, settings, prefix=source_prefix))
        write_errors += _save(evaluations[-1], outputs[number]) if outputs else []
    comparisons = evaluations[0].compare(evaluations[1], method=test.value) if against else []
    if as_json:
        result = _as_dict(model, data, evaluations, against, test, comparisons)
        emit(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        _print_table(evaluations, models, comparisons)
    if write_errors:
        raise FileError("\n".join(write_errors))


def evaluate_loaded(
    model: Any, name: str, pairs: Pairs, names: Sequence[str], settings: TextSettings, *, prefix: str = ""
) -> Evaluation:
    """Evaluate a model with a progress bar.

    Args:
        prefix: Put before every source that the model reads; the evaluation has the sources of the pairs, as another
            model's with another prefix does.
    """
    sources = [prefix + source for source in pairs.sources]
    with progress(name, 2 * len(pairs)) as advance:  # each pair counts twice: once for the loss, once for generation
        result = evaluate(model, sources, pairs.targets, metrics=names, settings=settings, progress=advance)
    if result.cut:
        say(f"{result.cut:,} sources were longer than {name} can read and were truncated.")
    return replace(result, sources=pairs.sources)


def _prediction_paths(path: Path | None, num_models: int) -> list[Path]:
    """Return one path per model; the second model's is beside the first: pairs.jsonl, pairs.against.jsonl."""
    if path is None:
        return []
    if not path.name:
        raise FileError(f"{path} is a folder; expected a file to write.")
    if kind_of(path) not in ("jsonl", None):
        raise FileError(f"{path}: predictions are written as JSON lines; expected a name that ends in .jsonl.")
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    return [path, path.with_name(f"{path.name.removesuffix(suffix)}.against{suffix}")][:num_models]


def _save(evaluation: Evaluation, path: Path) -> list[str]:
    """Write predictions; return the error, if any, so that the scores are still printed first."""
    try:
        evaluation.save_predictions(path)
    except FileError as error:
        return [str(error)]
    say(f"{path}: {len(evaluation.predictions):,} predictions.")
    return []


def _as_dict(
    model: str,
    data: str,
    evaluations: Sequence[Evaluation],
    against: str | None,
    test: Method,
    comparisons: Sequence[Comparison],
) -> dict[str, Any]:
    result = {"model": model, "data": data, **evaluations[0].to_dict()}
    if against:
        result["against"] = {"model": against, **evaluations[1].to_dict()}
        result["comparison"] = {"test": test.value, "metrics": comparison_dict(comparisons)}
    return result


def _print_table(evaluations: Sequence[Evaluation], names: Sequence[str], comparisons: Sequence[Comparison]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for name, result in zip(names, evaluations, strict=True):
        title = table_title(f"{name}: {len(result.references):,} pairs")
        table = Table("metric", box=None, title=title, title_justify="left")
        table.add_column("score", justify="right")
        table.add_column("95 % interval", justify="right")
        for score in result.estimates():
            table.add_row(score.name, f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}")
        console.print(table)
    if comparisons:
        table = Table(
            "metric", box=None, title=table_title(f"second - first ({names[1]} - {names[0]})"), title_justify="left"
        )
        for column in ("difference", "95 % interval", "p"):
            table.add_column(column, justify="right")
        table.add_column("better")
        for row in comparisons:
            interval, p_value = f"{row.low:+.4f} to {row.high:+.4f}", f"{row.p_value:.3f}"
            table.add_row(row.name, f"{row.difference:+.4f}", interval, p_value, row.better or "no difference")
        console.print(table)


def table_title(text: str) -> Any:
    """Return a text for a table's title, of which rich interprets nothing."""
    from rich.text import Text

    return Text(plain(text), style="table.title")
