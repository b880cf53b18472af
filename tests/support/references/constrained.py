"""Every hypothesis that contains given phrases, by trying all."""

from collections.abc import Iterator
from itertools import product

from references.plain import Reading

Phrases = list[list[list[int]]]
"""Per constraint: alternatives, of which one must be there."""


def contains(ids: list[int], phrases: Phrases) -> bool:
    """Whether an alternative of every constraint stands in the ids."""
    return all(any(_holds(ids, phrase) for phrase in alternatives) for alternatives in phrases)


def _holds(ids: list[int], phrase: list[int]) -> bool:
    return any(ids[at : at + len(phrase)] == phrase for at in range(len(ids) - len(phrase) + 1))


def best_with_phrases(
    reading: Reading,
    start: list[int],
    phrases: Phrases,
    *,
    vocab_size: int,
    max_new_tokens: int,
    eos: int,
    length_penalty: float,
    count: int,
) -> list[tuple[float, list[int]]]:
    """The `count` best complete hypotheses that contain all phrases."""
    found = [
        (reading.total(start, start + words) / len(words) ** length_penalty, start + words)
        for words in _complete(vocab_size, max_new_tokens, eos)
        if contains(words, phrases)
    ]
    return sorted(found, reverse=True)[:count]


def _complete(vocab_size: int, longest: int, eos: int) -> Iterator[list[int]]:
    """Words up to the first end id, or to the length."""
    others = [word for word in range(vocab_size) if word != eos]
    for length in range(longest):
        for words in product(others, repeat=length):
            yield [*words, eos]
    for words in product(others, repeat=longest):
        yield list(words)
