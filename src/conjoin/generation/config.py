"""GenerationConfig: what generation_config.json says, in transformers' words."""

import copy
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from conjoin.checkpoint import read_json, replacing_folder, resolve
from conjoin.errors import GenerationError
from conjoin.families import HUB_KEYWORDS, PretrainedConfig, is_id_field, parts_hidden, without_negative

GENERATION_CONFIG_NAME = "generation_config.json"

METADATA = ("transformers_version", "_from_model_config", "_commit_hash")
"""Keys that say where a file comes from and nothing about generation."""

DEFAULTS: Mapping[str, Any] = {
    "min_length": 0,
    "early_stopping": False,
    "do_sample": False,
    "num_beams": 1,
    "use_cache": True,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "renormalize_logits": False,
    "remove_invalid_values": False,
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "output_logits": False,
    "return_dict_in_generate": False,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
    "assistant_lookbehind": 10,
    "target_lookbehind": 10,
    "max_matching_ngram_size": 2,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "copy_speculation": False,
    "truncation": False,
}
"""What generation uses where nobody set a value. Lengths have their own rule: see `request.Lengths`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatermarkingConfig:
    """A watermark of green tokens (Kirchenbauer et al. 2023, arXiv:2306.04634).

    Args:
        greenlist_ratio: Share of the vocabulary that is green.
        bias: Added to the scores of green tokens.
        hashing_key: Whoever knows it can find the watermark.
        seeding_scheme: "lefthash" seeds with the last token, "selfhash" with the candidate itself too (slower).
        context_width: Tokens that "selfhash" looks back.
    """

    greenlist_ratio: float = 0.25
    bias: float = 2.0
    hashing_key: int = 15485863
    seeding_scheme: str = "lefthash"
    context_width: int = 1

    def to_dict(self) -> dict[str, Any]:
        """What generation_config.json holds."""
        return asdict(self)

    @classmethod
    def of(cls, given: Any) -> "WatermarkingConfig | None":
        """Made of a dict or of another library's config, such as transformers'; None where it is something else."""
        if isinstance(given, WatermarkingConfig):
            return given
        said = _mapping(given)
        return None if said is None or not said.keys() <= {each.name for each in fields(cls)} else cls(**said)


class GenerationConfig:
    """Settings of `generate`, by transformers' names; None leaves the choice to the model's file, then to DEFAULTS.

    Any value is taken here, so that every file loads. Values are checked when they are used, all in one error.
    Keys that no field names are kept and written back.

    Raises:
        GenerationError: a key has the name of a method, and would hide it.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    early_stopping: bool | str | None = None
    max_time: float | None = None
    stop_strings: str | list[str] | None = None
    do_sample: bool | None = None
    num_beams: int | None = None
    use_mtp: bool | None = None
    use_cache: bool | None = None
    cache_implementation: str | None = None
    cache_config: dict[str, Any] | None = None
    max_cache_len: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_h: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    repetition_penalty: float | None = None
    encoder_repetition_penalty: float | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    bad_words_ids: list[list[int]] | None = None
    renormalize_logits: bool | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list[int] | None = None
    remove_invalid_values: bool | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None
    sequence_bias: dict[tuple[int, ...], float] | list[Any] | None = None
    token_healing: bool | None = None
    guidance_scale: float | None = None
    watermarking_config: WatermarkingConfig | dict[str, Any] | None = None
    num_return_sequences: int | None = None
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    return_dict_in_generate: bool | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    encoder_no_repeat_ngram_size: int | None = None
    decoder_start_token_id: int | list[int] | None = None
    is_assistant: bool | None = None
    num_assistant_tokens: int | None = None
    num_assistant_tokens_schedule: str | None = None
    assistant_confidence_threshold: float | None = None
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int | None = None
    assistant_early_exit: int | None = None
    assistant_lookbehind: int | None = None
    target_lookbehind: int | None = None
    assistant_ensemble_weight: float | None = None
    speculation_type: str | None = None
    compile_config: Any = None
    disable_compile: bool | None = None
    continuous_batching_config: Any = None
    prefill_chunk_size: int | None = None
    # These left transformers' core for code on its hub; conjoin has them.
    penalty_alpha: float | None = None
    diversity_penalty: float | None = None
    num_beam_groups: int | None = None
    constraints: list[Any] | None = None
    force_words_ids: list[Any] | None = None
    low_memory: bool | None = None
    dola_layers: str | list[int] | None = None
    # conjoin's own.
    copy_speculation: bool | None = None
    """Draft tokens from the source and from what was generated; the result stays the same, only sooner."""
    truncation: bool | None = None
    """Cut sources that exceed the encoder's positions instead of raising."""

    FIELDS: ClassVar[tuple[str, ...]] = ()
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
        said = _mapping(given)
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


IDS = ("decoder_start_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
"""Settings that a model's config has too, since its loss needs them."""
for _name in IDS:
    setattr(GenerationConfig, _name, _Id(_name))

GenerationConfig.FIELDS = tuple(name for name in GenerationConfig.__annotations__ if name != "FIELDS")

_NOT_GENERATION = ("use_cache", "output_attentions", "output_hidden_states")
"""Keys that config.json shares with generation_config.json but means for the forward pass."""

GENERATION_WORDS = frozenset(GenerationConfig.FIELDS) - {*IDS, *_NOT_GENERATION}
"""Settings whose only home is a model's generation settings; older files keep them in config.json."""


def _meant(name: str, value: Any) -> Any:
    """A value as the file that holds it means it."""
    if name == "sequence_bias" and isinstance(value, Mapping):
        return _with_tuple_keys(cast(Mapping[Any, float], value))
    return without_negative(value) if is_id_field(name) else value


def _mapping(given: Any) -> Mapping[str, Any] | None:
    """A dict, or what another library's config says of itself."""
    said = given.to_dict() if hasattr(given, "to_dict") else given
    return cast(Mapping[str, Any], said) if isinstance(said, Mapping) else None


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
