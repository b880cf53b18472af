"""The minimum and maximum length of a result."""

from conjoin import limits
from conjoin.errors import GenerationError, warn
from conjoin.generation.facts import CallFacts, Lengths, ModelFacts
from conjoin.generation.user_settings import UserSettings

DEFAULT_NEW_TOKENS = 20
"""transformers' default if no length is set."""


def resolve_lengths(settings: UserSettings, model: ModelFacts, call: CallFacts) -> Lengths:
    """Fill in lengths: max_new_tokens wins over max_length, and the position table over both.

    max_new_tokens = 0 asks for the prompt itself, unlike in transformers, where it is an error.

    Raises:
        GenerationError: nothing can be generated, or the least exceeds the most.
    """
    reads_last = bool(settings.get("penalty_alpha"))
    longest = _within_table(_longest(settings, call.prompt_length), model, call, reads_last=reads_last)
    if longest > limits.RESULT_TOKENS:
        raise GenerationError(
            f"Results may have {longest} tokens; expected at most {limits.RESULT_TOKENS}.", hint="lower max_new_tokens."
        )
    least_new = settings.get("min_new_tokens") or 0
    shortest = least_new + call.prompt_length if least_new else settings.get("min_length")
    if longest <= call.prompt_length and settings.get("max_new_tokens") != 0:
        raise GenerationError(
            f"max_length = {longest} leaves nothing to generate behind {call.prompt_length} decoder tokens: "
            "max_length counts them too.",
            hint="set max_new_tokens, which does not.",
        )
    if shortest > longest:
        name = "min_new_tokens" if least_new else "min_length"
        what = (
            f"{name} = {least_new or shortest} asks for {shortest} tokens in all, but a row ends at {longest} "
            f"({call.prompt_length} of them are the decoder's prompt)."
        )
        if name in settings.by_caller or not settings.by_caller & {"max_length", "max_new_tokens"}:
            raise GenerationError(what, hint=f"lower {name} or raise max_new_tokens.")
        warn(f"{what} The model's own {name} gives way: no row ends before {longest}. Set {name}=0 to let rows end.")
        shortest, least_new = longest, 0
    return Lengths(prompt=call.prompt_length, longest=longest, shortest=shortest, min_new_tokens=least_new)


def _longest(settings: UserSettings, prompt_length: int) -> int:
    new, total = settings.get("max_new_tokens"), settings.get("max_length")
    if new is not None:
        return new + prompt_length
    if total is not None:
        return total
    warn(
        f"Neither max_new_tokens nor max_length is set, so results end after {DEFAULT_NEW_TOKENS} tokens. "
        "Set max_new_tokens."
    )
    return DEFAULT_NEW_TOKENS + prompt_length


def _within_table(longest: int, model: ModelFacts, call: CallFacts, *, reads_last: bool) -> int:
    """The last token is not read, so that a row may be one longer than the table; but by contrastive search."""
    fits = longest if model.max_positions is None else model.max_positions - model.source_positions + (not reads_last)
    if longest <= fits:
        return longest
    taken = f", of which the source takes {model.source_positions}" if model.source_positions else ""
    if call.prompt_length >= fits:
        raise GenerationError(
            f"{call.prompt_length} decoder tokens were given, but the decoder has {model.max_positions} positions"
            f"{taken}.",
            hint="shorten the source." if taken else None,
        )
    warn(
        f"Results may have {longest} tokens, but the decoder has {model.max_positions} positions{taken}: they end at "
        f"{fits}. "
        f"Set max_new_tokens to at most {fits - call.prompt_length}."
    )
    return fits
