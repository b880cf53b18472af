"""Language codes: which a tokenizer knows, and where the target's stands in labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from conjoin.errors import TokenizerError


@dataclass(frozen=True, slots=True)
class TargetLanguage:
    """The language of targets.

    Args:
        id: Of its code.
        leads: Whether labels begin with it (mBART-50); they end in it otherwise (mBART), and the decoder is given it
            as its start.
    """

    code: str
    id: int
    leads: bool


def known_language(code: str, known: Mapping[str, int], added: Mapping[str, int], owner: str) -> int:
    """The id of a language, of the family's own or added to the vocabulary.

    Raises:
        TokenizerError: there is no such language; names those that are like it.
    """
    index = known.get(code, added.get(code))
    if index is not None:
        return index
    near = near_languages(code, known)
    said = f"Near it: {', '.join(near)}" if near else f"Expected one of: {', '.join(known)}"
    raise TokenizerError(
        f"language {code!r} is none that this {owner} knows. {said}.",
        hint=f"tokenizer.src_lang = {(near or list(known) or ['en_XX'])[0]!r}, or tgt_lang; on the command line "
        "--source-language, or --target-language.",
    )


def near_languages(code: str, known: Mapping[str, int]) -> list[str]:
    """Codes that may have been meant: of the same two letters, then those spelled alike."""
    word = str(code).lower()
    same = [each for each in known if word[:2] == each[:2].lower() and len(word) > 1]
    lower = {each.lower(): each for each in known}
    alike = [lower[each] for each in get_close_matches(word, lower, n=5, cutoff=0.6)]
    return list(dict.fromkeys([*same, *alike]))
