"""The table of settings: each row declares one, and the rest of this package reads `SETTINGS`.

A new warper is one row here, and one function of its name in each style of arrays.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from conjoin import limits
from conjoin.generation import needs, ranges
from conjoin.generation.facts import ProcessorFacts
from conjoin.generation.needs import Need
from conjoin.generation.setting import Arguments, Phase, Setting, setting
from conjoin.generation.watermarking import WatermarkingConfig
from conjoin.limits import Range

_SHARED_VOCABULARY = "assistant and model share their vocabulary"


def as_ids(value: int | Iterable[int]) -> tuple[int, ...]:
    """Return one id or several as a tuple."""
    return (value,) if isinstance(value, int) else tuple(value)


def _itself(value: Any) -> Any:
    return value


def _biased_ids(value: Any) -> list[Any]:
    return [pair[0] for pair in ranges.bias_pairs(value) or ()]


def _biases(value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    return tuple((tuple(ids), float(bias)) for ids, bias in ranges.bias_pairs(value) or ())


def _bad_words(value: Any, eos: tuple[int, ...]) -> tuple[Any, ...] | None:
    """Return the runs of tokens to forbid; an eos alone among them is left alone."""
    runs = tuple(tuple(run) for run in value if not (len(run) == 1 and run[0] in eos))
    return (runs,) if runs else None


def _begin(facts: ProcessorFacts) -> int:
    """Return the length at which a row begins: a forced first token shifts the beginning behind itself."""
    prompt = facts.lengths.prompt
    return prompt if prompt > 1 or facts.get("forced_bos_token_id") is None else prompt + 1


def _no_arguments(value: Any, facts: ProcessorFacts) -> tuple[()]:
    return ()


def _and_kept(value: Any, facts: ProcessorFacts) -> tuple[Any, int]:
    return value, facts.kept


def _warper(
    default: Any = None,
    range: Range | None = None,
    *,
    arguments: Arguments = _and_kept,
    needs: Need = needs.SAMPLING,
    off: Any = None,
) -> Any:
    """Declare a processor that runs where tokens are drawn; it is told how many tokens it must keep."""
    return setting(default, range, phase=Phase.WARP, arguments=arguments, needs=needs, off=off)


class Settings:
    """The settings of `generate`, by transformers' names."""

    __slots__ = ()

    max_length: int | None = setting(range=ranges.whole(1))
    max_new_tokens: int | None = setting(range=ranges.whole(0))
    max_time: float | None = setting(range=ranges.POSITIVE)
    stop_strings: str | list[str] | None = setting(range=ranges.STRINGS)

    # The way of decoding.
    do_sample: bool | None = setting(False, ranges.SWITCH)
    num_beams: int | None = setting(1, ranges.whole(1), most=limits.ROWS_PER_SOURCE)
    num_beam_groups: int | None = setting(1, ranges.whole(1))
    early_stopping: bool | str | None = setting(False, ranges.one_of(True, False, "never"), needs=needs.BEAMS)
    length_penalty: float | None = setting(1.0, ranges.LENGTH_PENALTY, needs=needs.BEAMS)
    num_return_sequences: int | None = setting(1, ranges.whole(1), most=limits.ROWS_PER_SOURCE)
    penalty_alpha: float | None = setting(range=ranges.SHARE)
    constraints: list[Any] | None = setting(range=ranges.CONSTRAINTS)
    force_words_ids: list[Any] | None = setting(range=ranges.PHRASES, ids=_itself)
    copy_speculation: bool | None = setting(False, ranges.SWITCH, needs=needs.NO_BEAMS)
    """Draft tokens from the source and from what was generated; the result stays the same, only sooner."""
    prompt_lookup_num_tokens: int | None = setting(
        range=ranges.whole(1), most=limits.DRAFT_TOKENS, needs=needs.NO_BEAMS
    )
    max_matching_ngram_size: int | None = setting(2, ranges.whole(1), needs=needs.COPYING)
    num_assistant_tokens: int | None = setting(20, ranges.whole(1), most=limits.DRAFT_TOKENS, needs=needs.ASSISTANT)
    num_assistant_tokens_schedule: str | None = setting("constant", ranges.SCHEDULE, needs=needs.ASSISTANT)
    assistant_confidence_threshold: float | None = setting(0.4, ranges.SHARE, needs=needs.ASSISTANT)

    # Logits processors, in the order in which they run.
    sequence_bias: dict[tuple[int, ...], float] | list[Any] | None = setting(
        range=ranges.BIASES, ids=_biased_ids, phase=Phase.REPETITION, arguments=lambda value, _: (_biases(value),)
    )
    diversity_penalty: float | None = setting(
        0.0,
        ranges.NOT_NEGATIVE,
        needs=needs.BEAM_GROUPS,
        phase=Phase.REPETITION,
        arguments=lambda value, facts: (value, facts.get("num_beams"), facts.get("num_beam_groups")),
    )
    encoder_repetition_penalty: float | None = setting(
        1.0, ranges.POSITIVE, needs=needs.SOURCE_IDS, phase=Phase.REPETITION
    )
    repetition_penalty: float | None = setting(1.0, ranges.POSITIVE, phase=Phase.REPETITION)
    no_repeat_ngram_size: int | None = setting(0, ranges.whole(0), phase=Phase.REPETITION)
    encoder_no_repeat_ngram_size: int | None = setting(
        0, ranges.whole(0), needs=needs.SOURCE_IDS, phase=Phase.REPETITION
    )
    bad_words_ids: list[list[int]] | None = setting(
        range=ranges.BAD_WORDS,
        ids=_itself,
        phase=Phase.REPETITION,
        arguments=lambda value, facts: _bad_words(value, facts.eos),
    )
    min_length: int | None = setting(
        0, ranges.whole(0), needs=needs.EOS, phase=Phase.REPETITION, arguments=lambda value, facts: (value, facts.eos)
    )
    min_new_tokens: int | None = setting(
        range=ranges.whole(0),
        off=0,
        needs=needs.EOS,
        phase=Phase.REPETITION,
        arguments=lambda value, facts: (value, facts.lengths.prompt, facts.eos),
    )
    forced_bos_token_id: int | None = setting(range=ranges.ID, ids=_itself, phase=Phase.EDIT)
    forced_eos_token_id: int | list[int] | None = setting(
        range=ranges.ID_OR_IDS,
        ids=_itself,
        phase=Phase.EDIT,
        arguments=lambda value, facts: (as_ids(value), facts.lengths.longest),
    )
    remove_invalid_values: bool | None = setting(False, ranges.SWITCH, phase=Phase.EDIT, arguments=_no_arguments)
    exponential_decay_length_penalty: tuple[int, float] | None = setting(
        range=ranges.DECAY,
        needs=needs.EOS,
        phase=Phase.EDIT,
        arguments=lambda value, facts: (value[0] + facts.lengths.prompt, value[1], facts.eos),
    )
    suppress_tokens: list[int] | None = setting(
        range=ranges.ID_OR_IDS, ids=_itself, phase=Phase.EDIT, arguments=lambda value, _: (as_ids(value),)
    )
    begin_suppress_tokens: list[int] | None = setting(
        range=ranges.ID_OR_IDS,
        ids=_itself,
        phase=Phase.EDIT,
        arguments=lambda value, facts: (as_ids(value), _begin(facts)),
    )
    temperature: float | None = _warper(1.0, ranges.POSITIVE, arguments=lambda value, _: (float(value),))
    top_h: float | None = _warper(range=ranges.SHARE_ABOVE_0, arguments=lambda value, _: (value,))
    top_k: int | None = _warper(50, ranges.whole(0), off=0, needs=needs.SAMPLING_OR_CONTRASTIVE)
    top_p: float | None = _warper(1.0, ranges.SHARE_ABOVE_0)
    min_p: float | None = _warper(range=ranges.SHARE)
    typical_p: float | None = _warper(1.0, ranges.SHARE_ABOVE_0)
    epsilon_cutoff: float | None = _warper(0.0, ranges.SHARE_BELOW_1)
    eta_cutoff: float | None = _warper(0.0, ranges.SHARE_BELOW_1)
    watermarking_config: WatermarkingConfig | dict[str, Any] | None = setting(
        range=ranges.WATERMARK, phase=Phase.LAST, arguments=lambda value, _: (WatermarkingConfig.of(value),)
    )
    renormalize_logits: bool | None = setting(False, ranges.SWITCH, phase=Phase.LAST, arguments=_no_arguments)

    # What comes back.
    return_dict_in_generate: bool | None = setting(False, ranges.SWITCH)
    output_scores: bool | None = setting(False, ranges.SWITCH, needs=needs.OUTPUTS)
    output_logits: bool | None = setting(False, ranges.SWITCH, needs=needs.OUTPUTS)
    output_attentions: bool | None = setting(False, ranges.SWITCH, needs=needs.OUTPUTS)
    output_hidden_states: bool | None = setting(False, ranges.SWITCH, needs=needs.OUTPUTS)

    # Special ids, which are checked once they are known, and what the model is fed.
    decoder_start_token_id: int | list[int] | None = setting(is_special_id=True)
    pad_token_id: int | None = setting(is_special_id=True)
    bos_token_id: int | None = setting(is_special_id=True)
    eos_token_id: int | list[int] | None = setting(is_special_id=True)
    truncation: bool | None = setting(False, ranges.SWITCH)
    """Cut sources that exceed the encoder's positions instead of raising."""

    # The cache, and other settings of transformers that conjoin has no use for.
    cache_implementation: str | None = setting(
        unused="conjoin has one cache, grown in place; 'quantized' keeps it in 8 bits", neutral=("dynamic", "quantized")
    )
    cache_config: dict[str, Any] | None = setting(needs=needs.QUANTIZED_CACHE)
    max_cache_len: int | None = setting(unused="conjoin has one cache, grown in place")
    use_cache: bool | None = setting(True, ranges.SWITCH, unused="keys and values are always kept")
    low_memory: bool | None = setting(unused="beams share the source's keys and values anyway")
    prefill_chunk_size: int | None = setting(unused="a source is read at once")
    compile_config: Any = setting(unused="compile the model yourself: torch.compile(model)")
    disable_compile: bool | None = setting(unused="generate() never compiles by itself")
    continuous_batching_config: Any = setting(unused="the server batches by itself; generate() does not")
    is_assistant: bool | None = setting(unused="a model assists by being passed as assistant_model=")
    assistant_lookbehind: int | None = setting(10, ranges.whole(1), unused=_SHARED_VOCABULARY)
    target_lookbehind: int | None = setting(10, ranges.whole(1), unused=_SHARED_VOCABULARY)

    # Settings of transformers that conjoin cannot honour.
    guidance_scale: float | None = setting(
        unsupported="classifier-free guidance is not supported; leave it out", neutral=(1,)
    )
    token_healing: bool | None = setting(unsupported="token healing is not supported; leave it out", neutral=(False,))
    dola_layers: str | list[int] | None = setting(unsupported="DoLa decoding is not supported; leave it out")
    use_mtp: bool | None = setting(
        unsupported="multi-token prediction heads are not supported; leave it out", neutral=(False,)
    )
    assistant_early_exit: int | None = setting(
        unsupported="early exit is not supported; pass assistant_model= or copy_speculation=True"
    )
    assistant_ensemble_weight: float | None = setting(
        range=ranges.SHARE_INSIDE, unsupported="results follow the model's own distribution; leave it out"
    )
    speculation_type: str | None = setting(unsupported="only assistant_model= and copy_speculation=True draft tokens")


SETTINGS: Mapping[str, Setting] = {name: row for name, row in vars(Settings).items() if isinstance(row, Setting)}
"""Setting -> its row."""
DEFAULTS: Mapping[str, Any] = {name: row.default for name, row in SETTINGS.items() if row.default is not None}
"""What generation uses where nobody set a value. Lengths have their own rule: see `lengths.resolve_lengths`."""
IDS = tuple(name for name, row in SETTINGS.items() if row.is_special_id)
"""Settings that a model's config has too, since its loss needs them."""
