"""GenerationConfig: the settings of generation_config.json, by transformers' names."""

import copy
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from conjoin.checkpoint import read_json, replacing_folder, resolve
from conjoin.errors import GenerationError
from conjoin.families import HUB_KEYWORDS, PretrainedConfig, is_id_field, parts_hidden, without_negative
from conjoin.generation.settings import DEFAULTS, IDS, SETTINGS, Settings
from conjoin.generation.watermarking import WatermarkingConfig, as_mapping

GENERATION_CONFIG_NAME = "generation_config.json"

METADATA = ("transformers_version", "_from_model_config", "_commit_hash")
"""Keys that say where a file comes from and nothing about generation."""


class GenerationConfig(Settings):
    """Settings of `generate`, by transformers' names; None leaves the choice to the model's file, then to DEFAULTS.

    Any value is accepted here, so that every file loads; `generate` checks values, and reports all problems in one
    error. Unknown keys are kept and saved again.

    Raises:
        GenerationError: a key has the name of a method, which it would hide.
    """

    FIELDS: ClassVar[tuple[str, ...]] = tuple(SETTINGS)
    """Names of all settings."""

    __slots__ = ("__dict__", "__weakref__", "_home")

    def __init__(self, /, **values: Any) -> None:
        if hidden := parts_hidden(type(self), values, self.FIELDS):
            raise GenerationError(f"{GENERATION_CONFIG_NAME}: {hidden}")
        for name in self.FIELDS:
            setattr(self, name, values.pop(name, None))
        for name, value in values.items():
            setattr(self, name, value)

    @property
    def extras(self) -> dict[str, Any]:
        """Values of all keys that are not settings known to conjoin."""
        return {name: value for name, value in vars(self).items() if name not in SETTINGS}

    def set_values(self) -> dict[str, Any]:
        """The settings that are not None."""
        own = vars(self)
        return {name: value for name in self.FIELDS if (value := own.get(name)) is not None}

    def belong_to(self, config: PretrainedConfig) -> Self:
        """Return these settings bound to a model's config, which supplies the special ids that they lack."""
        home = getattr(self, "_home", None)
        own = self if home is None or home is config else self.copy()
        own._home = config
        return own

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and _comparable(self) == _comparable(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # mutable

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def to_dict(self) -> dict[str, Any]:
        """Return every setting and every extra key."""
        return {name: _plain(value) for name, value in copy.deepcopy(vars(self)).items()}

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the settings that are set, and every extra key."""
        return {name: value for name, value in self.to_dict().items() if value is not None or name not in self.FIELDS}

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return the text of generation_config.json."""
        plain = self.to_diff_dict() if use_diff else self.to_dict()
        plain.pop("compile_config", None)  # transformers keeps it out of files too
        if isinstance(plain.get("sequence_bias"), Mapping):
            bias = cast(Mapping[tuple[int, ...], float], plain["sequence_bias"])
            plain["sequence_bias"] = [[list(ids), value] for ids, value in bias.items()]  # JSON has no tuple keys
        return json.dumps(plain, indent=2, sort_keys=True, default=_to_json) + "\n"

    def update(self, *, defaults_only: bool = False, **values: Any) -> dict[str, Any]:
        """Set the values whose name is a field or an extra key of this config.

        Args:
            defaults_only: True sets only values that are None so far.

        Returns:
            The values that were not used.
        """
        known = {name: value for name, value in values.items() if name in vars(self)}
        if defaults_only:
            known = {name: value for name, value in known.items() if getattr(self, name) is None}
        for name, value in known.items():
            setattr(self, name, value)
        return {name: value for name, value in values.items() if name not in known}

    @staticmethod
    def _get_default_generation_params() -> dict[str, Any]:
        """Return the defaults of unset values; transformers' Seq2SeqTrainer calls this method."""
        return {"max_length": 20, **DEFAULTS}

    def copy(self, **changes: Any) -> Self:
        """Return a copy with some values changed."""
        return type(self)(**{**copy.deepcopy(vars(self)), **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """Build a config from the values of generation_config.json."""
        merged = {name: _parse_value(name, value) for name, value in {**values, **overrides}.items()}
        return cls(**merged)

    @classmethod
    def of(cls, given: Any) -> "GenerationConfig":
        """Return a config unchanged, or build one from a dict or another library's config, such as transformers'.

        Raises:
            GenerationError: it is none of these.
        """
        if isinstance(given, GenerationConfig):
            return given
        values = as_mapping(given)
        if values is None:
            raise GenerationError(f"generation_config is a {type(given).__name__}; expected a GenerationConfig.")
        return cls.from_dict({name: value for name, value in values.items() if value is not None})

    @classmethod
    def from_model_config(cls, config: PretrainedConfig) -> Self:
        """Read the settings that older checkpoints keep in config.json; the pair's win over its decoder's.

        A half's output switches and lengths stay where they are: they are defaults that every config carries.
        """
        own: dict[str, Any] = {name: value for name, value in config.to_dict().items() if value is not None}
        decoder: dict[str, Any] = own.get("decoder") or {}
        values = {name: value for name, value in decoder.items() if value is not None} | own
        settings = {name: values[name] for name in cls.FIELDS if name in values and name not in _NOT_GENERATION}
        return cls(**settings, _from_model_config=True)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | PathLike[str], config_file_name: str | None = None, **overrides: Any
    ) -> Self:
        """Read generation_config.json of a folder or hub id.

        Args:
            config_file_name: Name of the file, if it is not generation_config.json.
            overrides: Values that win over the file's, and revision, cache_dir, local_files_only, token, subfolder.

        Raises:
            FileError: the folder, hub id or file does not exist.
            ConfigError: the file is not JSON.
        """
        hub = {key: overrides.pop(key) for key in HUB_KEYWORDS if key in overrides}
        name = config_file_name or GENERATION_CONFIG_NAME
        folder = resolve(name_or_path, allow_patterns=[name], **hub)
        return cls.from_dict(read_json(folder / name), **overrides)

    def save_pretrained(self, save_directory: str | PathLike[str], config_file_name: str | None = None) -> None:
        """Write generation_config.json, atomically, even with values that transformers refuses to save."""
        with replacing_folder(Path(save_directory)) as staging:
            path = staging.path(config_file_name or GENERATION_CONFIG_NAME)
            path.write_text(self.to_json_string(), encoding="utf-8")


class _Id:
    """A special id, read from the model's config if the generation settings hold none."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, config: GenerationConfig | None, owner: Any = None) -> Any:
        if config is None:
            return None
        own = vars(config).get(self._name)
        return getattr(getattr(config, "_home", None), self._name, None) if own is None else own

    def __set__(self, config: GenerationConfig, value: Any) -> None:
        vars(config)[self._name] = value


for _name in SETTINGS:
    setattr(GenerationConfig, _name, _Id(_name) if _name in IDS else None)

_NOT_GENERATION = ("use_cache", "output_attentions", "output_hidden_states")
"""Keys that config.json shares with generation_config.json but means for the forward pass."""

GENERATION_WORDS = frozenset(GenerationConfig.FIELDS) - {*IDS, *_NOT_GENERATION}
"""Settings that belong in a model's generation settings only; older files hold them in config.json."""


def _parse_value(name: str, value: Any) -> Any:
    """Convert a value of a file: tuple keys of sequence_bias, and negative ids, which mean none."""
    if name == "sequence_bias" and isinstance(value, Mapping):
        return _with_tuple_keys(cast(Mapping[Any, float], value))
    return without_negative(value) if is_id_field(name) else value


def _comparable(config: GenerationConfig) -> dict[str, Any]:
    plain = json.loads(config.to_json_string())
    return {name: value for name, value in plain.items() if name not in METADATA}


def _plain(value: Any) -> Any:
    if isinstance(value, WatermarkingConfig):
        return value.to_dict()
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _to_json(value: Any) -> Any:
    for method in ("to_dict", "tolist"):
        if hasattr(value, method):
            return getattr(value, method)()
    return sorted(cast(set[int], value)) if isinstance(value, set) else str(value)


_TUPLE = re.compile(r"\(\s*\d+(\s*,\s*\d+)*\s*,?\s*\)")


def _with_tuple_keys(bias: Mapping[Any, float]) -> dict[Any, float]:
    """Return biases with tuple keys; transformers writes them as text, "(3, 4)", which it cannot read again.

    Other keys are kept, so that the check of ranges can report them.
    """
    return {_tuple_key(key): value for key, value in bias.items()}


def _tuple_key(key: Any) -> Any:
    if isinstance(key, str):
        digits = re.findall(r"\d+", key) if _TUPLE.fullmatch(key) else []
        return tuple(map(int, digits)) if digits and max(map(len, digits)) < 20 else key
    return tuple(cast(Iterable[Any], key)) if isinstance(key, Iterable) else key
