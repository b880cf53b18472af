"""Configs in Hugging Face's words: typed fields with defaults, unknown keys kept, from and to config.json."""

import json
from collections.abc import Collection, Iterable, Mapping
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, Union, cast, get_args, get_origin, get_type_hints

from conjoin.checkpoint import read_json, replacing_folder, resolve
from conjoin.errors import ConfigError, listing, quoted, shown
from conjoin.families.bounds import Bounds, outside
from conjoin.families.generation_settings import GenerationWords
from conjoin.families.ids import is_id_field, without_negative
from conjoin.model_types import ALIASES

CONFIG_NAME = "config.json"


class PretrainedConfig:
    """Base of every config.

    Fields are annotated class attributes; each may be given as a keyword. Keys that no field names are kept as
    attributes and written back, because config.json files carry many (transformers_version, task params ...).

    Raises:
        ConfigError: a field has a value of the wrong type; all such fields in one error.
    """

    model_type: ClassVar[str] = ""
    attribute_map: ClassVar[dict[str, str]] = {}
    """Standard name -> this family's name, so that `config.hidden_size` works on a GPT-2 config (`n_embd`)."""
    _generation = None  # of a config that belongs to a model, its `GenerationWords`

    architectures: list[str] | None = None
    dtype: str | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False
    is_encoder_decoder: bool = False
    cross_attention_hidden_size: int | None = None
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    sep_token_id: int | None = None
    decoder_start_token_id: int | None = None
    use_cache: bool = True
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True

    def __init__(self, /, **values: Any) -> None:
        values = self._by_field(values)
        values |= {field: _part(kind, values.get(field)) for field, kind in nested(type(self)).items()}
        if "torch_dtype" in values:  # the name until transformers 5
            values.setdefault("dtype", values.pop("torch_dtype"))
            values.pop("torch_dtype", None)
        if values.get("dtype") is not None:
            values["dtype"] = str(values["dtype"]).removeprefix("torch.")
        name = self.model_type or type(self).__name__
        values = {key: _meant(key, value) for key, value in values.items()}
        if hidden := parts_hidden(type(self), values, {*_defaults(type(self)), "model_type"}):
            raise ConfigError(f"{name}: {hidden}")
        if wrong := _wrong_types(type(self), values):
            raise ConfigError(f"{name}: config values of the wrong type:\n{listing(wrong)}")
        if wrong := _out_of_bounds(_defaults(type(self)), values):
            raise ConfigError(f"{name}: config values out of range:\n{listing(wrong)}")
        for name, default in _defaults(type(self)).items():
            values.setdefault(name, default)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        name = self.attribute_map.get(name, name)
        words = vars(self).get("_generation")
        if words is not None and name in words.names:
            words.set(type(self).__name__, name, value)
            return
        object.__setattr__(self, name, _meant(name, value))
        if words is not None and isinstance(value, PretrainedConfig):
            words.adopt(value, writes=name != "encoder")

    def __getattr__(self, name: str) -> Any:
        mapped = type(self).attribute_map.get(name)
        if mapped is not None:
            return getattr(self, mapped)
        words = vars(self).get("_generation")
        value = words.get(name) if words is not None and name in words.names else None
        if value is None:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}.")
        return value

    def __delattr__(self, name: str) -> None:
        words = vars(self).get("_generation")
        if words is not None and name in words.names:
            words.set(type(self).__name__, name, None)
        else:
            object.__delattr__(self, self.attribute_map.get(name, name))

    def bind_generation(
        self, names: Iterable[str], target: Any, *, writes: bool = True, instead_of: Any = None
    ) -> dict[str, Any]:
        """Belong to a model: settings of `generate` written here from now on are written to its generation settings.

        Args:
            names: All such settings.
            writes: False refuses them: an encoder writes no tokens.
            instead_of: The generation settings that these replace.

        Returns:
            Those that stood here; the caller sees to it that they are honoured.
        """
        words: GenerationWords | None = vars(self).get("_generation")
        if words is None:
            words = GenerationWords(names, _defaults(type(self)), writes=writes)
            object.__setattr__(self, "_generation", words)
        words.serve(target, instead_of)
        found = {name: vars(self).pop(name) for name in words.names & vars(self).keys()} if writes else {}
        words.note(found)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PretrainedConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # mutable

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string(use_diff=True)}"

    def to_dict(self) -> dict[str, Any]:
        """Every field and every extra key, as config.json holds them."""
        plain = {name: _plain(value) for name, value in vars(self).items() if not name.startswith("_")}
        words: GenerationWords | None = vars(self).get("_generation")
        return {**plain, **(words.said() if words else {}), "model_type": self.model_type}

    def to_diff_dict(self) -> dict[str, Any]:
        """Only what differs from the defaults, in configs within it as well."""
        defaults = _defaults(type(self))
        inner = {
            name: value.to_diff_dict() for name, value in vars(self).items() if isinstance(value, PretrainedConfig)
        }
        return {
            name: inner.get(name, value)
            for name, value in self.to_dict().items()
            if name == "model_type" or name not in defaults or value != defaults[name]
        }

    def to_json_string(self, use_diff: bool = True) -> str:
        """config.json's text."""
        return json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=True) + "\n"

    def update(self, values: Mapping[str, Any]) -> None:
        """Set several fields, checked as in the constructor; all others keep their objects."""
        checked = type(self).from_dict({**self.to_dict(), **values})
        for name, value in vars(checked).items():
            if name not in vars(self) or vars(self)[name] != value:
                setattr(self, name, value)

    def copy(self, **changes: Any) -> Self:
        """A new config with some fields changed."""
        return type(self).from_dict({**self.to_dict(), **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **overrides: Any) -> Self:
        """Build from what config.json holds.

        Raises:
            ConfigError: its model_type is another family's.
        """
        found = values.get("model_type", cls.model_type)
        found = ALIASES.get(found, found) if isinstance(found, str) else found
        if cls.model_type and found != cls.model_type:
            raise ConfigError(
                f"{cls.__name__}: the config says model_type = {found!r}; expected {cls.model_type!r}.",
                hint="AutoConfig.from_pretrained picks the class by itself.",
            )
        merged = {**cls._by_field(values), **cls._by_field(overrides)}  # a file may name a field twice
        merged.pop("model_type", None)
        return cls(**merged)

    @classmethod
    def _by_field(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return {cls.attribute_map.get(name, name): value for name, value in values.items()}

    @classmethod
    def from_pretrained(cls, name_or_path: str | PathLike[str], **overrides: Any) -> Self:
        """Read config.json of a folder or hub id; other keywords override its values.

        Args:
            overrides: revision, cache_dir, local_files_only, token and subfolder go to the hub.
        """
        hub = {key: overrides.pop(key) for key in HUB_KEYWORDS if key in overrides}
        folder = resolve(name_or_path, allow_patterns=[CONFIG_NAME], **hub)
        return cls.from_dict(read_json(folder / CONFIG_NAME), **overrides)

    def save_pretrained(self, save_directory: str | PathLike[str]) -> None:
        """Write config.json, atomically."""
        with replacing_folder(Path(save_directory)) as staging:
            staging.path(CONFIG_NAME).write_text(self.to_json_string(), encoding="utf-8")


HUB_KEYWORDS = ("revision", "cache_dir", "local_files_only", "token", "subfolder")


def parts_hidden(cls: type, keys: Iterable[str], fields: Collection[str]) -> str | None:
    """What is wrong with keys of a file that would hide methods and other parts of a class, as its attributes.

    Python asks objects for parts that most classes lack, as __deepcopy__ is, so no key has such a name.
    """
    hidden = [key for key in keys if key not in fields and (hasattr(cls, key) or key[:2] == "__" == key[-2:])]
    return f"no value can have the name {quoted(hidden)}, which the class itself uses." if hidden else None


def nested(cls: type[PretrainedConfig]) -> dict[str, type[PretrainedConfig]]:
    """Fields of a config that are configs themselves, with their classes (the halves of a T5Gemma)."""
    hints = {name: hint for name, hint in get_type_hints(cls).items() if isinstance(hint, type)}
    return {
        name: hint
        for name, hint in hints.items()
        if issubclass(hint, PretrainedConfig) and hint is not PretrainedConfig
    }


def _part(kind: type[PretrainedConfig], value: Any) -> Any:
    """The config that a file holds as an object; another kind of value is left for the check of types."""
    if value is None or isinstance(value, Mapping):
        return kind.from_dict(cast("Mapping[str, Any]", value or {}))
    return value.copy() if isinstance(value, kind) else value


def _defaults(cls: type[PretrainedConfig]) -> dict[str, Any]:
    return {
        name: getattr(cls, name)
        for base in reversed(cls.__mro__)
        for name in vars(base).get("__annotations__", {})
        if name not in ("model_type", "attribute_map") and hasattr(cls, name)
    }


def _meant(name: str, value: Any) -> Any:
    return without_negative(value) if is_id_field(name) else value


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, PretrainedConfig) else value


def _wrong_types(cls: type[PretrainedConfig], values: Mapping[str, Any]) -> list[str]:
    hints = get_type_hints(cls)
    return [
        f"{name} = {shown(value)}: expected {_spell(hints[name])}"
        for name, value in values.items()
        if name in hints and name not in ("model_type", "attribute_map") and not _fits(value, hints[name])
    ]


def _out_of_bounds(fields: Collection[str], values: Mapping[str, Any]) -> list[str]:
    """Numbers, also those in lists of ids, that no model can have."""
    return [
        f"{name} = {shown(value)}: expected {bounds}"
        for name, value in values.items()
        if name in fields and (bounds := _broken(name, value)) is not None
    ]


def _broken(name: str, value: Any) -> Bounds | None:
    ids: list[Any] = [value]
    if isinstance(value, list | tuple) and is_id_field(name):
        ids = list(cast("list[Any]", value))
    return next((bounds for each in ids if (bounds := outside(name, each)) is not None), None)


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    kind = get_origin(hint) or hint
    if kind is NoneType:
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is list and get_args(hint) == (int,):
        return isinstance(value, list | tuple) and all(_fits(each, int) for each in cast("list[Any]", value))
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is list:
        return isinstance(value, list | tuple)
    return isinstance(value, kind)


def _spell(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
