"""The settings of a whole run: model, data and training arguments, from a YAML or TOML file and from flags."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any, Literal, cast, get_type_hints

from conjoin.configuration import CrossAttentionInit, EncoderAttention, Share
from conjoin.errors import ConfigError, FileError, MissingBackend, listing, shown
from conjoin.limits import RECIPE_BYTES
from conjoin.training.settings.arguments import (
    AUTO,
    CHOOSABLE,
    COUNT,
    DECAY,
    JOIN_CHOICES,
    Objective,
    TrainingArguments,
    arg,
    expectation,
    fits,
    left_open,
    out_of_range,
)

RECIPE_FILE = "recipe.yaml"
SHORT = {"out": "output_dir", "resume": "resume_from_checkpoint"}
"""Short names of arguments on the command line; recipes may use either."""
_COMMAND_SETTINGS = {"output_dir", "resume_from_checkpoint", "overwrite_output_dir", "auto", "reasons"}
"""Settings of a command: they say where and how a run begins, and nothing about the run itself."""
_LEFT = {*CHOOSABLE, *JOIN_CHOICES}
_LAYERS = ("encoder_layers", "decoder_layers", "source_layers")
_OF_JOINS = ("share", "cross_attention_init", "encoder_attention", *_LAYERS)
_TEXT = (
    *("text", "validation_text", "text_column", "objective", "mode_tokens", "mlm_probability"),
    "mean_noise_span_length",
)
_REPLACES = (
    ({"model"}, {"encoder", "decoder", *_OF_JOINS}),
    ({"encoder", "decoder"}, {"model"}),
    ({"train", "validation"}, {"dataset", "dataset_config", "train_split", "validation_split", *_TEXT}),
    ({"dataset"}, {"train", "validation", *_TEXT}),
    ({"calibrate"}, {"train", "dataset", "dataset_config", "train_split", "pseudo_labels", *_TEXT}),
    ({"train", "dataset", "pseudo_labels"}, {"calibrate"}),
    ({"text"}, {"train", "validation", "dataset", "dataset_config", "train_split", "validation_split"}),
    ({"text"}, {"pseudo_labels", "pseudo_weight", "calibrate"}),
)
"""Pairs: if one of the first settings is given, it replaces all of the second."""
_DATA_HINT = "--train pairs.jsonl, or --dataset NAME --train-split train; or --text FILE to adapt to raw text."


@dataclass(kw_only=True)
class Sources:
    """The model to train, and the data to train it on.

    Raises:
        ConfigError: values have the wrong type; one error lists them all.
    """

    encoder: str | None = arg(None, "Folder or hub id of the encoder's checkpoint.")
    decoder: str | None = arg(None, "Folder or hub id of the decoder's checkpoint.")
    model: str | None = arg(None, "Folder or hub id of a joined model, instead of encoder and decoder.")
    share: Share = arg("none", "Parameters that encoder and decoder share: none, embeddings or all.")
    cross_attention_init: CrossAttentionInit = arg(
        "normal", "Initial values of new cross-attention; or merged or layerwise, which read the source without any."
    )
    encoder_attention: EncoderAttention | None = arg(
        None, "Let the encoder read both ways or causally; causal by default for a causal LM that is read layerwise."
    )
    source_layers: str | int | None = arg(
        None, "With layerwise: the encoder layer that each decoder layer reads with, such as 0,2,5."
    )
    source_template: str | None = arg(
        None, 'Prompt around every source: text with {source} in it, or "chat" for the tokenizer\'s chat template.'
    )
    template_date: str | None = arg(
        None,
        "Day that a chat template writes as today's, such as 2026-01-31; that of the first command by default.",
    )
    encoder_layers: str | int | None = arg(
        None, "Layers of the encoder to join: a number, spread evenly, or indices such as 0,2,5; all by default."
    )
    decoder_layers: str | int | None = arg(None, "Layers of the decoder to join, likewise.")
    dtype: str = arg("float32", "Dtype of the weights.")
    framework: Literal["torch", "jax"] = arg("torch", "Framework that trains; files and reports are the same.")
    train: str | None = arg(None, "Training pairs: .jsonl, .csv, .tsv (each also .gz) or .parquet.")
    pseudo_labels: str | None = arg(
        None, "Sources with texts that a teacher generated, of `conjoin generate`, which are learnt too, or alone."
    )
    pseudo_weight: float = arg(1.0, "How many times the generated texts of a source count in the loss, together.")
    calibrate: str | None = arg(
        None, "Pairs with candidates, of `conjoin generate`, which the model learns to rank, in place of train."
    )
    validation: str | None = arg(None, "Validation pairs, in the same formats.")
    dataset: str | None = arg(None, "Data set of the hub, or a folder of one, instead of train and validation.")
    dataset_config: str | None = arg(None, "Configuration of the data set.")
    train_split: str = arg("train", "Split of the data set to train on.")
    validation_split: str | None = arg(None, "Split of the data set to evaluate on; none by default.")
    text: list[str] | None = arg(
        None, "Raw text to adapt to, instead of pairs: plain text, .jsonl, .csv, .tsv (each also .gz) or .parquet."
    )
    validation_text: list[str] | None = arg(None, "Raw text to evaluate on, in the same formats.")
    text_column: str = arg("text", "Column of the raw text, in files that have columns.")
    objective: Objective = arg(
        "prefixlm", "How raw text becomes pairs: cut in halves, UL2's mixture, or with spans taken out."
    )
    mode_tokens: bool = arg(False, "Put UL2's mode tokens ([NLU], [S2S], [NLG]) before the sources.")
    mlm_probability: float = arg(0.15, "Share of the tokens that objective=denoise takes out.", DECAY)
    mean_noise_span_length: float = arg(3.0, "Mean number of tokens of a span of objective=denoise.", COUNT)

    def __post_init__(self) -> None:
        """Check the types of all values; lists of layers, and a day as YAML and TOML read it, become text."""
        if isinstance(day := cast("object", self.template_date), date):
            self.template_date = day.isoformat()
        for name in _LAYERS:
            if isinstance(layers := getattr(self, name), list):
                setattr(self, name, "".join(f"{layer}," for layer in cast("list[Any]", layers)))
        kinds = get_type_hints(type(self))
        problems = [
            f"{each.name} = {shown(getattr(self, each.name))}; expected {expectation(kinds[each.name])}."
            for each in fields(self)
            if not fits(getattr(self, each.name), kinds[each.name])
        ]
        problems += out_of_range(self)
        if problems:
            raise ConfigError(f"This recipe cannot be used:\n{listing(problems)}")

    def require(self) -> None:
        """Check that there is one model and one source of data, and that every setting has an effect.

        Raises:
            ConfigError: a model or data are missing, incomplete or given twice, or a joined model has join settings.
        """
        halves = [name for name in ("encoder", "decoder") if getattr(self, name)]
        if bool(self.model) == bool(halves) or len(halves) == 1:
            choices = ", ".join([*halves, *(["model"] if self.model else [])]) or "none of them"
            raise ConfigError(
                f"Given: {choices}. Expected encoder and decoder, or model alone.",
                hint="conjoin train --encoder X --decoder Y ..., or --model DIR ...",
            )
        self._require_data()
        self._refuse_join_settings()

    def _require_data(self) -> None:
        self._refuse_without_effect()
        if self.text:
            others = [name for name in ("train", "dataset", "pseudo_labels", "calibrate") if getattr(self, name)]
            if others:
                hint = "leave one out; raw text comes first, and pairs in a run of their own."
                raise ConfigError(f"Both {', '.join(others)} and text are given.", hint=hint)
            return
        if self.train and self.dataset:
            raise ConfigError("Both train and dataset are given.", hint=_DATA_HINT)
        others = [name for name in ("train", "dataset", "pseudo_labels") if getattr(self, name)]
        if self.calibrate and others:
            raise ConfigError(
                f"calibrate and {' and '.join(others)} are given; calibration learns from the pairs of its own file.",
                hint="train first, then calibrate the trained model: conjoin train --model RUN --calibrate FILE.",
            )
        if self.calibrate and self.framework != "torch":
            raise ConfigError(f"framework = {self.framework} cannot calibrate.", hint="--framework torch does.")
        if not self.calibrate and not others:
            raise ConfigError("Neither train nor dataset is given.", hint=_DATA_HINT)
        weight = self.pseudo_weight
        if weight != 1 and (not self.pseudo_labels or others == ["pseudo_labels"]):
            lacking = "other training data" if self.pseudo_labels else "pseudo_labels"
            raise ConfigError(f"pseudo_weight = {weight} without {lacking}; it has no effect.")
        if not 0 < weight < math.inf:
            raise ConfigError(f"pseudo_weight = {weight}; expected a number above 0.")

    def _refuse_without_effect(self) -> None:
        """Refuse settings of raw text without raw text, and settings of another objective."""
        used = {"text_column", "objective", "mode_tokens", "mlm_probability", "mean_noise_span_length"}
        own = {"ul2": {"mode_tokens"}, "denoise": {"mlm_probability", "mean_noise_span_length"}}
        if self.text:
            used -= {"text_column", "objective"} | own.get(self.objective, set())
        else:
            used |= {"validation_text"}
        changed = [name for name in sorted(used) if getattr(self, name) != getattr(Sources, name)]
        if changed:
            without = f"objective = {self.objective}" if self.text else "pairs of texts"
            raise ConfigError(f"{', '.join(changed)} with {without}: without effect.", hint="leave these settings out.")
        if self.template_date is not None and self.source_template is None:
            raise ConfigError("template_date without source_template: without effect.", hint="leave it out.")
        if self.text and self.validation:
            raise ConfigError("validation with text: the validation data are pairs.", hint="--validation-text FILE")

    def _refuse_join_settings(self) -> None:
        changed = [
            f"{name} = {getattr(self, name)}" for name in _OF_JOINS if getattr(self, name) != getattr(Sources, name)
        ]
        if self.model is not None and changed:
            raise ConfigError(
                f"{' and '.join(changed)} with model = {self.model}: a joined model stays as it was joined.",
                hint="give --encoder and --decoder instead of --model, or leave these settings out; `conjoin shrink` "
                "drops layers of a joined model.",
            )


@dataclass(frozen=True, slots=True)
class Recipe:
    """Model, data and arguments of a run.

    Args:
        reasons: Setting that a run has chosen -> why it has its value.
    """

    sources: Sources
    arguments: TrainingArguments
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Recipe":
        """Build a recipe from settings by name, with dashes or underscores; a run chooses those that are not given.

        Raises:
            ConfigError: names are unknown, or values cannot be used; one error lists all of a kind.
        """
        given = normalised(settings)
        reasons = _reasons(given.pop("reasons", {}))
        if isinstance(given.get("resume_from_checkpoint"), bool):
            given["resume_from_checkpoint"] = "latest" if given["resume_from_checkpoint"] else None
        known = {kind: {each.name for each in fields(kind)} for kind in (Sources, TrainingArguments)}
        unknown = sorted(set(given) - known[Sources] - known[TrainingArguments])
        if unknown:
            raise ConfigError(
                f"Unknown settings in the recipe: {', '.join(map(_short, unknown[:20]))}"
                f"{f' and {len(unknown) - 20} more' if len(unknown) > 20 else ''}.",
                hint="conjoin train --print-config prints every setting with its value.",
            )
        given["auto"] = _auto(given)
        plain: dict[str, Any] = {name: value for name, value in given.items() if value != AUTO or name not in _LEFT}
        sources, arguments = (kind(**{k: v for k, v in plain.items() if k in known[kind]}) for kind in known)
        return cls(cast(Sources, sources), cast(TrainingArguments, arguments), reasons)

    def with_choices(
        self, reasons: Mapping[str, str], *, sources: Sources | None = None, arguments: TrainingArguments | None = None
    ) -> "Recipe":
        """Return the recipe with what a run has chosen, and why."""
        return Recipe(sources or self.sources, arguments or self.arguments, {**self.reasons, **reasons})

    def settings(self) -> dict[str, Any]:
        """Return every setting by name, as `of` reads them; those that a run chooses later are "auto"."""
        sources = {each.name: getattr(self.sources, each.name) for each in fields(self.sources)}
        every = sources | self.arguments.to_dict() | dict.fromkeys(self.arguments.to_choose, AUTO) | {"auto": "none"}
        short = {long: name for name, long in SHORT.items()}
        plain = {short.get(name, name): value for name, value in every.items()}
        return plain | ({"reasons": dict(self.reasons)} if self.reasons else {})

    def to_yaml(self) -> str:
        """Return the recipe as YAML, which `read_recipe` reads."""
        return _yaml().safe_dump(self.settings(), sort_keys=False, allow_unicode=True)

    def lasting(self) -> "Recipe":
        """Return the recipe without settings that a command applies once: to resume, or to delete an earlier run."""
        once = {name: getattr(TrainingArguments, name) for name in ("resume_from_checkpoint", "overwrite_output_dir")}
        return Recipe(self.sources, self.arguments.copy(**once), self.reasons)


def _auto(given: Mapping[str, Any]) -> str:
    """Return the names of the settings that a run chooses, separated by commas: all that are not given, by default.

    Raises:
        ConfigError: `auto` names a setting that is given too.
    """
    wanted = given.get("auto", "all")
    joins = () if given.get("model") is not None else JOIN_CHOICES
    if wanted == "all":
        return ",".join(left_open(given, (*joins, *CHOOSABLE)))
    asked = [name for name in (*JOIN_CHOICES, *CHOOSABLE) if given.get(name) == AUTO]
    if not isinstance(wanted, str) or wanted in ("", "none"):
        return ",".join(asked)
    named = [name.strip().replace("-", "_") for name in wanted.split(",")]
    if twice := [name for name in named if given.get(name, AUTO) != AUTO]:
        raise ConfigError(f"auto names {', '.join(twice)}, and a value is given too; expected one of them.")
    return ",".join(dict.fromkeys([*named, *asked]))


def _reasons(found: Any) -> dict[str, str]:
    reasons: dict[Any, Any] = cast("dict[Any, Any]", found) if isinstance(found, dict) else {None: None}
    if not all(isinstance(text, str) for pair in reasons.items() for text in pair):
        raise ConfigError(f"reasons = {shown(reasons)}; expected names of settings with a text each.")
    return reasons


def _short(name: str) -> str:
    """Return a short and printable name unchanged, any other quoted and truncated."""
    return name if name.isprintable() and len(name) <= 60 else shown(name)


def normalised(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under their full names, with underscores.

    Raises:
        ConfigError: a setting is given in two spellings.
    """
    normal: dict[str, Any] = {}
    for name, value in settings.items():
        plain = name.replace("-", "_")
        plain = SHORT.get(plain, plain)
        if plain in normal:
            raise ConfigError(f"{plain} is given twice, as {shown(name)} too; expected one of them.")
        normal[plain] = value
    return normal


def over_earlier_recipe(out: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe in a run's folder, overridden by `settings`; only `settings` if there is none.

    Raises:
        ConjoinError: the recipe cannot be read.
    """
    path = Path(out, RECIPE_FILE)
    earlier = read_recipe(path) if path.is_file() else {}
    replaced = {name for names, others in _REPLACES if names & set(settings) for name in others}
    return over({name: value for name, value in earlier.items() if name not in replaced}, settings)


def over(earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a recipe overridden by others, whose values have no reasons of a run."""
    reasons = {name: why for name, why in earlier.get("reasons", {}).items() if name not in settings}
    return {**earlier, **settings} | ({"reasons": reasons} if "reasons" in earlier else {})


def run_settings(recipe: Recipe | None, arguments: TrainingArguments) -> dict[str, Any]:
    """Return the settings of a run that its checkpoints keep."""
    settings = arguments.to_dict() if recipe is None else normalised(recipe.settings())
    return {name: value for name, value in settings.items() if name not in _COMMAND_SETTINGS}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe every setting whose value has changed."""
    return [
        f"{name} = {_shown(value)} (was {_shown(before[name])})"
        for name, value in now.items()
        if name in before and before[name] != value
    ]


def _shown(value: object) -> str:
    return "none" if value in (None, "") else value if isinstance(value, str) and len(value) < 100 else shown(value)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return the settings of a recipe file: TOML if its suffix is .toml, else YAML.

    Raises:
        FileError: the file cannot be read.
        ConfigError: the file is not YAML or TOML, or holds no settings.
    """
    path = Path(path)
    text = _text(path)
    settings = _parse_toml(text, path) if path.suffix == ".toml" else _parse_yaml(text, path)
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in cast("dict[Any, Any]", settings)):
        raise ConfigError(f"{path}: expected names and values, such as `learning_rate: 0.0001`.")
    try:
        return _without_yaml_conversions(normalised(cast("dict[str, Any]", settings)))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_dir() and not path.is_file():
            raise FileError(f"{path}: the recipe cannot be read: it is no file, but a pipe or a device.")
        with open(path, "rb") as file:
            raw = file.read(RECIPE_BYTES + 1)
        if len(raw) > RECIPE_BYTES:
            raise FileError(
                f"{path}: the recipe has more than {RECIPE_BYTES:,} bytes; one with every setting has 3,000."
            )
        return raw.decode("utf-8-sig")
    except FileError:
        raise
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise FileError(f"{path}: the recipe cannot be read: {error}.") from None


def _parse_toml(text: str, path: Path) -> Any:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError, ArithmeticError) as error:  # dates that do not exist, thousands of brackets
        raise ConfigError(f"{path}: not TOML: {_one_line(error)}.") from None


def _parse_yaml(text: str, path: Path) -> Any:
    from conjoin.training.settings.recipe_yaml import read_yaml

    try:
        return read_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not YAML: {_one_line(error)}.") from None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).removesuffix(".")
    return text if len(text) <= 300 else f"{text[:300]}..."


def _without_yaml_conversions(settings: dict[str, Any]) -> dict[str, Any]:
    """Undo two conversions of YAML 1.1, which reads 1e-4 as text and `no` as False."""
    settings = {name: _float(value) if isinstance(value, str) else value for name, value in settings.items()}
    return {name: "no" if value is False and name.endswith("_strategy") else value for name, value in settings.items()}


def _float(text: str) -> float | str:
    if not text[:1].isdigit() or "e" not in text.lower():
        return text
    try:
        return float(text)
    except ValueError:
        return text


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise MissingBackend("Recipes need pyyaml: pip install 'conjoin[train]'") from None
    return yaml
