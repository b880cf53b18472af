"""mBART: a unigram tokenizer that adds the language code of a text to it."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from conjoin.errors import warn
from conjoin.tokenizer.families import FAIRSEQ, SPACE, name_of, with_ids
from conjoin.tokenizer.formats.read import Vocabulary
from conjoin.tokenizer.formats.settings import Settings, Token, text_of
from conjoin.tokenizer.languages import TargetLanguage, known_language
from conjoin.tokenizer.rust import in_turn
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


class MBartTokenizer(UnigramTokenizer):
    """Unigram with the language code at the end (Liu et al. 2020, arXiv:2001.08210). Frame: `A </s> en_XX`.

    `src_lang` is the language of texts, `tgt_lang` that of target texts; both can be set at any time.
    """

    saved_class = "MBartTokenizer"
    keeps_class = True
    languages: ClassVar[tuple[str, ...]] = MBART_LANGUAGES
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

    @property
    @in_turn
    def lang_code_to_id(self) -> dict[str, int]:
        """Ids of the languages in the vocabulary, by code."""
        ids = {code: self.backend.token_to_id(code) for code in self.languages}
        return {code: index for code, index in ids.items() if index is not None}

    @property
    @in_turn
    def target_language(self) -> TargetLanguage | None:
        """The language of target texts; None until `tgt_lang` is set, although src_lang is used until then."""
        code = self.settings.options.get("tgt_lang")
        if not code:
            return None
        return TargetLanguage(code, self.language_id(code), leads=bool(self._around("", code)[0]))

    @in_turn
    def language_id(self, code: str) -> int:
        """Return the id of a language code.

        Raises:
            TokenizerError: the language is unknown; the error names similar ones.
        """
        return known_language(code, self.lang_code_to_id, self.get_added_vocab(), type(self).__name__)

    @property
    def src_lang(self) -> str:
        """The language code of texts."""
        return self.settings.options.get("src_lang") or "en_XX"

    @src_lang.setter
    @in_turn
    def src_lang(self, code: str) -> None:
        template = self._template(code)  # raises for an unknown code before anything changes
        self.settings.options["src_lang"] = code
        self.backend.post_processor = template

    @property
    def tgt_lang(self) -> str:
        """The language code of target texts; `src_lang` until it is set."""
        return self.settings.options.get("tgt_lang") or self.src_lang

    @tgt_lang.setter
    @in_turn
    def tgt_lang(self, code: str) -> None:
        self._template(code)
        self.settings.options["tgt_lang"] = code

    def target_template(self) -> Any:
        code = self.settings.options.get("tgt_lang")
        return self._template(code) if code else None

    def frame(self) -> None:
        self.backend.post_processor = self._template(self.src_lang)

    def finish(self) -> None:
        """Apply src_lang to the post-processor; without that setting, read it from tokenizer.json's."""
        options = self.settings.options
        saved, own = options.get("src_lang"), self._framed_language()
        if saved is None and own is not None:
            options["src_lang"] = own
        elif saved is not None:
            if own not in (None, saved) and "src_lang" not in self.settings.asked:
                warn(
                    f"{self.settings.origin} frames texts with {own}, tokenizer_config.json says src_lang = {saved!r}: "
                    f"{saved} is used. Pass src_lang={own!r} for the other."
                )
            self.frame()

    @property
    def frames_itself(self) -> bool:
        return self.settings.options.get("src_lang") is not None

    def _framed_language(self) -> str | None:
        """Return the language whose code the post-processor adds to texts; None without one."""
        if self.backend.post_processor is None:
            return None
        return next((token for token in self.backend.encode("").tokens if token in self.languages), None)

    def _template(self, code: str) -> TemplateProcessing:
        self.language_id(code)
        prefix, suffix = self._around(self.eos_token or "</s>", code)
        return TemplateProcessing(
            single=[*prefix, "$A", *suffix],
            pair=[*prefix, "$A", "$B", *suffix],
            special_tokens=with_ids(self, *prefix, *suffix),
        )

    def _around(self, eos: str, code: str) -> tuple[list[str], list[str]]:
        return [], [eos, code]


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
