"""`conjoin sweep`: several settings tried within a time."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from conjoin.cli.evaluate import table_title
from conjoin.cli.options import AsJson
from conjoin.cli.streams import emit


class EngineName(StrEnum):
    """What chooses and stops trials."""

    halving = "halving"
    optuna = "optuna"


def sweep_settings(
    recipe: Annotated[
        str,
        typer.Argument(help="Recipe of `conjoin train` (.yaml or .toml), with validation data.", show_default=False),
    ],
    over: Annotated[
        list[str],
        typer.Option(
            help="Setting to vary: NAME=VALUE,VALUE,... or NAME=LOW..HIGH with --trials. May be repeated.",
            show_default=False,
        ),
    ],
    minutes: Annotated[float, typer.Option(help="Time for the whole sweep.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the sweep; a folder per trial is in it.", show_default=False)],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Number of combinations to draw; by default all of listed values.")
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(help="What chooses and stops trials: successive halving, or Optuna, where it is installed."),
    ] = EngineName.halving,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep in --out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try several settings of a recipe within a time, by successive halving.

    All combinations are trained for a few steps; the third with the best
    metric_for_best_model on the validation data goes on from its checkpoint, and
    so forth. The best recipe is OUT/best.yaml.
    """
    from conjoin.training.settings.recipe import read_recipe
    from conjoin.training.sweep import Sweep, parse_over

    sweep = Sweep(
        read_recipe(recipe),
        parse_over(over),
        minutes=minutes,
        out=out,
        trials=trials,
        engine=engine.value,
        resume=resume,
    )
    result = sweep.run()
    if as_json:
        emit(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("trial", box=None, title=table_title(f"{result.metric}, the best first"), title_justify="left")
    table.add_column("settings")
    for column in ("steps", result.metric):
        table.add_column(column, justify="right")
    table.add_column("outcome")
    for trial in result.trials:
        settings = ", ".join(f"{name}={value}" for name, value in trial.values.items())
        score = f"{trial.scores[-1]:.4f}" if trial.scores else "-"
        table.add_row(str(trial.number), settings, f"{trial.steps:,}", score, trial.problem or trial.status)
    Console(highlight=False).print(table)
    emit(str(out / "best.yaml"))
