"""What a pipeline is given: settings of its own and settings of `generate`, when it is made and at each call."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from conjoin.errors import ConfigError, listing, near, shown, warn
from conjoin.generation import SETTINGS, GenerationConfig
from conjoin.generation.needs import BEAMS

PIPELINE_DEFAULTS: dict[str, Any] = {"max_new_tokens": 256, "num_beams": 4}
"""transformers 4.57's, for what the model's files leave open."""
BATCH_SIZE = 32
_ONE_BEAM = ("assistant_model", "copy_speculation", "penalty_alpha", "prompt_lookup_num_tokens")
"""Settings that choose a way of decoding without beams."""
CALLBACKS = ("logits_processor", "prefix_allowed_tokens_fn", "stopping_criteria", "streamer")
"""Arguments of `generate` that are called, and that see rows of one batch: with them, texts are alone by default."""
_ARGUMENTS = (*CALLBACKS, "assistant_model", "generation_config", "prng_key", "seed", "tokenizer")
"""Arguments of `generate` that are no settings; seed is TensorFlow's, prng_key JAX's."""
_OF_OUTPUTS = ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states")
_LENGTHS = {"max_length": "max_new_tokens", "max_new_tokens": "max_length"}
_TRUNCATIONS = {
    **dict.fromkeys((True, "longest_first", "only_first"), True),
    **dict.fromkeys((None, False, "do_not_truncate"), False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOptions:
    """Settings of a pipeline itself; None leaves the choice to the pipeline.

    Args:
        batch_size: Sources per batch.
        truncation: True truncates sources to what the model reads; False, the default, refuses longer ones.
        clean_up_tokenization_spaces: Remove the spaces before punctuation; False by default.
        return_tensors: Return token ids, instead of texts unless `return_text` is True.
        stop_sequence: Results end behind it.
        src_lang, tgt_lang: Language codes of sources and results.
        num_workers: Has no effect: texts are tokenized by threads.
    """

    batch_size: int | None = None
    truncation: Any = None
    clean_up_tokenization_spaces: bool | None = None
    return_tensors: bool | None = None
    return_text: bool | None = None
    stop_sequence: str | None = None
    src_lang: str | None = None
    tgt_lang: str | None = None
    num_workers: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.batch_size is not None and (type(self.batch_size) is not int or self.batch_size < 1):
            raise ConfigError(f"batch_size = {shown(self.batch_size)}; expected a whole number of 1 or more.")
        if _value(self.truncation) not in _TRUNCATIONS:
            raise ConfigError(
                f"truncation = {shown(_value(self.truncation))}; expected True, False, "
                "'longest_first', 'only_first' or 'do_not_truncate'."
            )
        if self.return_text is False and not self.return_tensors:
            raise ConfigError(
                "return_text = False leaves nothing to return.", hint="return_tensors=True returns token ids."
            )
        if self.num_workers:
            warn(f"num_workers = {self.num_workers}: no effect here, texts are tokenized by threads.")

    @property
    def truncates(self) -> bool:
        """True if sources that are too long are truncated."""
        return _TRUNCATIONS[_value(self.truncation)]

    @property
    def returns_text(self) -> bool:
        """True if results hold texts."""
        return not self.return_tensors if self.return_text is None else self.return_text


_OWN = tuple(field.name for field in fields(PipelineOptions))


@dataclass(frozen=True, slots=True)
class CallArguments:
    """Keyword arguments, sorted.

    Args:
        own: Settings of the pipeline itself.
        generation: Settings and callbacks of `generate`.
    """

    own: Mapping[str, Any]
    generation: Mapping[str, Any]

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> "CallArguments":
        """Sort keyword arguments; None means "not set".

        Raises:
            ConfigError: nothing takes an argument; the error names similar ones.
        """
        given = {name: value for name, value in keywords.items() if value is not None}
        known = {*_OWN, *GenerationConfig.FIELDS, *_ARGUMENTS}
        unknown = [name for name in given if name not in known]
        if unknown:
            lines = [f"{name}: did you mean {close}?" if (close := near(name, known)) else name for name in unknown]
            raise ConfigError(f"A pipeline does not know these arguments:\n{listing(lines)}")
        if outputs := [name for name in _OF_OUTPUTS if given.get(name)]:
            raise ConfigError(
                f"{', '.join(outputs)}: a pipeline returns texts or token ids only.",
                hint="pipe.model.generate(...) returns scores, attentions and hidden states.",
            )
        own = {name: value for name, value in given.items() if name in _OWN}
        return cls(own, _spread({name: value for name, value in given.items() if name not in _OWN}))

    def over(self, other: "CallArguments") -> PipelineOptions:
        """Return the pipeline's settings, these before the other's."""
        return PipelineOptions(**{**other.own, **self.own})


def merge_generation(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of `generate`: later layers win, and their kind of length replaces the other kind.

    In transformers 4.57 max_length had no effect beside the pipeline's own max_new_tokens.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        lengths = _LENGTHS.keys() & layer.keys()
        replaced = {_LENGTHS[name] for name in lengths} - layer.keys()
        merged = {name: value for name, value in merged.items() if name not in replaced}
        if lengths and "min_length" not in layer:
            merged |= _lowered(merged.get("min_length"), layer)
        merged |= layer
    return merged


def _lowered(least: Any, lengths: Mapping[str, Any]) -> dict[str, Any]:
    """Return the min_length of a lower layer that gives way to a maximum length; {} if it needs not."""
    longest = lengths["max_new_tokens"] + 1 if "max_new_tokens" in lengths else lengths["max_length"]
    if not isinstance(longest, int) or not isinstance(least, int) or least <= longest:
        return {}
    warn(f"min_length = {least} of the task gives way to results of at most {longest} tokens: none ends before.")
    return {"min_length": longest}


def complete_generation(
    settings: Mapping[str, Any], defaults: GenerationConfig, positions: int | None
) -> dict[str, Any]:
    """Return settings with what neither they nor the model's own say about lengths and beams.

    Args:
        defaults: The model's own.
        positions: The longest result that the decoder can write; None if it has no limit.
    """
    completed = dict(settings)
    if "max_length" in settings and "max_new_tokens" not in settings and defaults.max_new_tokens is not None:
        completed["max_new_tokens"] = max(completed.pop("max_length") - 1, 1)  # the start id counts in max_length only
    if all(completed.get(name, getattr(defaults, name)) is None for name in _LENGTHS):
        longest = PIPELINE_DEFAULTS["max_new_tokens"]
        completed["max_new_tokens"] = longest if positions is None else min(longest, positions)
    chosen = any(settings.get(name, getattr(defaults, name, None)) for name in ("num_beams", *_ONE_BEAM))
    return completed if chosen else {**completed, "num_beams": PIPELINE_DEFAULTS["num_beams"]}


def without_idle(settings: Mapping[str, Any], chosen: Collection[str], defaults: GenerationConfig) -> dict[str, Any]:
    """Return settings without those of beams if there is one beam, such as a task's length_penalty.

    Args:
        chosen: Names that the call itself says, which stay: `generate` warns of them.
        defaults: The model's own.
    """
    one_beam = (settings.get("num_beams") or defaults.num_beams or 1) == 1
    return {
        name: value
        for name, value in settings.items()
        if not one_beam or name in chosen or name not in SETTINGS or SETTINGS[name].needs is not BEAMS
    }


def longest_result(settings: Mapping[str, Any], defaults: GenerationConfig) -> int:
    """Return the length at which results end, in tokens."""
    return next(
        value
        for source in (settings, vars(defaults))
        for name in ("max_new_tokens", "max_length")
        if (value := source.get(name)) is not None
    )


def _value(choice: Any) -> Any:
    """Return the value of an enum such as transformers' TruncationStrategy."""
    value = getattr(choice, "value", choice)
    return value if value is None or isinstance(value, bool | str) else str(value)


def _spread(settings: dict[str, Any]) -> dict[str, Any]:
    """Replace a generation_config by what it sets; settings by name win."""
    config = settings.pop("generation_config", None)
    return settings if config is None else merge_generation(GenerationConfig.of(config).set_values(), settings)
