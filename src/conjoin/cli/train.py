"""`conjoin train`. Its flags are the settings of a recipe, made from the fields of the training room's dataclasses."""

import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from conjoin.training.settings.arguments import AUTO, CHOOSABLE, TrainingArguments, help_of
from conjoin.training.settings.recipe import SHORT, Recipe, Sources, normalised, over, over_earlier_recipe, read_recipe


def train(config: str | None = None, print_config: bool = False, resume: bool = False, **options: Any) -> None:
    """Join two checkpoints, or load a joined one, and train the model on pairs of texts.

    Every setting may be in a recipe (--config recipe.yaml) under the name of its
    flag; flags override the recipe. To continue a stopped run, --resume --out RUN
    is enough: its folder holds the recipe.

    What is not set is chosen by the data, the pair and the machine, and printed with
    its reason; --auto none leaves everything at transformers' defaults instead.
    """
    run_recipe(config, print_config, resume, options)


def run_recipe(config: str | None, print_config: bool, resume: bool, options: Mapping[str, Any]) -> None:
    """Train as a recipe says, whose settings flags override.

    Raises:
        BadParameter: flags that contradict each other, or no folder for the run.
    """
    started = time.monotonic()
    given = normalised({name: value for name, value in options.items() if value not in (None, [])})
    if resume and "resume_from_checkpoint" in given:
        raise typer.BadParameter("cannot be combined with --resume-from-checkpoint.", param_hint="--resume")
    given |= {"resume_from_checkpoint": "latest"} if resume else {}
    recipe = Recipe.of(_settings(config, given))
    if print_config:
        typer.echo(_decided(recipe).to_yaml(), nl=False)
        return
    recipe.sources.require()
    if "output_dir" not in given and recipe.arguments.output_dir == TrainingArguments.output_dir:
        raise typer.BadParameter("give --out, the folder of the run", param_hint="--out")
    from conjoin.training.launch import launch

    folder = launch(recipe, started=started)
    if os.environ.get("RANK", "0") == "0":  # only one of several processes prints
        typer.echo(folder)


def _decided(recipe: Recipe) -> Recipe:
    """Return a recipe with the run's choices in it, if it names model and data; they are read for that."""
    sources = recipe.sources
    named = (sources.model or (sources.encoder and sources.decoder)) and (
        sources.train or sources.dataset or sources.text
    )
    if not named or not recipe.arguments.to_choose:
        return recipe
    from conjoin.training.launch import make_trainer

    return make_trainer(recipe).recipe or recipe


def _settings(config: str | None, flags: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a recipe, overridden by flags; a resumed run has its recipe in its folder."""
    if config is not None:
        return over(read_recipe(config), flags)
    if "resume_from_checkpoint" in flags and "output_dir" in flags:
        return over_earlier_recipe(flags["output_dir"], flags)
    return flags


def flags() -> Iterator[inspect.Parameter]:
    """Yield one flag per field, after three that cannot be in a recipe."""
    yield _parameter("config", str | None, None, "Recipe file: .yaml or .toml.")
    yield _parameter("print_config", bool, False, "Print the complete recipe and exit.")
    yield _parameter("resume", bool, False, "Resume from the newest checkpoint in --out, if there is one.")
    short = {long: name for name, long in SHORT.items() if name != "resume"}
    for kind in (Sources, TrainingArguments):
        hints = get_type_hints(kind)
        for field in fields(kind):
            name = short.get(field.name, field.name)
            yield _parameter(name, _flag_type(hints[field.name]) | None, None, _help(field, hints[field.name]))


def _flag_type(hint: Any) -> Any:
    """Return the type that the command line parses; choices are text, and are checked with the other settings."""
    if get_origin(hint) is Literal:
        return str
    return next((option for option in get_args(hint) if option is not NoneType), hint)


def _help(field: "Field[Any]", hint: Any) -> str:
    choices = f" One of: {', '.join(get_args(hint))}." if get_origin(hint) is Literal else ""
    default = "" if field.default in (None, "", False) else f" [default: {field.default}]"
    return help_of(field) + choices + default


def _parameter(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    if kind == (bool | None):
        flag += f"/--no-{name.replace('_', '-')}"
    parser = _number_or_auto(kind) if name in CHOOSABLE and kind in (int | None, float | None) else None
    option = typer.Option(flag, help=text, show_default=False, parser=parser)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=Annotated[kind, option])


def _number_or_auto(kind: Any) -> Callable[[str], Any]:
    """Return the parser of a number that may be left to the run."""
    number, called = (int, "a whole number") if kind == (int | None) else (float, "a number")

    def parse(text: str) -> Any:
        try:
            return text if text == AUTO else number(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not {called}, nor {AUTO}.") from None

    parse.__name__ = "INTEGER" if number is int else "FLOAT"
    return parse


def with_signature(command: Callable[..., None], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    """Give a command the signature that typer reads."""
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


train = with_signature(train, list(flags()))
