"""The SentencePiece unigram families: one model, different id offsets and frames.

Source of the offsets: fairseq's dictionaries, which put their own special tokens before SentencePiece's pieces.
"""

from collections.abc import Mapping
from itertools import count
from typing import Any, ClassVar

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from conjoin.errors import TokenizerError
from conjoin.limits import EXTRA_IDS
from conjoin.tokenizer._read import Vocabulary
from conjoin.tokenizer._rust import in_turn
from conjoin.tokenizer._settings import Settings, Token, text_of
from conjoin.tokenizer._warn import warn
from conjoin.tokenizer.families import FAIRSEQ, SPACE, name_of, with_ids
from conjoin.tokenizer.tokenizer import Tokenizer

Scores = list[tuple[str, float]]

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


class UnigramTokenizer(Tokenizer):
    """What the unigram families share (Kudo 2018, arXiv:1804.10959): words marked with a visible space."""

    kind = "Unigram"
    vocabulary_files = ("sentencepiece.bpe.model",)
    defaults = FAIRSEQ
    unknown_id: ClassVar[int] = 3

    @classmethod
    def arrange(cls, pieces: Scores, settings: Settings) -> Scores:
        """Put the pieces of a .model file where the checkpoint has them; `pieces` starts <unk> <s> </s>."""
        return [*_frame(settings), *pieces[3:], (name_of(settings, "mask_token"), 0.0)]

    @classmethod
    def normalizer(cls, vocabulary: Vocabulary, settings: Settings) -> Any:
        """How text is changed before it is cut; None: not at all."""
        del settings
        return None if vocabulary.charsmap is None else normalizers.Precompiled(vocabulary.charsmap)

    @classmethod
    def start(cls, settings: Settings) -> str:
        """Whether a text's first word gets a space too: always or never. Honours add_prefix_space."""
        return "always" if settings.options.get("add_prefix_space", True) else "never"

    @classmethod
    def words(cls, settings: Settings) -> Any:
        """How text is cut into words."""
        metaspace = pre_tokenizers.Metaspace(SPACE, prepend_scheme=cls.start(settings))
        return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])

    @classmethod
    def unknown(cls, scores: Scores, settings: Settings) -> int:
        """The id of the unknown token."""
        del scores, settings
        return cls.unknown_id

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """One pipeline for all unigram families."""
        scores = vocabulary.scores
        if vocabulary.from_sentencepiece:
            scores = cls.arrange(scores, settings)
        backend = Backend(models.Unigram(scores, unk_id=cls.unknown(scores, settings), byte_fallback=False))
        normalizer = cls.normalizer(vocabulary, settings)
        if normalizer is not None:
            backend.normalizer = normalizer
        backend.pre_tokenizer = cls.words(settings)
        backend.decoder = decoders.Metaspace(SPACE, prepend_scheme=cls.start(settings))
        return backend


class XLMRobertaTokenizer(UnigramTokenizer):
    """Ids shifted by one for fairseq (Conneau et al. 2019, arXiv:1911.02116). `<s> A </s></s> B </s>`."""

    saved_class = "XLMRobertaTokenizer"
    switches: ClassVar[Mapping[str, Any]] = {"add_prefix_space": True}

    def frame(self) -> None:
        bos, eos = self.bos_token or "<s>", self.eos_token or "</s>"
        self.backend.post_processor = TemplateProcessing(
            single=[bos, "$A", eos], pair=[bos, "$A", eos, eos, "$B", eos], special_tokens=with_ids(self, bos, eos)
        )


class CamembertTokenizer(XLMRobertaTokenizer):
    """Five fairseq tokens first, then SentencePiece's own <s> and </s> (Martin et al. 2019, arXiv:1911.03894)."""

    saved_class = "CamembertTokenizer"
    defaults: ClassVar[Mapping[str, Token | None]] = {
        **FAIRSEQ,
        "mask_token": AddedToken("<mask>", lstrip=True, special=True),
    }

    @classmethod
    def arrange(cls, pieces: Scores, settings: Settings) -> Scores:
        pad, unk = name_of(settings, "pad_token"), name_of(settings, "unk_token")
        first = [("<s>NOTUSED", 0.0), (pad, 0.0), ("</s>NOTUSED", 0.0), (unk, 0.0), ("<unk>NOTUSED", -100.0)]
        return [*first, *pieces[1:], (name_of(settings, "mask_token"), 0.0)]

    @classmethod
    def unknown(cls, scores: Scores, settings: Settings) -> int:
        unk = name_of(settings, "unk_token")
        return next((index for index, (piece, _) in enumerate(scores) if piece == unk), 0)

    @classmethod
    def extra_tokens(cls, given: list[Token] | None, settings: Settings) -> list[Token] | None:
        return ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"] if given is None else given


class AlbertTokenizer(UnigramTokenizer):
    """Lower-cased unigram in BERT's frame (Lan et al. 2019, arXiv:1909.11942). `[CLS] A [SEP] B [SEP]`."""

    saved_class = "AlbertTokenizer"
    switches: ClassVar[Mapping[str, Any]] = {"do_lower_case": True, "keep_accents": False, "add_prefix_space": True}
    vocabulary_files = ("spiece.model",)
    unknown_id = 1
    defaults: ClassVar[Mapping[str, Token | None]] = {
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "unk_token": "<unk>",
        "sep_token": "[SEP]",
        "pad_token": "<pad>",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }

    @classmethod
    def arrange(cls, pieces: Scores, settings: Settings) -> Scores:
        return pieces

    @classmethod
    def normalizer(cls, vocabulary: Vocabulary, settings: Settings) -> Any:
        """Honours do_lower_case and keep_accents."""
        steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not settings.options.get("keep_accents", False):
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if settings.options.get("do_lower_case", True):
            steps.append(normalizers.Lowercase())
        if vocabulary.charsmap is not None:
            steps.append(normalizers.Precompiled(vocabulary.charsmap))
        return normalizers.Sequence(steps)

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Frames texts already here, as add_bos_token and add_eos_token replace the frame."""
        backend = super().build(vocabulary, settings)
        cls_token, sep_token = name_of(settings, "cls_token"), name_of(settings, "sep_token")
        ids = [("[CLS]", backend.token_to_id(cls_token)), ("[SEP]", backend.token_to_id(sep_token))]
        if any(index is None for _, index in ids):
            raise TokenizerError(f"{vocabulary.origin}: has no {cls_token} or no {sep_token} among its pieces.")
        backend.post_processor = TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ids
        )
        return backend

    def frame(self) -> None:
        if {"add_bos_token", "add_eos_token"} & set(self.settings.options):
            super().frame()


class T5Tokenizer(UnigramTokenizer):
    """Unigram with sentinels at the end (Raffel et al. 2019, arXiv:1910.10683). `A </s> B </s>`."""

    saved_class = "T5Tokenizer"
    vocabulary_files = ("spiece.model",)
    unknown_id = 2
    defaults: ClassVar[Mapping[str, Token | None]] = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

    @classmethod
    def arrange(cls, pieces: Scores, settings: Settings) -> Scores:
        number = _sentinels(settings)
        return [*pieces, *((f"<extra_id_{index}>", 0.0) for index in reversed(range(number)))]

    @classmethod
    def start(cls, settings: Settings) -> str:
        """Always: add_prefix_space is not T5's to choose."""
        return "always"

    @classmethod
    def extra_tokens(cls, given: list[Token] | None, settings: Settings) -> list[Token] | None:
        """The sentinels; `extra_ids` says how many."""
        settings.options["extra_ids"] = number = _sentinels(settings)
        sentinels: list[Token] = [f"<extra_id_{index}>" for index in range(number)]
        if given is None:
            return sentinels
        listed = [token for token in given if "<extra_id_" in text_of(token)]
        if listed and number and number != len(listed):
            raise TokenizerError(f"extra_ids = {number}, but {len(listed)} tokens <extra_id_...> are listed.")
        return given if listed else [*given, *sentinels]

    @classmethod
    def extra_of_file(cls, backend: Backend, settings: Settings) -> list[Token] | None:
        """The sentinels that the file has."""
        _sentinels(settings)  # refuses what is no number
        sentinels: list[Token] = [f"<extra_id_{index}>" for index in range(_sentinels_in(backend))]
        return [*sentinels, *(token for token in settings.family_extra or [] if token not in sentinels)]

    def counted(self) -> dict[str, int]:
        return {"extra_ids": _sentinels_in(self.backend)}

    def finish(self) -> None:
        """Add the sentinels that a caller wants over a tokenizer.json, the first with the highest id."""
        have, wanted = _sentinels_in(self.backend), self.settings.options.get("extra_ids")
        if self.settings.is_raw or "extra_ids" not in self.settings.asked or wanted == have:
            return
        if wanted is None or wanted < have:
            raise TokenizerError(f"extra_ids = {wanted!r} was asked for, but {self.settings.origin} has {have}.")
        new: list[Token] = [f"<extra_id_{index}>" for index in range(have, wanted)]
        self.add_tokens(new[::-1], special_tokens=True)
        self.settings.extra = [*(self.settings.extra or []), *new]

    def frame(self) -> None:
        eos = self.eos_token_id
        self.backend.post_processor = TemplateProcessing(
            single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", eos or 0)]
        )


class MBartTokenizer(UnigramTokenizer):
    """Language codes at the end (Liu et al. 2020, arXiv:2001.08210). `A </s> en_XX`.

    `src_lang` frames texts, `tgt_lang` frames target texts; both can be set at any time.
    """

    saved_class = "MBartTokenizer"
    languages: ClassVar[tuple[str, ...]] = MBART_LANGUAGES
    defaults: ClassVar[Mapping[str, Token | None]] = {
        **FAIRSEQ,
        "mask_token": AddedToken("<mask>", lstrip=True, rstrip=False),
    }

    @classmethod
    def arrange(cls, pieces: Scores, settings: Settings) -> Scores:
        codes = [(code, 0.0) for code in cls.languages]
        return [*_frame(settings), *pieces[3:], *codes, (name_of(settings, "mask_token"), 0.0)]

    @classmethod
    def normalizer(cls, vocabulary: Vocabulary, settings: Settings) -> Any:
        """Nothing is normalised: transformers 5.23 leaves the .model file's table out for mBART."""
        return None

    @classmethod
    def start(cls, settings: Settings) -> str:
        """Always: add_prefix_space is not mBART's to choose."""
        return "always"

    @classmethod
    def extra_tokens(cls, given: list[Token] | None, settings: Settings) -> list[Token] | None:
        return [*cls.languages, *(token for token in given or [] if text_of(token) not in cls.languages)]

    @property
    def src_lang(self) -> str:
        """The language code of texts."""
        return self.settings.options.get("src_lang") or "en_XX"

    @src_lang.setter
    @in_turn
    def src_lang(self, code: str) -> None:
        template = self._template(code)  # refuses an unknown one before anything changes
        self.settings.options["src_lang"] = code
        self.backend.post_processor = template

    @property
    def tgt_lang(self) -> str:
        """The language code of target texts; that of the texts until it is set."""
        return self.settings.options.get("tgt_lang") or self.src_lang

    @tgt_lang.setter
    @in_turn
    def tgt_lang(self, code: str) -> None:
        self._template(code)
        self.settings.options["tgt_lang"] = code

    def target_template(self) -> Any:
        code = self.settings.options.get("tgt_lang")
        return None if code is None else self._template(code)

    def frame(self) -> None:
        self.backend.post_processor = self._template(self.src_lang)

    def finish(self) -> None:
        """Frame texts with src_lang; where no setting says it, it is the language in the frame of tokenizer.json."""
        options = self.settings.options
        said, own = options.get("src_lang"), self._framed_language()
        if said is None and own is not None:
            options["src_lang"] = own
        elif said is not None:
            if own not in (None, said) and "src_lang" not in self.settings.asked:
                warn(
                    f"{self.settings.origin} frames texts with {own}, tokenizer_config.json says src_lang = {said!r}: "
                    f"{said} is used. Pass src_lang={own!r} for the other."
                )
            self.frame()

    @property
    def frames_itself(self) -> bool:
        return self.settings.options.get("src_lang") is not None

    def _framed_language(self) -> str | None:
        """The language whose code the post-processor puts around texts."""
        if self.backend.post_processor is None:
            return None
        return next((token for token in self.backend.encode("").tokens if token in self.languages), None)

    def _template(self, code: str) -> TemplateProcessing:
        if self.backend.token_to_id(code) is None:
            raise TokenizerError(
                f"language {code!r} is not in the vocabulary. Expected one of: {', '.join(self.languages)}.",
                hint=f"tokenizer.src_lang = {self.languages[3]!r}",
            )
        prefix, suffix = self._around(self.eos_token or "</s>", code)
        return TemplateProcessing(
            single=[*prefix, "$A", *suffix],
            pair=[*prefix, "$A", "$B", *suffix],
            special_tokens=with_ids(self, *prefix, *suffix),
        )

    def _around(self, eos: str, code: str) -> tuple[list[str], list[str]]:
        return [], [eos, code]


class MBart50Tokenizer(MBartTokenizer):
    """Fifty languages, the code in front (Tang et al. 2020, arXiv:2008.00401). `en_XX A </s>`."""

    saved_class = "MBart50Tokenizer"
    languages = MBART50_LANGUAGES
    defaults: ClassVar[Mapping[str, Token | None]] = {
        key: token for key, token in MBartTokenizer.defaults.items() if key != "bos_token"
    }

    @classmethod
    def normalizer(cls, vocabulary: Vocabulary, settings: Settings) -> Any:
        """The .model file's table, then runs of spaces become one."""
        table = [] if vocabulary.charsmap is None else [normalizers.Precompiled(vocabulary.charsmap)]
        return normalizers.Sequence([*table, normalizers.Replace(Regex(" {2,}"), " ")])

    @classmethod
    def words(cls, settings: Settings) -> Any:
        return pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True)

    @classmethod
    def extra_tokens(cls, given: list[Token] | None, settings: Settings) -> list[Token] | None:
        return [*(given or []), *cls.languages]

    def finish(self) -> None:
        have = self.extra_special_tokens
        codes = [code for code in self.languages if self.backend.token_to_id(code) is not None]
        missing = [AddedToken(code, special=True) for code in codes if code not in have]
        self.settings.extra = [*(self.settings.extra or []), *missing]
        super().finish()

    def _around(self, eos: str, code: str) -> tuple[list[str], list[str]]:
        return [code], [eos]


def _sentinels(settings: Settings) -> int:
    """How many `<extra_id_...>` there are."""
    number = settings.options.get("extra_ids", 100)
    if type(number) is not int or not 0 <= number <= EXTRA_IDS:
        raise TokenizerError(
            f"extra_ids = {str(number)[:40]}, expected a whole number from 0 to {EXTRA_IDS:,} (limits.EXTRA_IDS)."
        )
    return number


def _sentinels_in(backend: Backend) -> int:
    """How many sentinels a vocabulary has, counted from the first."""
    return next(index for index in count() if backend.token_to_id(f"<extra_id_{index}>") is None)


def _frame(settings: Settings) -> Scores:
    """fairseq's first four ids."""
    start = "bos_token" if "bos_token" in settings.named else "cls_token"
    names = (start, "pad_token", "eos_token", "unk_token")
    return [(name_of(settings, name), 0.0) for name in names]


XLMRobertaTokenizerFast = XLMRobertaTokenizer
CamembertTokenizerFast = CamembertTokenizer
AlbertTokenizerFast = AlbertTokenizer
T5TokenizerFast = T5Tokenizer
MBartTokenizerFast = MBartTokenizer
MBart50TokenizerFast = MBart50Tokenizer
