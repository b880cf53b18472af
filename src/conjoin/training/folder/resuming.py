"""A run that goes on: what it was told before, and what is different now."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conjoin.checkpoint import replacing_file
from conjoin.errors import shown
from conjoin.training.folder.progress import say
from conjoin.training.folder.run_folder import RECIPE_FILE
from conjoin.training.settings.recipe import Recipe, normalised, read_recipe

if TYPE_CHECKING:
    from conjoin.training.loop.run import Run

_OF_A_COMMAND = {"output_dir", "resume_from_checkpoint", "overwrite_output_dir"}
"""Words that say where and how to begin, and nothing of the run."""
_RIVALS = (
    ({"model"}, {"encoder", "decoder", "share", "cross_attention_init"}),
    ({"encoder", "decoder"}, {"model"}),
    ({"train", "validation"}, {"dataset", "dataset_config", "train_split", "validation_split"}),
    ({"dataset"}, {"train", "validation"}),
)
"""Words that take the place of others."""


def told_before(out: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe in a run's folder, with what is given now over it; without a recipe, what is given.

    Raises:
        ConjoinError: the recipe cannot be read.
    """
    path = Path(out, RECIPE_FILE)
    before = read_recipe(path) if path.is_file() else {}
    gone = {word for words, others in _RIVALS if words & set(given) for word in others}
    return {name: value for name, value in before.items() if name not in gone} | dict(given)


def write_recipe(recipe: Recipe | None, folder: Path) -> None:
    """Leave in a run's folder what it needs to go on, before it takes a step."""
    if recipe is not None:
        with replacing_file(folder / RECIPE_FILE) as file:
            file.write(recipe.lasting().to_yaml())


def words_of(recipe: Recipe | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is told, as a checkpoint keeps it."""
    words = dict(arguments) if recipe is None else normalised(recipe.words())
    return {name: value for name, value in words.items() if name not in _OF_A_COMMAND}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Words with another value than before."""
    return [
        f"{name} = {_told(value)} (was {_told(before[name])})"
        for name, value in now.items()
        if name in before and before[name] != value
    ]


def _told(value: object) -> str:
    return "none" if value in (None, "") else value if isinstance(value, str) and len(value) < 100 else shown(value)


def tell(run: "Run", wanted: str | bool | None) -> None:
    """Say where a run goes on, and what is different since."""
    if not run.world.first or not wanted:
        return
    state = run.state
    if not run.resumed:
        say(f"{run.folder.path} has no checkpoint yet: the run begins with step 1 of {state.max_steps}.")
        return
    say(f"{run.folder.path} goes on after step {state.global_step} of {state.max_steps}.")
    if run.changed:
        say(f"It is told otherwise than before: {', '.join(run.changed)}.")
    if run.other_validation:
        say("Its validation data are others than before; the best evaluation so far was made on those.")
