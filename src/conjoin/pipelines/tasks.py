"""The tasks of pipelines: their names, the settings that a model's config holds for them, and what they warn of."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from conjoin.errors import ConfigError, near, shown, warn
from conjoin.families import PretrainedConfig
from conjoin.generation import GenerationConfig

Kind = Literal["summarization", "translation", "text2text-generation"]

RESULT_NAMES: dict[Kind, str] = {
    "summarization": "summary",
    "translation": "translation",
    "text2text-generation": "generated",
}
"""Task -> what the keys of its results begin with: `summary_text`, `summary_token_ids`."""
DEFAULT_MODELS: dict[Kind, str] = {
    "summarization": "sshleifer/distilbart-cnn-12-6",
    "translation": "google-t5/t5-base",
    "text2text-generation": "google-t5/t5-base",
}
"""The models that transformers 4 took if none was named."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task of a pipeline.

    Args:
        name: As the caller wrote it, such as translation_en_to_de; "" for a pipeline that was made by its class.
        languages: Source and target of a translation, if its name says them.
    """

    name: str
    kind: Kind
    languages: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What a model's config holds for a task.

    Args:
        prefix: Text to put before every source, such as "summarize: ".
        generation: Settings of `generate`.
    """

    prefix: str
    generation: Mapping[str, Any]


def parse_task(name: str | None) -> Task:
    """Return the task of a name.

    Raises:
        ConfigError: there is no such task here.
    """
    if name in RESULT_NAMES:
        return Task(name, name)
    source, to, target = (name or "").removeprefix("translation_").partition("_to_")
    if name and name.startswith("translation_") and source and to and target and "_" not in source + target:
        return Task(name, "translation", (source, target))
    known = [*RESULT_NAMES, "translation_xx_to_yy"]
    similar = near(name or "", known)
    raise ConfigError(
        f"task = {shown(name)}; expected one of {', '.join(known)}, which encoder-decoder models do."
        + (f" Did you mean {similar}?" if similar else ""),
        hint="transformers has pipelines for other tasks.",
    )


def choose_translation(task: Task, config: PretrainedConfig) -> Task:
    """Return "translation" as the first translation that the config has settings for, or unchanged if it has none."""
    if task.name != "translation":
        return task
    name = next((name for name in _all_settings(config) if name.startswith("translation")), None)
    if name is None or name == task.name:
        return task
    warn(f"The task is translation without languages, so {name} is chosen, the first of the model's config.")
    return replace(parse_task(name), name=name)


def task_settings(task: Task, config: PretrainedConfig) -> TaskSettings:
    """Return what the config says of a task: `task_specific_params`, and `prefix` of all tasks.

    Raises:
        ConfigError: the config holds something else there.
    """
    settings = dict(_all_settings(config).get(task.name) or {})
    prefix = settings.pop("prefix", None) or getattr(config, "prefix", None) or ""
    if not isinstance(prefix, str):
        raise ConfigError(f"config.json: prefix = {shown(prefix)}; expected a text.")
    unknown = sorted(settings.keys() - set(GenerationConfig.FIELDS))
    if unknown:
        warn(f"config.json: task_specific_params of {task.name}: no effect of {', '.join(unknown)}.")
    return TaskSettings(prefix, {name: value for name, value in settings.items() if name not in unknown})


def _all_settings(config: PretrainedConfig) -> Mapping[str, Mapping[str, Any]]:
    held: Any = getattr(config, "task_specific_params", None) or {}
    settings = cast("Mapping[str, Any]", held) if isinstance(held, Mapping) else {"": None}
    if not all(isinstance(value, Mapping) for value in settings.values()):
        raise ConfigError(
            f"config.json: task_specific_params = {shown(cast(object, held))}; expected an object with one object for "
            "each task."
        )
    return settings


def length_warning(kind: Kind, source: int, longest: int, *, is_chosen: bool) -> str | None:
    """Return what is odd about a source and the longest result, if anything.

    Args:
        source: Tokens of the source.
        longest: Tokens of the longest result.
        is_chosen: True if the caller, not the model, chose it.
    """
    if kind == "summarization" and is_chosen and source < longest:
        return (
            f"A source has {source} tokens, and its summary may have {longest}: longer than what it sums up. "
            f"Lower max_length, to {max(source // 2, 1)} say."
        )
    if kind == "translation" and source > 0.9 * longest:
        return (
            f"A source has {source} tokens, but translations end at {longest}, so that its own may be cut off. "
            f"Raise max_length, to {2 * source} say."
        )
    return None
