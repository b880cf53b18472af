"""One checked generation request: every value filled in, nothing left to guess for the decoding loops."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from conjoin import limits
from conjoin.errors import GenerationError
from conjoin.generation.asked import Asked, Tokens, collect, resolve_tokens
from conjoin.generation.checks import check
from conjoin.generation.config import GenerationConfig, WatermarkingConfig
from conjoin.generation.facts import CallFacts, ModelFacts
from conjoin.generation.forbidden import check_first_token
from conjoin.generation.lengths import Lengths, resolve_lengths
from conjoin.generation.modes import Beams, Contrastive, DiverseBeams, Mode, Sampling
from conjoin.generation.pick import pick_mode
from conjoin.generation.ranges import bias_pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is done to scores before a token is chosen; the neutral value leaves them alone.

    Args:
        forced_bos: Must be the token behind a prompt of one token.
        forced_eos: One of these must be the last token that fits.
        exponential_decay: (start, factor): from `start` new tokens on, eos gains by factor ** (tokens past start).
        prefix_allowed: The caller gave a function that says which tokens may follow.
    """

    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    encoder_repetition_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()
    prefix_allowed: bool = False
    forced_bos: int | None = None
    forced_eos: tuple[int, ...] = ()
    remove_invalid_values: bool = False
    exponential_decay: tuple[int, float] | None = None
    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    watermark: WatermarkingConfig | None = None
    renormalize: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What comes back besides the ids; all False unless `as_dict`."""

    as_dict: bool = False
    scores: bool = False
    logits: bool = False
    attentions: bool = False
    hidden_states: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A generation request that was checked.

    Args:
        max_time_s: Stop after this many seconds, None never.
        stop_strings: Stop a row once its text holds one of these; () for none.
        truncation: Cut sources that exceed the encoder's positions.
        cache: How keys and values are kept: as they are, or in 8 bits.
    """

    mode: Mode
    lengths: Lengths
    tokens: Tokens
    rules: Rules
    outputs: Outputs
    max_time_s: float | None = None
    stop_strings: tuple[str, ...] = ()
    truncation: bool = False
    cache: Literal["dynamic", "quantized"] = "dynamic"

    @property
    def num_beams(self) -> int:
        """Beams per source; 1 without beams."""
        return self.mode.num_beams if isinstance(self.mode, Beams) else 1

    @property
    def num_return_sequences(self) -> int:
        """Results per source."""
        return self.mode.num_return_sequences if isinstance(self.mode, Beams | Sampling) else 1

    @property
    def rows_per_source(self) -> int:
        """Rows of each source that processors see at once; diverse beams come group by group."""
        groups = self.mode.num_beam_groups if isinstance(self.mode, DiverseBeams) else 1
        return self.num_beams // groups if isinstance(self.mode, Beams) else self.num_return_sequences


def resolve(
    config: GenerationConfig,
    overrides: Mapping[str, Any],
    *,
    model: ModelFacts,
    call: CallFacts | None = None,
    given: GenerationConfig | None = None,
) -> Request:
    """Turn the settings of a call into a request, or say what is wrong with them.

    Args:
        config: The model's own settings.
        overrides: The call's keywords; they win over `given`, which wins over `config`.
        given: The call's `generation_config=`.

    Raises:
        GenerationError: settings are unknown, out of range or contradict each other; all of a kind in one error.

    Warns:
        ConjoinWarning: a setting of this call has no effect; names it and says what to do.
    """
    return resolve_asked(collect(config, overrides, given), model, call or CallFacts())


def resolve_asked(asked: Asked, model: ModelFacts, call: CallFacts) -> Request:
    """`resolve`, for a caller that has collected the settings before (to learn the start token, for instance)."""
    tokens = resolve_tokens(asked, model.tokens)
    check(asked, tokens, model, call)
    outputs = _outputs(asked)
    stop = asked.get("stop_strings")
    request = Request(
        mode=pick_mode(asked, call),
        lengths=resolve_lengths(asked, model, call),
        tokens=tokens,
        rules=_rules(asked, call),
        outputs=outputs,
        max_time_s=asked.get("max_time"),
        stop_strings=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        truncation=asked.get("truncation"),
        cache="quantized" if asked.get("cache_implementation") == "quantized" else "dynamic",
    )
    _check_room(request, model, call)
    check_first_token(request, model.vocab_size)
    return request


def _check_room(request: Request, model: ModelFacts, call: CallFacts) -> None:
    """Refuse what would fill memory.

    Raises:
        GenerationError: so many rows of such a length.
    """
    rows = max(request.num_beams, request.num_return_sequences)
    if isinstance(request.mode, Contrastive):
        rows = min(request.mode.top_k, model.vocab_size)
    if (asked := call.batch_size * rows * request.lengths.longest) > limits.BATCH_TOKENS:
        raise GenerationError(
            f"{call.batch_size} sources, {rows} rows for each and {request.lengths.longest} tokens in each are {asked} "
            f"tokens; expected at most {limits.BATCH_TOKENS}.",
            hint="lower max_new_tokens, num_beams or num_return_sequences, or give fewer sources at a time.",
        )


def _outputs(asked: Asked) -> Outputs:
    if not asked.get("return_dict_in_generate"):
        return Outputs()
    return Outputs(
        as_dict=True,
        scores=asked.get("output_scores"),
        logits=asked.get("output_logits"),
        attentions=asked.get("output_attentions"),
        hidden_states=asked.get("output_hidden_states"),
    )


def _rules(asked: Asked, call: CallFacts) -> Rules:
    decay = asked.get("exponential_decay_length_penalty")
    return Rules(
        sequence_bias=_bias(asked.get("sequence_bias")),
        encoder_repetition_penalty=asked.get("encoder_repetition_penalty") if call.source_ids else 1.0,
        repetition_penalty=asked.get("repetition_penalty"),
        no_repeat_ngram_size=asked.get("no_repeat_ngram_size"),
        encoder_no_repeat_ngram_size=asked.get("encoder_no_repeat_ngram_size") if call.source_ids else 0,
        bad_words=tuple(tuple(word) for word in asked.get("bad_words_ids") or ()),
        prefix_allowed=call.prefix_allowed_tokens_fn,
        forced_bos=asked.get("forced_bos_token_id"),
        forced_eos=_ids(asked.get("forced_eos_token_id")),
        remove_invalid_values=asked.get("remove_invalid_values"),
        exponential_decay=None if decay is None else (decay[0], decay[1]),
        suppress=_ids(asked.get("suppress_tokens")),
        begin_suppress=_ids(asked.get("begin_suppress_tokens")),
        watermark=WatermarkingConfig.of(asked.get("watermarking_config")),
        renormalize=asked.get("renormalize_logits"),
    )


def _bias(value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    return tuple((tuple(ids), float(bias)) for ids, bias in bias_pairs(value) or ())


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    return () if value is None else (value,) if isinstance(value, int) else tuple(value)
