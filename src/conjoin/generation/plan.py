"""Which logits processors a request needs, in which order; data that every backend builds its own from.

The order is transformers' (generation/utils.py, `_get_logits_processor`), because it decides results.
"""

from dataclasses import dataclass, replace

from conjoin.generation.config import WatermarkingConfig
from conjoin.generation.modes import Assisted, BeamSampling, CopySpeculation, DiverseBeams, Mode, Sampling, Warpers
from conjoin.generation.request import Request


@dataclass(frozen=True, slots=True)
class SequenceBias:
    """Add `bias` to the token that would complete `ids`."""

    biases: tuple[tuple[tuple[int, ...], float], ...]


@dataclass(frozen=True, slots=True)
class HammingDiversity:
    """Lower tokens that earlier groups of beams chose at this step."""

    penalty: float
    num_beams: int
    num_beam_groups: int


@dataclass(frozen=True, slots=True)
class EncoderRepetitionPenalty:
    """Raise tokens of the source (penalty above 1)."""

    penalty: float


@dataclass(frozen=True, slots=True)
class RepetitionPenalty:
    """Lower tokens that the row holds (penalty above 1)."""

    penalty: float


@dataclass(frozen=True, slots=True)
class NoRepeatNGram:
    """Forbid a second occurrence of any run of `size` tokens in the row."""

    size: int


@dataclass(frozen=True, slots=True)
class EncoderNoRepeatNGram:
    """Forbid runs of `size` tokens that the source holds."""

    size: int


@dataclass(frozen=True, slots=True)
class NoBadWords:
    """Forbid these runs of tokens; an eos alone among them is left alone."""

    words: tuple[tuple[int, ...], ...]
    eos: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MinLength:
    """Forbid eos before the row has `length` tokens."""

    length: int
    eos: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MinNewTokens:
    """Forbid eos among the first `count` tokens behind the prompt."""

    prompt_length: int
    count: int
    eos: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrefixAllowed:
    """Allow only what the caller's function says."""

    num_beams: int


@dataclass(frozen=True, slots=True)
class ForcedBOS:
    """The token behind a prompt of one token."""

    token: int


@dataclass(frozen=True, slots=True)
class ForcedEOS:
    """The last token of a row that reaches `max_length`."""

    max_length: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class InfNanRemove:
    """Replace nan by 0 and infinities by the largest numbers."""


@dataclass(frozen=True, slots=True)
class ExponentialDecay:
    """Raise eos by factor ** (tokens past start), start counted over the whole row."""

    start: int
    factor: float
    eos: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Suppress:
    """Forbid tokens."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SuppressAtBegin:
    """Forbid tokens where the row has `begin` tokens."""

    tokens: tuple[int, ...]
    begin: int


@dataclass(frozen=True, slots=True)
class Callers:
    """The caller's own processors stand here."""


@dataclass(frozen=True, slots=True)
class Temperature:
    """Divide scores."""

    temperature: float


@dataclass(frozen=True, slots=True)
class TopH:
    """Keep the likeliest tokens within a share of the entropy (Potraghloo et al. 2025, arXiv:2509.02510)."""

    share: float


@dataclass(frozen=True, slots=True)
class TopK:
    """Keep the k likeliest."""

    k: int
    keep: int


@dataclass(frozen=True, slots=True)
class TopP:
    """Keep the likeliest that together reach p (Holtzman et al. 2019, arXiv:1904.09751)."""

    p: float
    keep: int


@dataclass(frozen=True, slots=True)
class MinP:
    """Keep tokens of at least p times the best one's probability (Nguyen et al. 2024, arXiv:2407.01082)."""

    p: float
    keep: int


@dataclass(frozen=True, slots=True)
class TypicalP:
    """Keep the most typical tokens that together reach p (Meister et al. 2022, arXiv:2202.00666)."""

    p: float
    keep: int


@dataclass(frozen=True, slots=True)
class Epsilon:
    """Keep tokens above a probability (Hewitt et al. 2022, arXiv:2210.15191)."""

    cutoff: float
    keep: int


@dataclass(frozen=True, slots=True)
class Eta:
    """Keep tokens above a probability that falls with the entropy (Hewitt et al. 2022, arXiv:2210.15191)."""

    cutoff: float
    keep: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """Raise green tokens."""

    config: WatermarkingConfig


@dataclass(frozen=True, slots=True)
class Renormalize:
    """log_softmax, last."""


ProcessorSpec = (
    SequenceBias
    | HammingDiversity
    | EncoderRepetitionPenalty
    | RepetitionPenalty
    | NoRepeatNGram
    | EncoderNoRepeatNGram
    | NoBadWords
    | MinLength
    | MinNewTokens
    | PrefixAllowed
    | ForcedBOS
    | ForcedEOS
    | InfNanRemove
    | ExponentialDecay
    | Suppress
    | SuppressAtBegin
    | Callers
    | Temperature
    | TopH
    | TopK
    | TopP
    | MinP
    | TypicalP
    | Epsilon
    | Eta
    | Watermark
    | Renormalize
)


def processor_plan(request: Request, *, encoder_input_ids: bool = True) -> tuple[ProcessorSpec, ...]:
    """The processors of a request in the order in which they run; `Callers` is always among them.

    Args:
        encoder_input_ids: Whether source ids are at hand; without them what looks at the source is left out.
    """
    rules = request.rules
    if not encoder_input_ids:
        rules = replace(rules, encoder_repetition_penalty=1.0, encoder_no_repeat_ngram_size=0)
        request = replace(request, rules=rules)
    return (
        *_repetition(request),
        *_ends(request),
        *((InfNanRemove(),) if rules.remove_invalid_values else ()),
        *_decay(request),
        *((Suppress(rules.suppress),) if rules.suppress else ()),
        *_begin(request),
        Callers(),
        *_warpers(request),
        *((Watermark(rules.watermark),) if rules.watermark else ()),
        *((Renormalize(),) if rules.renormalize else ()),
    )


def _repetition(request: Request) -> list[ProcessorSpec]:
    rules, mode = request.rules, request.mode
    plan: list[ProcessorSpec] = []
    if rules.sequence_bias:
        plan.append(SequenceBias(rules.sequence_bias))
    if isinstance(mode, DiverseBeams) and mode.diversity_penalty:
        plan.append(HammingDiversity(mode.diversity_penalty, mode.num_beams, mode.num_beam_groups))
    if rules.encoder_repetition_penalty != 1:
        plan.append(EncoderRepetitionPenalty(rules.encoder_repetition_penalty))
    if rules.repetition_penalty != 1:
        plan.append(RepetitionPenalty(rules.repetition_penalty))
    if rules.no_repeat_ngram_size:
        plan.append(NoRepeatNGram(rules.no_repeat_ngram_size))
    if rules.encoder_no_repeat_ngram_size:
        plan.append(EncoderNoRepeatNGram(rules.encoder_no_repeat_ngram_size))
    if rules.bad_words:
        plan.append(NoBadWords(rules.bad_words, request.tokens.eos))
    return plan


def _ends(request: Request) -> list[ProcessorSpec]:
    rules, lengths, eos = request.rules, request.lengths, request.tokens.eos
    plan: list[ProcessorSpec] = []
    if lengths.min_new_tokens and eos:
        plan.append(MinNewTokens(lengths.prompt, lengths.min_new_tokens, eos))
    elif lengths.shortest and eos:
        plan.append(MinLength(lengths.shortest, eos))
    if rules.prefix_allowed:
        plan.append(PrefixAllowed(request.rows_per_source if request.num_beams > 1 else 1))
    if rules.forced_bos is not None:
        plan.append(ForcedBOS(rules.forced_bos))
    if rules.forced_eos:
        plan.append(ForcedEOS(lengths.longest, rules.forced_eos))
    return plan


def _decay(request: Request) -> tuple[ProcessorSpec, ...]:
    decay, eos = request.rules.exponential_decay, request.tokens.eos
    return (ExponentialDecay(decay[0] + request.lengths.prompt, decay[1], eos),) if decay and eos else ()


def _begin(request: Request) -> tuple[ProcessorSpec, ...]:
    """A forced first token shifts the beginning behind itself."""
    rules, prompt = request.rules, request.lengths.prompt
    begin = prompt if prompt > 1 or rules.forced_bos is None else prompt + 1
    return (SuppressAtBegin(rules.begin_suppress, begin),) if rules.begin_suppress else ()


def _warpers(request: Request) -> list[ProcessorSpec]:
    warpers = _warpers_of(request.mode)
    if warpers is None:
        return []
    # Beams need one token that is no eos to go on with, besides each eos.
    keep = max(2, 1 + len(request.tokens.eos)) if request.num_beams > 1 else 1
    every: list[tuple[bool, ProcessorSpec]] = [
        (warpers.temperature != 1, Temperature(float(warpers.temperature))),
        (warpers.top_h is not None, TopH(warpers.top_h or 0.0)),
        (warpers.top_k != 0, TopK(warpers.top_k, keep)),
        (warpers.top_p < 1, TopP(warpers.top_p, keep)),
        (warpers.min_p is not None, MinP(warpers.min_p or 0.0, keep)),
        (warpers.typical_p < 1, TypicalP(warpers.typical_p, keep)),
        (warpers.epsilon_cutoff > 0, Epsilon(warpers.epsilon_cutoff, keep)),
        (warpers.eta_cutoff > 0, Eta(warpers.eta_cutoff, keep)),
    ]
    return [spec for wanted, spec in every if wanted]


def _warpers_of(mode: Mode) -> Warpers | None:
    match mode:
        case Sampling(warpers=warpers) | BeamSampling(warpers=warpers):
            return warpers
        case Assisted(base=base) | CopySpeculation(base=base):
            return _warpers_of(base)
        case _:
            return None
