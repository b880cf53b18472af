"""`conjoin train`. Its flags are the words of a recipe, made from the fields of the training room's dataclasses."""

import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from conjoin.training.folder.resuming import told_before
from conjoin.training.settings.arguments import TrainingArguments, help_of
from conjoin.training.settings.recipe import SHORT, Recipe, Sources, normalised, read_recipe


def train(config: str | None = None, print_config: bool = False, resume: bool = False, **words: Any) -> None:
    """Join two checkpoints, or take a joined one, and train it on pairs of texts.

    Everything may stand in a recipe (--config recipe.yaml) with the same words; flags win over it. A run that was
    stopped goes on with --resume --out RUN alone: its recipe is in its folder.
    """
    given = normalised({name: value for name, value in words.items() if value is not None})
    if resume and "resume_from_checkpoint" in given:
        raise typer.BadParameter("given beside --resume-from-checkpoint; expected one of them.", param_hint="--resume")
    given |= {"resume_from_checkpoint": "latest"} if resume else {}
    recipe = Recipe.of(_all_words(config, given))
    if print_config:
        typer.echo(recipe.to_yaml(), nl=False)
        return
    recipe.sources.require()
    if "output_dir" not in given and recipe.arguments.output_dir == TrainingArguments.output_dir:
        raise typer.BadParameter("give --out, the folder of the run", param_hint="--out")
    from conjoin.training.settings.launch import launch

    folder = launch(recipe)
    if os.environ.get("RANK", "0") == "0":  # of several processes, one talks
        typer.echo(folder)


def _all_words(config: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Flags over a recipe; a run that goes on has its own in its folder."""
    if config is not None:
        return read_recipe(config) | given
    if "resume_from_checkpoint" in given and "output_dir" in given:
        return told_before(given["output_dir"], given)
    return given


def _flags() -> Iterator[inspect.Parameter]:
    """One flag per field, after the three that are no words of a recipe."""
    yield _parameter("config", str | None, None, "A recipe, .yaml or .toml.")
    yield _parameter("print_config", bool, False, "Print the recipe with every word, and stop.")
    yield _parameter("resume", bool, False, "Go on from the newest checkpoint of --out, if there is one.")
    short = {long: name for name, long in SHORT.items() if name != "resume"}
    for kind in (Sources, TrainingArguments):
        hints = get_type_hints(kind)
        for each in fields(kind):
            name = short.get(each.name, each.name)
            yield _parameter(name, _plain(hints[each.name]) | None, None, _help(each, hints[each.name]))


def _plain(kind: Any) -> Any:
    """The type that the command line reads: words are text, checked with all the others."""
    if get_origin(kind) is Literal:
        return str
    return next((each for each in get_args(kind) if each is not NoneType), kind)


def _help(each: "Field[Any]", kind: Any) -> str:
    choices = f" One of: {', '.join(get_args(kind))}." if get_origin(kind) is Literal else ""
    default = "" if each.default in (None, "", False) else f" [default: {each.default}]"
    return help_of(each) + choices + default


def _parameter(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    if kind == (bool | None):
        flag += f"/--no-{name.replace('_', '-')}"
    option = typer.Option(flag, help=text, show_default=False)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=Annotated[kind, option])


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the signature that typer reads."""
    parameters = list(_flags())
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


train = _with_flags(train)
