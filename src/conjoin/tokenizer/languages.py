"""Language codes: those that a tokenizer knows, and the position of the target's in labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from conjoin.errors import TokenizerError


@dataclass(frozen=True, slots=True)
class TargetLanguage:
    """The language of target texts.

    Args:
        id: Token id of its code.
        leads: True if labels begin with the code (mBART-50); otherwise they end in it, and the decoder starts from it
            (mBART).
    """

    code: str
    id: int
    leads: bool


def known_language(code: str, known: Mapping[str, int], added: Mapping[str, int], owner: str) -> int:
    """Return the id of a language, which the family defines or the user has added.

    Raises:
        TokenizerError: the language is unknown; the error names similar ones.
    """
    index = known.get(code, added.get(code))
    if index is not None:
        return index
    near = near_languages(code, known)
    suggestion = f"Near it: {', '.join(near)}" if near else f"Expected one of: {', '.join(known)}"
    raise TokenizerError(
        f"language {code!r} is none that this {owner} knows. {suggestion}.",
        hint=f"tokenizer.src_lang = {(near or list(known) or ['en_XX'])[0]!r}, or tgt_lang; on the command line "
        "--source-language, or --target-language.",
    )


def near_languages(code: str, known: Mapping[str, int]) -> list[str]:
    """Return the known codes that resemble an unknown one: those of the same two letters, then of similar spelling."""
    text = str(code).lower()
    same = [each for each in known if text[:2] == each[:2].lower() and len(text) > 1]
    lower = {each.lower(): each for each in known}
    similar = [lower[each] for each in get_close_matches(text, lower, n=5, cutoff=0.6)]
    return list(dict.fromkeys([*same, *similar]))
