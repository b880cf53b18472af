"""Settings that the call names and that change nothing."""

from collections.abc import Iterator

from conjoin.generation.asked import GENERATE_ARGUMENTS, Asked, Tokens
from conjoin.generation.config import DEFAULTS
from conjoin.generation.facts import CallFacts
from conjoin.generation.pick import wants_copying

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_BEAMS = ("early_stopping", "length_penalty")
_ASSISTANT = ("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold")
_OUTPUTS = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")
_WITHOUT_EFFECT = {
    "cache_implementation": "conjoin has one cache, grown in place; 'quantized' keeps it in 8 bits",
    "cache_config": "it needs cache_implementation='quantized'",
    "max_cache_len": "conjoin has one cache, grown in place",
    "compile_config": "compile the model yourself: torch.compile(model)",
    "disable_compile": "generate() never compiles by itself",
    "continuous_batching_config": "the server batches by itself; generate() does not",
    "prefill_chunk_size": "a source is read at once",
    "low_memory": "beams share the source's keys and values anyway",
    "use_cache": "keys and values are always kept",
    "assistant_lookbehind": "assistant and model share their vocabulary",
    "target_lookbehind": "assistant and model share their vocabulary",
    "is_assistant": "a model assists by being passed as assistant_model=",
}


def idle_settings(asked: Asked, tokens: Tokens, call: CallFacts) -> Iterator[str]:
    """One line for each setting of this call that has no effect."""
    yield from _by_mode(asked, call)
    yield from _by_length(asked, tokens)
    if not asked.get("return_dict_in_generate"):
        yield from _lines(asked, _OUTPUTS, "return_dict_in_generate=True")
    if not call.source_ids:
        yield from _source(asked)
    quantized = asked.get("cache_implementation") == "quantized"
    for name, why in _WITHOUT_EFFECT.items():
        if quantized and name in ("cache_implementation", "cache_config"):
            continue
        if asked.has(name) and asked.get(name) != "dynamic":
            yield f"{name} = {asked.get(name)!r}: {why}; leave it out"
    for name in asked.unknown:
        if name not in GENERATE_ARGUMENTS:
            yield f"{name} is no generation setting; remove it from the generation config"


def _by_mode(asked: Asked, call: CallFacts) -> Iterator[str]:
    contrastive = bool(asked.get("penalty_alpha"))
    if not asked.get("do_sample"):
        yield from _lines(asked, [n for n in _SAMPLING if not (contrastive and n == "top_k")], "do_sample=True")
    if asked.get("num_beams") == 1:
        yield from _lines(asked, _BEAMS, "num_beams above 1")
    elif asked.has("copy_speculation") or asked.has("prompt_lookup_num_tokens"):
        yield from _lines(asked, ("copy_speculation", "prompt_lookup_num_tokens"), "num_beams=1")
    if asked.get("num_beam_groups") == 1:
        yield from _lines(asked, ("diversity_penalty",), "num_beam_groups above 1")
    if not call.assistant:
        yield from _lines(asked, _ASSISTANT, "assistant_model= in the call")
    if not wants_copying(asked):
        yield from _lines(asked, ("max_matching_ngram_size",), "copy_speculation=True")


def _by_length(asked: Asked, tokens: Tokens) -> Iterator[str]:
    for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if asked.has(total) and asked.get(new) is not None:
            yield f"{total} = {asked.get(total)}: {new} = {asked.get(new)} wins; leave one of them out"
    if not tokens.eos:
        yield from _lines(
            asked, ("min_length", "min_new_tokens", "exponential_decay_length_penalty"), "an eos_token_id"
        )


def _source(asked: Asked) -> Iterator[str]:
    """These change the result, so it is said too where the model's file asks for them."""
    for name in ("encoder_repetition_penalty", "encoder_no_repeat_ngram_size"):
        value, neutral = asked.get(name), DEFAULTS[name]
        if value != neutral:
            yield f"{name} = {value}: it needs input_ids in the decoder's vocabulary; set {name}={neutral:g}"


def _lines(asked: Asked, names: tuple[str, ...] | list[str], needed: str) -> Iterator[str]:
    for name in names:
        if asked.has(name):
            yield f"{name} = {asked.get(name)!r}: it needs {needed}; set that, or leave {name} out"
