"""Settings that cannot be honoured, contradict each other, or have no effect."""

from collections.abc import Iterator
from typing import Any

from conjoin.errors import GenerationError, listing, shown, warn
from conjoin.generation.facts import CallFacts, Circumstances, ModelFacts
from conjoin.generation.idle import idle_settings
from conjoin.generation.modes import AnyOf
from conjoin.generation.needs import COPYING
from conjoin.generation.pick import constraints_of
from conjoin.generation.ranges import items_of
from conjoin.generation.settings import SETTINGS
from conjoin.generation.user_settings import GENERATE_ARGUMENTS, Tokens, UserSettings


def check(settings: UserSettings, tokens: Tokens, model: ModelFacts, circumstances: Circumstances) -> None:
    """Raise what is wrong, warn of what has no effect.

    Raises:
        GenerationError: values out of range, all of them; else contradictions, all of them.
    """
    call = circumstances.call
    _raise(
        "Generation settings out of range",
        [*_out_of_range(settings), *_too_large(settings), *_outside(settings, tokens, model), *_start(tokens, call)],
    )
    _raise("Generation settings that conjoin cannot honour", [*_unsupported(settings)])
    _raise("Generation settings contradict each other", [*_conflicts(settings, circumstances)])
    if idle := [*idle_settings(settings, circumstances)]:
        warn(f"Generation settings without effect:\n{listing(idle)}")


def _raise(title: str, problems: list[str]) -> None:
    if problems:
        raise GenerationError(f"{title}:\n{listing(problems)}")


def _out_of_range(settings: UserSettings) -> Iterator[str]:
    for name, value in settings.values.items():
        row = SETTINGS[name]
        if row.range is not None and not row.holds(value):
            yield f"{name} = {shown(value)}: expected {row.range.description}{_hint(name, value)}"


def _too_large(settings: UserSettings) -> Iterator[str]:
    """Numbers that would fill memory or time; lengths are looked at once the position table has cut them."""
    for name, value in settings.values.items():
        if (row := SETTINGS[name]).most is not None and row.holds(value) and value > row.most:
            yield f"{name} = {shown(value)}: expected at most {row.most}"


def _hint(name: str, value: Any) -> str:
    return "; for greedy decoding set do_sample=False" if name == "temperature" and value == 0 else ""


def _outside(settings: UserSettings, tokens: Tokens, model: ModelFacts) -> Iterator[str]:
    every = {
        "decoder_start_token_id": tokens.start,
        "eos_token_id": tokens.eos,
        "pad_token_id": (tokens.pad,),
        **{name: _ids_in(settings, name) for name in settings.values if SETTINGS[name].ids is not None},
    }
    for name, ids in every.items():
        wrong = [i for i in ids if i is not None and not (isinstance(i, int) and 0 <= i < model.vocab_size)]
        if wrong:
            found = shown(wrong[0] if len(wrong) == 1 else wrong)
            yield f"{name} = {found}: expected ids of the decoder's vocabulary, 0 to {model.vocab_size - 1}"


def _ids_in(settings: UserSettings, name: str) -> tuple[Any, ...]:
    """Return every id that a setting holds; none where its shape is wrong, which its range tells."""
    value, row = settings.get(name), SETTINGS[name]
    return _flat(row.ids(value)) if row.ids is not None and row.holds(value) else ()


def _flat(value: Any) -> tuple[Any, ...]:
    """The ids in nested lists."""
    items = items_of(value)
    if items is not None:
        return tuple(i for item in items for i in _flat(item))
    return () if value is None else (value,)


def _start(tokens: Tokens, call: CallFacts) -> Iterator[str]:
    if not tokens.start:
        yield (
            "decoder_start_token_id is not set, nor is bos_token_id: set "
            "model.generation_config.decoder_start_token_id, or --set decoder_start_token_id=ID on the command line "
            "(usually the target tokenizer's cls or bos id)"
        )
    elif len(tokens.start) not in (1, call.batch_size):
        yield (
            f"decoder_start_token_id has {len(tokens.start)} ids for {call.batch_size} sources: "
            "expected one, or one per source"
        )


def _unsupported(settings: UserSettings) -> Iterator[str]:
    for name, value in settings.values.items():
        if (row := SETTINGS[name]).unsupported and value not in row.neutral:
            yield f"{name} = {shown(value)}: {row.unsupported}"
    cache_config = settings.get("cache_config")
    if settings.get("cache_implementation") == "quantized" and cache_config not in (None, {}, {"nbits": 8}):
        yield (
            f"cache_config = {cache_config!r}: conjoin's quantized cache has 8 bits, and a unit for every "
            "position and head; set cache_config={'nbits': 8}, or leave it out"
        )
    for name in settings.unknown:
        if name in GENERATE_ARGUMENTS:
            yield f"{name} stands in the generation config: pass it to generate() itself"


def _conflicts(settings: UserSettings, circumstances: Circumstances) -> Iterator[str]:
    call = circumstances.call
    yield from _beam_conflicts(settings)
    copies = COPYING.holds(circumstances)
    yield from _count_conflicts(settings, call, copies=copies)
    yield from _mode_conflicts(settings, call, copies=copies)
    yield from _token_conflicts(settings)
    if settings.get("stop_strings") is not None and not call.tokenizer:
        yield "stop_strings needs the target tokenizer: pass tokenizer= to generate()"


def _beam_conflicts(settings: UserSettings) -> Iterator[str]:
    beams, groups = settings.get("num_beams"), settings.get("num_beam_groups")
    if groups > 1 and (beams % groups or groups > beams):
        yield f"num_beam_groups = {groups} does not divide num_beams = {beams}"
    if groups > 1 and settings.get("diversity_penalty") == 0:
        yield f"num_beam_groups = {groups} with diversity_penalty = 0 gives equal groups: set diversity_penalty above 0"
    if groups > 1 and settings.get("do_sample"):
        yield f"num_beam_groups = {groups} with do_sample = True: diverse beams do not sample; set do_sample=False"
    if name := _constraints_name(settings):
        if beams == 1:
            yield f"{name} needs beams: set num_beams (4, say)"
        if settings.get("do_sample"):
            yield f"{name} with do_sample = True: constrained beams do not sample; set do_sample=False"
        if groups > 1:
            yield f"{name} with num_beam_groups = {groups}: set num_beam_groups=1"


def _constraints_name(settings: UserSettings) -> str:
    if not constraints_of(settings):
        return ""
    return "force_words_ids" if settings.get("force_words_ids") is not None else "constraints"


def _count_conflicts(settings: UserSettings, call: CallFacts, *, copies: bool) -> Iterator[str]:
    count, beams = settings.get("num_return_sequences"), settings.get("num_beams")
    if count > 1 and beams > 1 and count > beams:
        yield f"num_return_sequences = {count} exceeds num_beams = {beams}: raise num_beams"
    if count > 1 and beams == 1 and not settings.get("do_sample"):
        yield f"num_return_sequences = {count}, but greedy decoding has one result: set do_sample=True or num_beams"
    if count > 1 and (call.assistant or (copies and beams == 1)):
        drafts = "assistant_model" if call.assistant else "copy_speculation or prompt_lookup_num_tokens"
        yield f"num_return_sequences = {count} with {drafts}: drafting works on one result per source"


def _mode_conflicts(settings: UserSettings, call: CallFacts, *, copies: bool) -> Iterator[str]:
    beams = settings.get("num_beams")
    if settings.get("penalty_alpha"):
        alpha = f"penalty_alpha = {settings.get('penalty_alpha')}"
        if beams > 1:
            yield f"{alpha} with num_beams = {beams}: contrastive search has no beams; set num_beams=1"
        if settings.get("do_sample"):
            yield f"{alpha} with do_sample = True: contrastive search does not sample; set do_sample=False"
        if settings.get("top_k") < 2:
            yield f"{alpha} with top_k = {settings.get('top_k')}: contrastive search compares at least 2 tokens"
        if call.assistant or copies:
            yield f"{alpha} with drafts: leave out assistant_model, copy_speculation and prompt_lookup_num_tokens"
    if call.assistant and beams > 1:
        yield f"assistant_model with num_beams = {beams}: drafting works without beams; set num_beams=1"
    if call.assistant and copies:
        yield "assistant_model with copy_speculation or prompt_lookup_num_tokens: choose one source of drafts"
    if not settings.get("use_cache") and (call.assistant or settings.get("penalty_alpha")):
        yield "use_cache = False: drafting and contrastive search need the cache"


def _token_conflicts(settings: UserSettings) -> Iterator[str]:
    suppressed = {*_ids_in(settings, "suppress_tokens")}
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = {*_ids_in(settings, name)}
        if forced and forced <= suppressed:
            yield f"{name} = {settings.get(name)!r} is forced, but suppress_tokens forbids it"
    for constraint in constraints_of(settings):
        phrases = constraint.phrases if isinstance(constraint, AnyOf) else (constraint,)
        if all(suppressed & {*phrase.ids} for phrase in phrases):
            ids = [list(phrase.ids) for phrase in phrases]
            phrase = ids[0] if len(ids) == 1 else ids
            yield f"{_constraints_name(settings)} asks for {phrase}, but suppress_tokens forbids it"
