"""One checked generation request: every value filled in, nothing left to guess for the decoding loops."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from conjoin import limits
from conjoin.errors import GenerationError
from conjoin.generation.checks import check
from conjoin.generation.config import GenerationConfig
from conjoin.generation.facts import CallFacts, Circumstances, Lengths, ModelFacts, ProcessorFacts
from conjoin.generation.forbidden import check_first_token
from conjoin.generation.lengths import resolve_lengths
from conjoin.generation.modes import Beams, Contrastive, DiverseBeams, Mode, Sampling
from conjoin.generation.pick import pick_mode
from conjoin.generation.plan import processor_plan
from conjoin.generation.setting import ProcessorSpec
from conjoin.generation.user_settings import Tokens, UserSettings, collect, resolve_tokens


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
        plan: The logits processors, in the order in which they run.
        max_time_s: Stop after this many seconds, None never.
        stop_strings: Stop a row once its text holds one of these; () for none.
        truncation: Cut sources that exceed the encoder's positions.
        cache: How keys and values are kept: as they are, or in 8 bits.
    """

    mode: Mode
    lengths: Lengths
    tokens: Tokens
    plan: tuple[ProcessorSpec, ...]
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
    return resolve_settings(collect(config, overrides, given), model, call or CallFacts())


def resolve_settings(settings: UserSettings, model: ModelFacts, call: CallFacts) -> Request:
    """`resolve`, for a caller that has collected the settings before (to learn the start token, for instance)."""
    tokens = resolve_tokens(settings, model.tokens)
    circumstances = Circumstances(settings.get, call, tokens.eos)
    check(settings, tokens, model, circumstances)
    lengths = resolve_lengths(settings, model, call)
    plan = processor_plan(ProcessorFacts(settings.get, call, tokens.eos, lengths))
    stop = settings.get("stop_strings")
    request = Request(
        mode=pick_mode(settings, circumstances),
        lengths=lengths,
        tokens=tokens,
        plan=plan,
        outputs=_outputs(settings),
        max_time_s=settings.get("max_time"),
        stop_strings=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        truncation=settings.get("truncation"),
        cache="quantized" if settings.get("cache_implementation") == "quantized" else "dynamic",
    )
    _check_room(request, model, call)
    check_first_token(plan, lengths, tokens.eos, model.vocab_size)
    return request


def _check_room(request: Request, model: ModelFacts, call: CallFacts) -> None:
    """Refuse what would fill memory.

    Raises:
        GenerationError: so many rows of such a length.
    """
    rows = max(request.num_beams, request.num_return_sequences)
    if isinstance(request.mode, Contrastive):
        rows = min(request.mode.top_k, model.vocab_size)
    if (total := call.batch_size * rows * request.lengths.longest) > limits.BATCH_TOKENS:
        raise GenerationError(
            f"{call.batch_size} sources, {rows} rows for each and {request.lengths.longest} tokens in each are {total} "
            f"tokens; expected at most {limits.BATCH_TOKENS}.",
            hint="lower max_new_tokens, num_beams or num_return_sequences, or give fewer sources at a time.",
        )


def _outputs(settings: UserSettings) -> Outputs:
    if not settings.get("return_dict_in_generate"):
        return Outputs()
    return Outputs(
        as_dict=True,
        scores=settings.get("output_scores"),
        logits=settings.get("output_logits"),
        attentions=settings.get("output_attentions"),
        hidden_states=settings.get("output_hidden_states"),
    )
