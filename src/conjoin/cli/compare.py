"""`conjoin compare`: two or more runs on the same pairs, and a page of the texts that differ."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from conjoin.checkpoint import replacing_file
from conjoin.cli import options
from conjoin.cli.evaluate import Method, evaluate_loaded, table_title
from conjoin.cli.outputs import claim_file
from conjoin.cli.streams import emit
from conjoin.cli.talk import say
from conjoin.evaluation.comparison import SideBySide, read_run, sort_metric
from conjoin.evaluation.evaluate import Evaluation
from conjoin.evaluation.metrics import TEXT_METRICS, metric_names
from conjoin.evaluation.side_by_side import side_by_side
from conjoin.evaluation.texts import TextSettings
from conjoin.texts.pairs import Columns, Pairs, read_pairs


def compare_runs(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Two or more runs: folders or hub ids of models, or files of generated texts (what conjoin generate "
            "or conjoin evaluate --predictions wrote, or one text per line).",
            show_default=False,
        ),
    ],
    data: Annotated[str, typer.Argument(help="File of pairs: .jsonl, .csv, .tsv (each also .gz) or .parquet.")],
    page: Annotated[Path | None, typer.Option(help="HTML file to write: scores, and texts that differ.")] = None,
    metrics: Annotated[
        str, typer.Option(help="Text metrics, separated by commas; models also get loss and token_accuracy.")
    ] = ",".join(TEXT_METRICS),
    sort_by: Annotated[
        str | None, typer.Option(help="Metric that sorts the texts of the page; by default chrf.")
    ] = None,
    max_texts: Annotated[int, typer.Option(min=1, help="Maximum number of texts in each group of the page.")] = 500,
    test: Annotated[
        Method, typer.Option(help="Significance test: paired bootstrap or approximate randomisation.")
    ] = Method.bootstrap,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the --page if it exists.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first LIMIT pairs.")] = None,
    source_column: options.SourceColumn = "source",
    target_column: options.TargetColumn = "target",
    prediction_column: Annotated[
        str, typer.Option(help="JSON key or table column of the texts in files of generated texts.")
    ] = "prediction",
    source_prefix: options.SourcePrefix = "",
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
    """Compare runs with the first one: every metric, 95 % intervals, and whether the differences are significant.

    Losses are compared only where both models tokenize the targets alike.
    """
    if len(runs) < 2:
        raise typer.BadParameter(f"{len(runs)} run given; expected two or more, and then the data.", param_hint="RUNS")
    names = metric_names(metrics)
    settings = TextSettings(
        batch_size=batch_size,
        max_source_length=max_source_length,
        generation=options.generation_settings(set, num_beams=num_beams, max_new_tokens=max_new_tokens),
    )
    if page is not None:
        claim_file(page, inputs=[data, *runs], overwrite=overwrite)
        sort_metric(names, sort_by)
    plain = read_pairs(data, Columns(source=source_column, target=target_column))
    if plain.weights is not None:
        say(f"{plain.name}: its column weight has no effect here; every pair counts once.")
    sources, targets = plain.sources[:limit], plain.targets[:limit]
    evaluations: list[Evaluation] = []
    for run in runs:
        if Path(run).expanduser().is_file():
            evaluations.append(
                read_run(
                    Path(run).expanduser(),
                    sources,
                    targets,
                    metrics=names,
                    column=prediction_column,
                    source_column=source_column,
                    limit=limit,
                )
            )
        else:
            model = options.load(run, dtype, device, (source_language, target_language))
            pairs = Pairs(plain.name, sources, targets, plain.lines[:limit])
            evaluations.append(evaluate_loaded(model, run, pairs, names, settings, prefix=source_prefix))
    result = SideBySide(_different_names(runs), evaluations)
    if page is not None:
        title = f"{' and '.join(result.names)} on {Path(data).name}"
        text = side_by_side(result, title=title, metric=sort_by, method=test.value, limit=max_texts)
        with replacing_file(page) as file:
            file.write(text)
        say(f"{page}: {result.different_texts:,} texts that differ.")
    if as_json:
        emit(json.dumps({"data": data, **result.to_dict(test.value)}, indent=2, ensure_ascii=False))
    else:
        _print_tables(result, test)


def _different_names(runs: Sequence[str]) -> list[str]:
    """Return a name for each run; a run that is given twice gets a number."""
    names: list[str] = []
    for run in runs:
        names.append(run if run not in names else f"{run} ({runs[: len(names) + 1].count(run)})")
    return names


def _print_tables(result: SideBySide, test: Method) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    estimates: list[dict[str, Any]] = [{e.name: e for e in each.estimates()} for each in result.evaluations]
    pairs = len(result.evaluations[0].references)
    table = Table("metric", box=None, title=table_title(f"{pairs:,} pairs, 95 % intervals"), title_justify="left")
    for name in result.names:
        table.add_column(table_title(name), justify="right")
    for metric in dict.fromkeys(name for each in estimates for name in each):
        cells = [each.get(metric) for each in estimates]
        table.add_row(metric, *("-" if c is None else f"{c.value:.2f} ({c.low:.2f} to {c.high:.2f})" for c in cells))
    console.print(table)
    for each in result.versus(test.value):
        title = table_title(f"{each.second} - {each.first}, {test.value}")
        table = Table("metric", box=None, title=title, title_justify="left")
        for column in ("difference", "95 % interval", "p"):
            table.add_column(column, justify="right")
        table.add_column("better")
        for row in each.metrics:
            names = {"first": each.first, "second": each.second, None: "no difference"}
            interval, p_value = f"{row.low:+.3f} to {row.high:+.3f}", f"{row.p_value:.3f}"
            table.add_row(row.name, f"{row.difference:+.3f}", interval, p_value, table_title(names[row.better]))
        console.print(table)
