"""Parts of a model by name, as `freeze` takes them."""

from collections.abc import Collection, Iterable

from conjoin.errors import ConfigError


def parts_named(words: Iterable[str], there: Collection[str]) -> set[str]:
    """The parts that words stand for; one word takes all parts that have it.

    Args:
        there: Parts of the model, as `part_of` names them.

    Raises:
        ConfigError: no such part, or no word at all; lists those there are.
    """
    found = {word: {part for part in there if _names(word, part)} for word in words}
    unknown = [word for word, parts in found.items() if not parts]
    if unknown or not found:
        known = sorted({word for part in there for word in (part, *part.split("."))})
        raise ConfigError(
            f"No part of this model is called {', '.join(map(repr, unknown)) or 'nothing at all'}.\n"
            f"Expected any of: {', '.join(known)}."
        )
    return set[str]().union(*found.values())


def _names(word: str, part: str) -> bool:
    word = "embedding" if word == "embeddings" else word.replace(".embeddings", ".embedding")
    return word == part or word in part.split(".")
