"""mBART: a unigram tokenizer that adds the language code of a text to it."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers

from conjoin.tokenizer.families import FAIRSEQ, SPACE, name_of
from conjoin.tokenizer.formats.read import Vocabulary
from conjoin.tokenizer.formats.settings import Settings, Token, text_of
from conjoin.tokenizer.multilingual import WithLanguages
from conjoin.tokenizer.unigram import Scores, UnigramTokenizer, fairseq_frame

# fmt: off
MBART_LANGUAGES = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX", "kk_KZ",
    "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN", "zh_CN",
)
MBART50_LANGUAGES = (
    *MBART_LANGUAGES,
    "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN", "mn_MN", "mr_IN",
    "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK", "xh_ZA", "gl_ES",
    "sl_SI",
)
# fmt: on


class MBartTokenizer(WithLanguages, UnigramTokenizer):
    """Unigram with the language code at the end (Liu et al. 2020, arXiv:2001.08210). Frame: `A </s> en_XX`."""

    saved_class = "MBartTokenizer"
    languages = MBART_LANGUAGES
    defaults: ClassVar[Mapping[str, Token | None]] = {
        **FAIRSEQ,
        "mask_token": AddedToken("<mask>", lstrip=True, rstrip=False),
    }

    @classmethod
    def arrange(cls, pieces: Scores, settings: Settings) -> Scores:
        codes = [(code, 0.0) for code in cls.languages]
        return [*fairseq_frame(settings), *pieces[3:], *codes, (name_of(settings, "mask_token"), 0.0)]

    @classmethod
    def normalizer(cls, vocabulary: Vocabulary, settings: Settings) -> Any:
        """transformers 5.23 leaves the .model file's table out for mBART; it builds none with pieces of bytes."""
        return super().normalizer(vocabulary, settings) if vocabulary.has_bytes else None

    @classmethod
    def start(cls, settings: Settings) -> str:
        """Return "always": mBART has no add_prefix_space."""
        return "always"

    @classmethod
    def extra_tokens(cls, listed: list[Token] | None, settings: Settings) -> list[Token] | None:
        return [*cls.languages, *(token for token in listed or [] if text_of(token) not in cls.languages)]


class MBart50Tokenizer(MBartTokenizer):
    """Fifty languages, with the code in front (Tang et al. 2020, arXiv:2008.00401). Frame: `en_XX A </s>`."""

    saved_class = "MBart50Tokenizer"
    languages = MBART50_LANGUAGES
    defaults: ClassVar[Mapping[str, Token | None]] = {
        key: token for key, token in MBartTokenizer.defaults.items() if key != "bos_token"
    }

    @classmethod
    def normalizer(cls, vocabulary: Vocabulary, settings: Settings) -> Any:
        """Return the .model file's table, then a step that merges consecutive spaces."""
        table = [] if vocabulary.charsmap is None else [normalizers.Precompiled(vocabulary.charsmap)]
        return normalizers.Sequence([*table, normalizers.Replace(Regex(" {2,}"), " ")])

    @classmethod
    def words(cls, settings: Settings) -> Any:
        return pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True)

    @classmethod
    def extra_tokens(cls, listed: list[Token] | None, settings: Settings) -> list[Token] | None:
        return [*(listed or []), *cls.languages]

    def finish(self) -> None:
        existing = self.extra_special_tokens
        codes = [code for code in self.languages if self.backend.token_to_id(code) is not None]
        missing = [AddedToken(code, special=True) for code in codes if code not in existing]
        self.settings.extra = [*(self.settings.extra or []), *missing]
        super().finish()

    def _around(self, eos: str, code: str) -> tuple[list[str], list[str]]:
        return [code], [eos]


MBartTokenizerFast = MBartTokenizer
MBart50TokenizerFast = MBart50Tokenizer
