"""GenerationConfig: what generation_config.json says, in transformers' words."""

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

    Any value is taken here, so that every file loads. Values are checked when they are used, all in one error.
    Keys that no field names are kept and written back.

    Raises:
        GenerationError: a key has the name of a method, and would hide it.
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
        """Keys that are no setting that conjoin knows."""
        return {name: value for name, value in vars(self).items() if name not in self.FIELDS}

    def set_values(self) -> dict[str, Any]:
        """The settings that are not None."""
        return {name: value for name in self.FIELDS if (value := vars(self).get(name)) is not None}

    def belong_to(self, config: PretrainedConfig) -> Self:
        """These settings as a model's own, whose config answers for the special ids that they lack."""
        home = getattr(self, "_home", None)
        own = self if home is None or home is config else self.copy()
        own._home = config
        return own

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and _said(self) == _said(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # mutable

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def to_dict(self) -> dict[str, Any]:
        """Every setting and every extra key."""
        return {name: _plain(value) for name, value in copy.deepcopy(vars(self)).items()}

    def to_diff_dict(self) -> dict[str, Any]:
        """Only what is set."""
        return {name: value for name, value in self.to_dict().items() if value is not None or name not in self.FIELDS}

    def to_json_string(self, use_diff: bool = True) -> str:
        """generation_config.json's text."""
        plain = self.to_diff_dict() if use_diff else self.to_dict()
        plain.pop("compile_config", None)  # transformers keeps it out of files too
        if isinstance(plain.get("sequence_bias"), Mapping):
            bias = cast(Mapping[tuple[int, ...], float], plain["sequence_bias"])
            plain["sequence_bias"] = [[list(ids), value] for ids, value in bias.items()]  # JSON has no tuple keys
        return json.dumps(plain, indent=2, sort_keys=True, default=_to_json) + "\n"

    def update(self, *, defaults_only: bool = False, **values: Any) -> dict[str, Any]:
        """Set the values whose name is a field or an extra key of this config.

        Args:
            defaults_only: Only those that nobody set yet.

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
        """What holds where nobody set a value; transformers' Seq2SeqTrainer asks for it by this name."""
        return {"max_length": 20, **DEFAULTS}

    def copy(self, **changes: Any) -> Self:
        """A new config with some values changed."""
        return type(self)(**{**copy.deepcopy(vars(self)), **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """Build from what generation_config.json holds."""
        merged = {name: _meant(name, value) for name, value in {**values, **overrides}.items()}
        return cls(**merged)

    @classmethod
    def of(cls, given: Any) -> "GenerationConfig":
        """A config as it is; or made of a dict or of another library's config, such as transformers'.

        Raises:
            GenerationError: neither of these.
        """
        if isinstance(given, GenerationConfig):
            return given
        said = as_mapping(given)
        if said is None:
            raise GenerationError(f"generation_config is a {type(given).__name__}; expected a GenerationConfig.")
        return cls.from_dict({name: value for name, value in said.items() if value is not None})

    @classmethod
    def from_model_config(cls, config: PretrainedConfig) -> Self:
        """Read the settings that older checkpoints keep in config.json, the pair's own before its decoder's.

        A half's output switches and lengths stay where they are: they are defaults that every config carries.
        """
        said: dict[str, Any] = {name: value for name, value in config.to_dict().items() if value is not None}
        half: dict[str, Any] = said.get("decoder") or {}
        values = {name: value for name, value in half.items() if value is not None} | said
        found = {name: values[name] for name in cls.FIELDS if name in values and name not in _NOT_GENERATION}
        return cls(**found, _from_model_config=True)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | PathLike[str], config_file_name: str | None = None, **overrides: Any
    ) -> Self:
        """Read generation_config.json of a folder or hub id.

        Args:
            config_file_name: Another file's name.
            overrides: Values that win over the file's; and revision, cache_dir, local_files_only, token, subfolder.

        Raises:
            FileError: no such folder, hub id or file.
            ConfigError: the file is not JSON.
        """
        hub = {key: overrides.pop(key) for key in HUB_KEYWORDS if key in overrides}
        name = config_file_name or GENERATION_CONFIG_NAME
        folder = resolve(name_or_path, allow_patterns=[name], **hub)
        return cls.from_dict(read_json(folder / name), **overrides)

    def save_pretrained(self, save_directory: str | PathLike[str], config_file_name: str | None = None) -> None:
        """Write generation_config.json, atomically. What transformers would not save is saved too."""
        with replacing_folder(Path(save_directory)) as staging:
            path = staging.path(config_file_name or GENERATION_CONFIG_NAME)
            path.write_text(self.to_json_string(), encoding="utf-8")


class _Id:
    """A special id: a model's generation settings answer with the model's config where they hold none of their own."""

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
"""Settings whose only home is a model's generation settings; older files keep them in config.json."""


def _meant(name: str, value: Any) -> Any:
    """A value as the file that holds it means it."""
    if name == "sequence_bias" and isinstance(value, Mapping):
        return _with_tuple_keys(cast(Mapping[Any, float], value))
    return without_negative(value) if is_id_field(name) else value


def _said(config: GenerationConfig) -> dict[str, Any]:
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
    """transformers writes tuple keys as text, "(3, 4)", which it cannot read again; conjoin can.

    Other keys are kept for the check of ranges to name.
    """
    return {_tuple_key(key): value for key, value in bias.items()}


def _tuple_key(key: Any) -> Any:
    if isinstance(key, str):
        digits = re.findall(r"\d+", key) if _TUPLE.fullmatch(key) else []
        return tuple(map(int, digits)) if digits and max(map(len, digits)) < 20 else key
    return tuple(cast(Iterable[Any], key)) if isinstance(key, Iterable) else key
