"""Tokens that settings forbid."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from conjoin.errors import GenerationError

if TYPE_CHECKING:
    from conjoin.generation.request import Request

FORBIDDEN = -5.0e8
"""A token with this score or less is forbidden. Masks are -inf, -1e9 or a dtype's least number; log-probabilities, even
of a long row, and biases that somebody means as such stay far above."""


def check_first_token(request: "Request", vocab_size: int) -> None:
    """Refuse settings that leave no first token, or contradict each other about it.

    Raises:
        GenerationError: naming them.
    """
    eos, prompt = {*request.tokens.eos}, request.lengths.prompt
    if request.lengths.longest == prompt:
        return
    bos, least = request.rules.forced_bos, _least(request)
    if prompt == 1 and bos in eos and least:
        raise GenerationError(
            f"forced_bos_token_id = {bos} ends every result, but {least} forbids that.", hint="leave one of them out."
        )
    left, names = {*range(vocab_size)}, list[str]()
    for name, tokens in _forbidden(request, vocab_size):
        if left & tokens:
            left -= tokens
            names.append(name)
    if not left:
        raise GenerationError(
            f"{' and '.join(names)} leave{'s' if len(names) == 1 else ''} no first token: every one of "
            f"{vocab_size} is forbidden.",
            hint=f"loosen {' or '.join(name.split(' = ')[0] for name in names)}.",
        )


def _least(request: "Request") -> str:
    """The setting that forbids an end at first, with its value."""
    lengths = request.lengths
    if not request.tokens.eos or max(lengths.shortest, lengths.prompt + lengths.min_new_tokens) <= lengths.prompt:
        return ""
    new = lengths.min_new_tokens
    return f"min_new_tokens = {new}" if new else f"min_length = {lengths.shortest}"


def _forbidden(request: "Request", vocab_size: int) -> Iterator[tuple[str, set[int]]]:
    """What each setting forbids at the first step. What is forced there overrules what comes before it."""
    rules, lengths, eos = request.rules, request.lengths, {*request.tokens.eos}
    forced = {rules.forced_bos} if rules.forced_bos is not None and lengths.prompt == 1 else set[int]()
    if rules.forced_eos and lengths.longest == lengths.prompt + 1:
        forced = {*rules.forced_eos}
    if forced:
        yield "what is forced", {*range(vocab_size)} - forced
    else:
        yield "sequence_bias", {run[0] for run, bias in rules.sequence_bias if len(run) == 1 and bias <= FORBIDDEN}
        yield "bad_words_ids", {word[0] for word in rules.bad_words if len(word) == 1} - eos
        yield _least(request), eos if _least(request) else set()
    yield "suppress_tokens", {*rules.suppress}
    if lengths.prompt > 1 or rules.forced_bos is None:
        yield "begin_suppress_tokens", {*rules.begin_suppress}
