"""Language codes: those that a tokenizer knows, other forms of them, and the position of the target's in labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from conjoin.errors import TokenizerError

# ISO 639-1 and the ISO 639-3 codes that models have for it (SIL's table; of a macrolanguage, its standard language too)
_ISO = """
aa aar|af afr|ak aka|am amh|ar ara arb|as asm|ay aym ayr|az aze azj|ba bak|be bel|bg bul|bm bam|bn ben|bo bod|br bre|
bs bos|ca cat|cs ces|cy cym|da dan|de deu|dz dzo|ee ewe|el ell|en eng|eo epo|es spa|et est ekk|eu eus|fa fas pes|
ff ful fuv|fi fin|fj fij|fo fao|fr fra|fy fry|ga gle|gd gla|gl glg|gn grn|gu guj|ha hau|he heb|hi hin|hr hrv|ht hat|
hu hun|hy hye|id ind|ig ibo|is isl|it ita|ja jpn|jv jav|ka kat|ki kik|kk kaz|km khm|kn kan|ko kor|kr knc|ks kas|
ku kur kmr|ky kir|la lat|lb ltz|lg lug|li lim|ln lin|lo lao|lt lit|lv lav lvs|mg mlg plt|mi mri|mk mkd|ml mal|
mn mon khk|mr mar|ms msa zsm|mt mlt|my mya|nb nob|ne nep npi|nl nld|nn nno|no nor nob nno|ny nya|oc oci|om orm gaz|
or ori ory|pa pan|pl pol|ps pus pbt|pt por|qu que quy|rn run|ro ron|ru rus|rw kin|sa san|sc srd|sd snd|sg sag|sh hbs|
si sin|sk slk|sl slv|sm smo|sn sna|so som|sq sqi als|sr srp|ss ssw|st sot|su sun|sv swe|sw swa swh|ta tam|te tel|
tg tgk|th tha|ti tir|tk tuk|tl tgl|tn tsn|tr tur|ts tso|tt tat|tw twi|ug uig|uk ukr|ur urd|uz uzb uzn|vi vie|wo wol|
xh xho|yi yid ydd|yo yor|zh zho cmn|zu zul
"""
_NEAR = 20  # that an error names
_SYNONYMS = tuple(tuple(line.split()) for line in _ISO.replace("\n", "").split("|"))


@dataclass(frozen=True, slots=True)
class TargetLanguage:
    """The language of target texts.

    Args:
        id: Token id of its code.
        leads: True if generated texts begin with the code (mBART-50); otherwise the decoder starts from it, and labels
            end in it (mBART).
    """

    code: str
    id: int
    leads: bool


def resolved(code: str, known: Sequence[str]) -> str | None:
    """Return the known code that a code means: itself, or the only one of the same language.

    Languages are compared by what stands before the script or country: en means en_XX, eng_Latn, eng or en.
    """
    if code in known:
        return code
    synonyms = {code}.union(*(row for row in _SYNONYMS if code in row))
    same = [each for each in known if each.partition("_")[0] == code]
    same = same or [each for each in known if each.partition("_")[0] in synonyms]
    return same[0] if len(same) == 1 else None


def known_language(code: str, known: Mapping[str, int], added: Mapping[str, int], owner: str) -> int:
    """Return the id of a language, which the family defines or the user has added.

    Raises:
        TokenizerError: the language is unknown; the error names similar ones.
    """
    index = known.get(code, added.get(code))
    if index is not None:
        return index
    near = near_languages(code, known)[:_NEAR]
    suggestion = f"Near it: {', '.join(near)}" if near else f"Expected one of: {', '.join(known) or 'none'}"
    raise TokenizerError(
        f"language {code!r} is none that this {owner} knows. {suggestion}.",
        hint=f"tokenizer.src_lang = {(near or list(known) or ['en_XX'])[0]!r}, or tgt_lang; on the command line "
        "--source-language, or --target-language.",
    )


def near_languages(code: str, known: Mapping[str, int]) -> list[str]:
    """Return the known codes that resemble an unknown one: of the same language, two letters, or similar spelling."""
    text = str(code).lower()
    stem = text.replace("-", "_").partition("_")[0]
    stems = {stem}.union(*(row for row in _SYNONYMS if stem in row))
    named = [each for each in known if each.partition("_")[0].lower() in stems]
    same = [each for each in known if text[:2] == each[:2].lower() and len(text) > 1]
    lower = {each.lower(): each for each in known}
    similar = [lower[each] for each in get_close_matches(text, lower, n=5, cutoff=0.6)]
    return list(dict.fromkeys([*named, *same, *similar]))
