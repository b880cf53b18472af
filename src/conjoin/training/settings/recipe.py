"""A whole run in words: model, data and training arguments, from a YAML or TOML file and from flags."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_type_hints

from conjoin.configuration import CrossAttentionInit, Share
from conjoin.errors import ConfigError, FileError, MissingBackend, listing, shown
from conjoin.limits import RECIPE_BYTES
from conjoin.training.settings.arguments import TrainingArguments, expectation, fits, word

SHORT = {"out": "output_dir", "resume": "resume_from_checkpoint"}
"""The command line's short words for long ones; recipes may use either."""


@dataclass(kw_only=True)
class Sources:
    """Which model is trained on which data.

    Raises:
        ConfigError: values of the wrong type, all of them in one error.
    """

    encoder: str | None = word(None, "Folder or hub id of the encoder's checkpoint.")
    decoder: str | None = word(None, "Folder or hub id of the decoder's checkpoint.")
    model: str | None = word(None, "Folder or hub id of a joined model, instead of encoder and decoder.")
    share: Share = word("none", "What the halves share: none, embeddings or all.")
    cross_attention_init: CrossAttentionInit = word("normal", "How fresh cross-attention starts.")
    dtype: str = word("float32", "Of the weights.")
    framework: Literal["torch", "jax"] = word("torch", "What trains; files and reports are the same.")
    train: str | None = word(None, "Pairs to learn from: .jsonl, .csv, .tsv (each also .gz) or .parquet.")
    validation: str | None = word(None, "Pairs to evaluate on.")
    dataset: str | None = word(None, "A data set of the hub, or a folder of one, instead of train and validation.")
    dataset_config: str | None = word(None, "Its configuration.")
    train_split: str = word("train", "Its split to learn from.")
    validation_split: str | None = word(None, "Its split to evaluate on; none by default.")

    def __post_init__(self) -> None:
        """Check types."""
        kinds = get_type_hints(type(self))
        wrong = [
            f"{each.name} = {shown(getattr(self, each.name))}; expected {expectation(kinds[each.name])}."
            for each in fields(self)
            if not fits(getattr(self, each.name), kinds[each.name])
        ]
        if wrong:
            raise ConfigError(f"This recipe cannot be used:\n{listing(wrong)}")

    def require(self) -> None:
        """Check that there is one model and one source of data, and that every word has an effect.

        Raises:
            ConfigError: none, half of one, or two of them; or words of a join beside a joined model.
        """
        halves = [name for name in ("encoder", "decoder") if getattr(self, name)]
        if bool(self.model) == bool(halves) or len(halves) == 1:
            given = ", ".join([*halves, *(["model"] if self.model else [])]) or "none of them"
            raise ConfigError(
                f"Given: {given}. Expected encoder and decoder, or model alone.",
                hint="conjoin train --encoder X --decoder Y ..., or --model DIR ...",
            )
        if bool(self.train) == bool(self.dataset):
            raise ConfigError(
                f"{'Both train and dataset are' if self.train else 'Neither train nor dataset is'} given.",
                hint="--train pairs.jsonl, or --dataset NAME --train-split train.",
            )
        self._refuse_join_words()

    def _refuse_join_words(self) -> None:
        names = ("share", "cross_attention_init")
        given = [f"{name} = {getattr(self, name)}" for name in names if getattr(self, name) != getattr(Sources, name)]
        if self.model is not None and given:
            raise ConfigError(
                f"{' and '.join(given)} with model = {self.model}: a joined model stays as it was joined.",
                hint="give --encoder and --decoder instead of --model, or leave these words out.",
            )


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is trained on what, and how."""

    sources: Sources
    arguments: TrainingArguments

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> "Recipe":
        """Build from words, dashes or underscores in them.

        Raises:
            ConfigError: unknown words or values that cannot be used, all of a kind in one error.
        """
        plain = normalised(words)
        if isinstance(plain.get("resume_from_checkpoint"), bool):
            plain["resume_from_checkpoint"] = "latest" if plain["resume_from_checkpoint"] else None
        known = {kind: {each.name for each in fields(kind)} for kind in (Sources, TrainingArguments)}
        unknown = sorted(set(plain) - known[Sources] - known[TrainingArguments])
        if unknown:
            raise ConfigError(
                f"Unknown words in the recipe: {', '.join(map(_short, unknown[:20]))}"
                f"{f' and {len(unknown) - 20} more' if len(unknown) > 20 else ''}.",
                hint="conjoin train --print-config prints every word with its value.",
            )
        sources, arguments = (kind(**{k: v for k, v in plain.items() if k in known[kind]}) for kind in known)
        return cls(cast(Sources, sources), cast(TrainingArguments, arguments))

    def words(self) -> dict[str, Any]:
        """Every word with its value, as `of` reads them."""
        inner = {each.name: getattr(self.sources, each.name) for each in fields(self.sources)}
        found = inner | self.arguments.to_dict()
        short = {long: name for name, long in SHORT.items()}
        return {short.get(name, name): value for name, value in found.items()}

    def to_yaml(self) -> str:
        """The recipe as a file that `read_recipe` reads."""
        return _yaml().safe_dump(self.words(), sort_keys=False, allow_unicode=True)

    def lasting(self) -> "Recipe":
        """The recipe without what a command did once: going on, or deleting what was there."""
        once = {name: getattr(TrainingArguments, name) for name in ("resume_from_checkpoint", "overwrite_output_dir")}
        return Recipe(self.sources, self.arguments.copy(**once))


def _short(name: str) -> str:
    """A word as it stands, where it is short and plain."""
    return name if name.isprintable() and len(name) <= 60 else shown(name)


def normalised(words: Mapping[str, Any]) -> dict[str, Any]:
    """Words with underscores, the long ones for the short.

    Raises:
        ConfigError: one word in two spellings.
    """
    found: dict[str, Any] = {}
    for name, value in words.items():
        plain = name.replace("-", "_")
        plain = SHORT.get(plain, plain)
        if plain in found:
            raise ConfigError(f"{plain} is given twice, as {shown(name)} too; expected one of them.")
        found[plain] = value
    return found


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Words of a recipe file, YAML or TOML by its ending.

    Raises:
        FileError: it cannot be read.
        ConfigError: it is not YAML or TOML, or holds no words.
    """
    path = Path(path)
    text = _text(path)
    found = _toml(text, path) if path.suffix == ".toml" else _yaml_words(text, path)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in cast("dict[Any, Any]", found)):
        raise ConfigError(f"{path}: expected words and values, such as `learning_rate: 0.0001`.")
    try:
        return _as_meant(normalised(cast("dict[str, Any]", found)))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_dir() and not path.is_file():
            raise FileError(f"{path}: the recipe cannot be read: it is no file, but a pipe or a device.")
        with open(path, "rb") as file:
            raw = file.read(RECIPE_BYTES + 1)
        if len(raw) > RECIPE_BYTES:
            raise FileError(f"{path}: the recipe has more than {RECIPE_BYTES:,} bytes; one with every word has 3,000.")
        return raw.decode("utf-8-sig")
    except FileError:
        raise
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise FileError(f"{path}: the recipe cannot be read: {error}.") from None


def _toml(text: str, path: Path) -> Any:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError, ArithmeticError) as error:  # dates that do not exist, thousands of brackets
        raise ConfigError(f"{path}: not TOML: {_one_line(error)}.") from None


def _yaml_words(text: str, path: Path) -> Any:
    from conjoin.training.settings.recipe_yaml import read_yaml

    try:
        return read_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not YAML: {_one_line(error)}.") from None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).removesuffix(".")
    return text if len(text) <= 300 else f"{text[:300]}..."


def _as_meant(words: dict[str, Any]) -> dict[str, Any]:
    """YAML 1.1 reads 1e-4 as text and `no` as false; a number and a word are meant."""
    words = {name: _float(value) if isinstance(value, str) else value for name, value in words.items()}
    return {name: "no" if value is False and name.endswith("_strategy") else value for name, value in words.items()}


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
