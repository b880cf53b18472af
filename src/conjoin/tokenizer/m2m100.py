"""M2M-100: the pieces of a SentencePiece model, numbered by vocab.json, then the languages."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from conjoin.errors import TokenizerError
from conjoin.tokenizer.cutters import SpmCutter, SpmJoiner
from conjoin.tokenizer.formats.find import Files
from conjoin.tokenizer.formats.read import Vocabulary, read_ids, read_model
from conjoin.tokenizer.formats.settings import Settings, Token, text_of
from conjoin.tokenizer.multilingual import WithLanguages
from conjoin.tokenizer.pieces import Parts, PieceTokenizer
from conjoin.tokenizer.rust import add

# fmt: off
M2M100_LANGUAGES = (
    "af", "am", "ar", "ast", "az", "ba", "be", "bg", "bn", "br", "bs", "ca", "ceb", "cs", "cy", "da", "de", "el",
    "en", "es", "et", "fa", "ff", "fi", "fr", "fy", "ga", "gd", "gl", "gu", "ha", "he", "hi", "hr", "ht", "hu", "hy",
    "id", "ig", "ilo", "is", "it", "ja", "jv", "ka", "kk", "km", "kn", "ko", "lb", "lg", "ln", "lo", "lt", "lv", "mg",
    "mk", "ml", "mn", "mr", "ms", "my", "ne", "nl", "no", "ns", "oc", "or", "pa", "pl", "ps", "pt", "ro", "ru", "sd",
    "si", "sk", "sl", "so", "sq", "sr", "ss", "su", "sv", "sw", "ta", "th", "tl", "tn", "tr", "uk", "ur", "uz", "vi",
    "wo", "xh", "yi", "yo", "zh", "zu",
)
# fmt: on
"""facebook/m2m100_*."""
WMT21_LANGUAGES = ("en", "ha", "is", "ja", "cs", "ru", "zh", "de")
"""facebook/wmt21-dense-*."""
_LISTS = {"m2m100": M2M100_LANGUAGES, "wmt21": WMT21_LANGUAGES}


class M2M100Tokenizer(WithLanguages, PieceTokenizer):
    """Many languages without English between them (Fan et al. 2020, arXiv:2010.11125). Frame: `__en__ A </s>`.

    Models have eight rows more than there are tokens, for fairseq's "made-up words".
    """

    saved_class = "M2M100Tokenizer"
    vocabulary_files = ("vocab.json", "sentencepiece.bpe.model")
    default_language = "en"
    defaults: ClassVar[Mapping[str, Token | None]] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
    }

    @classmethod
    def read(cls, paths: Sequence[Path], files: Files, settings: Settings) -> Vocabulary:
        vocab, model = paths
        contents = {path.name: path.read_bytes() for path in paths}
        return Vocabulary(origin=vocab, ids=read_ids(vocab), models=(read_model(model),), contents=contents)

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Return the vocabulary with the languages at its end."""
        backend = super().build(vocabulary, settings)
        codes = [cls._token(code) for code in cls._codes(settings)]
        add(backend, [AddedToken(code, normalized=False, special=True) for code in codes], special=True)
        return backend

    @classmethod
    def parts(cls, vocabulary: Vocabulary, settings: Settings) -> Parts:
        (model,) = vocabulary.models
        cutter = SpmCutter(model)
        return Parts((cutter, cutter), vocabulary.contents, SpmJoiner(model))

    @classmethod
    def extra_tokens(cls, listed: list[Token] | None, settings: Settings) -> list[Token] | None:
        codes = [cls._token(code) for code in cls._codes(settings)]
        return [*codes, *(token for token in listed or [] if text_of(token) not in codes)]

    def language_codes(self) -> Iterable[str]:
        return self._codes(self.settings)

    def language_token(self, code: str) -> str:
        return self._token(code)

    @classmethod
    def _codes(cls, settings: Settings) -> tuple[str, ...]:
        name = settings.options.get("language_codes", "m2m100")
        if name not in _LISTS:
            raise TokenizerError(f"language_codes = {name!r}, expected one of: {', '.join(_LISTS)}.")
        return _LISTS[name]

    @staticmethod
    def _token(code: str) -> str:
        return f"__{code}__"

    def join(self, tokens: Sequence[str]) -> str:
        special, text, pieces = set(self.all_special_tokens), "", list[str]()
        for token in tokens:
            if token in special:
                text += self.made_of.joiner.join(pieces) + token
                pieces = []
            else:
                pieces.append(token)
        return (text + self.made_of.joiner.join(pieces)).strip()

    def _around(self, eos: str, code: str) -> tuple[list[str], list[str]]:
        return [code], [eos]


M2M100TokenizerFast = M2M100Tokenizer
