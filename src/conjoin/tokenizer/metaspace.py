"""Unigram families that split words at spaces only, not at other white space: DeBERTa, Pegasus, BigBird, XGLM."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from conjoin.errors import TokenizerError
from conjoin.tokenizer.families import DEBERTA, FAIRSEQ, SPACE, name_of, with_ids
from conjoin.tokenizer.formats.read import Vocabulary
from conjoin.tokenizer.formats.settings import Settings, Token, text_of
from conjoin.tokenizer.unigram import Scores, UnigramTokenizer, fairseq_frame

_OFFSETS = 1 << 16


class MetaspaceTokenizer(UnigramTokenizer):
    """Base of these families."""

    splits_white_space = False

    @classmethod
    def arrange(cls, pieces: Scores, settings: Settings) -> Scores:
        return pieces

    @classmethod
    def unknown(cls, scores: Scores, settings: Settings) -> int:
        unk = name_of(settings, "unk_token")
        return next((index for index, (piece, _) in enumerate(scores) if piece == unk), cls.unknown_id)

    @classmethod
    def words(cls, settings: Settings) -> Any:
        return pre_tokenizers.Metaspace(SPACE, prepend_scheme=cls.start(settings))

    @classmethod
    def normalizer(cls, vocabulary: Vocabulary, settings: Settings) -> Any:
        """Return the .model file's table, then a step that merges consecutive spaces."""
        table = [] if vocabulary.charsmap is None else [normalizers.Precompiled(vocabulary.charsmap)]
        return normalizers.Sequence([*table, normalizers.Replace(Regex(" {2,}"), " ")])


class _InBertsFrame(MetaspaceTokenizer):
    """Frame: `[CLS] A [SEP] B [SEP]`."""

    def frame(self) -> None:
        cls, sep = self.cls_token or "[CLS]", self.sep_token or "[SEP]"
        self.backend.post_processor = TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=with_ids(self, cls, sep),
        )


class DebertaV2Tokenizer(_InBertsFrame):
    """Unigram after NFC, for DeBERTa v2 and v3 (He et al. 2021, arXiv:2111.09543)."""

    saved_class = "DebertaV2Tokenizer"
    vocabulary_files = ("spm.model",)
    unknown_id = 1
    model_input_names = ("input_ids", "attention_mask", "token_type_ids")
    switches: ClassVar[Mapping[str, Any]] = {"do_lower_case": False, "split_by_punct": False, "add_prefix_space": True}
    without_prefix_space = "first"
    defaults: ClassVar[Mapping[str, Token | None]] = DEBERTA

    @classmethod
    def words(cls, settings: Settings) -> Any:
        apart = [pre_tokenizers.Punctuation(behavior="isolated")] if settings.options.get("split_by_punct") else []
        return pre_tokenizers.Sequence([*apart, super().words(settings)])

    @classmethod
    def normalizer(cls, vocabulary: Vocabulary, settings: Settings) -> Any:
        """Return the normalizer, which is not the .model file's; honours do_lower_case."""
        lower = [normalizers.Lowercase()] if settings.options.get("do_lower_case") else []
        spaces = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
        return normalizers.Sequence([*lower, spaces, normalizers.NFC(), normalizers.Strip(left=False, right=True)])


class BigBirdTokenizer(_InBertsFrame):
    """Unigram in BERT's frame, for long texts (Zaheer et al. 2020, arXiv:2007.14062)."""

    saved_class = "BigBirdTokenizer"
    vocabulary_files = ("spiece.model",)
    unknown_id = 100
    switches: ClassVar[Mapping[str, Any]] = {"add_prefix_space": True}
    defaults: ClassVar[Mapping[str, Token | None]] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "[SEP]",
        "pad_token": "<pad>",
        "cls_token": "[CLS]",
        "mask_token": AddedToken("[MASK]", lstrip=True, rstrip=False),
    }

    @classmethod
    def normalizer(cls, vocabulary: Vocabulary, settings: Settings) -> Any:
        """Return the normalizer, which is not the .model file's."""
        spaces = normalizers.Replace(Regex(" {2,}"), SPACE)
        return normalizers.Sequence([normalizers.Strip(left=False, right=False), spaces])


class PegasusTokenizer(MetaspaceTokenizer):
    """Unigram after 103 tokens of pretraining (Zhang et al. 2019, arXiv:1912.08777). Frame: `A </s>`.

    `<mask_1>` stands for a sentence (`mask_token_sent`), `<mask_2>` for a word (`mask_token`); `<unk_2>` to `<unk_102>`
    fill up to `offset`.
    """

    saved_class = "PegasusTokenizer"
    vocabulary_files = ("spiece.model",)
    defaults: ClassVar[Mapping[str, Token | None]] = {
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask_2>",
    }

    @classmethod
    def arrange(cls, pieces: Scores, settings: Settings) -> Scores:
        """Put the tokens of pretraining in front, the sentence's mask first, as in the checkpoints."""
        masks = dict.fromkeys([cls._sentence_mask(settings), name_of(settings, "mask_token")])
        first = [name_of(settings, "pad_token"), name_of(settings, "eos_token"), *(mask for mask in masks if mask)]
        return [*((token, 0.0) for token in first), *((token, -100.0) for token in cls._fill(settings)), *pieces[2:]]

    @classmethod
    def extra_tokens(cls, listed: list[Token] | None, settings: Settings) -> list[Token] | None:
        """Return the family's own tokens; those of the .model file are ordinary ones."""
        own = [token for token in (cls._sentence_mask(settings), *cls._fill(settings)) if token]
        control = {text_of(token) for token in listed or []} - set(own)
        others = [token for token in settings.family_extra or [] if text_of(token) in control]
        return [*own, *others]

    @classmethod
    def start(cls, settings: Settings) -> str:
        """Return "always": Pegasus has no add_prefix_space."""
        return "always"

    @classmethod
    def normalizer(cls, vocabulary: Vocabulary, settings: Settings) -> Any:
        """Return the .model file's table, or else a step for line ends, then one that merges consecutive spaces."""
        if vocabulary.charsmap is not None:
            return super().normalizer(vocabulary, settings)
        steps = [normalizers.Replace(Regex("\\n"), " "), normalizers.Replace(Regex(" {2,}"), " ")]
        return normalizers.Sequence(steps)

    def frame(self) -> None:
        eos = self.eos_token or "</s>"
        self.backend.post_processor = TemplateProcessing(
            single=["$A", eos], pair=["$A", "$B", eos], special_tokens=with_ids(self, eos)
        )

    @classmethod
    def _sentence_mask(cls, settings: Settings) -> str:
        return settings.options.get("mask_token_sent", "<mask_1>") or ""

    @classmethod
    def _fill(cls, settings: Settings) -> list[str]:
        offset = settings.options.get("offset", 103)
        if type(offset) is not int or not 0 <= offset <= _OFFSETS:
            raise TokenizerError(f"offset = {str(offset)[:40]}, expected a whole number from 0 to {_OFFSETS:,}.")
        return [f"<unk_{index}>" for index in range(2, offset)]


class XGLMTokenizer(MetaspaceTokenizer):
    """Ids shifted by one for fairseq, seven made-up words at the end (Lin et al. 2021, arXiv:2112.10668). `</s> A`."""

    saved_class = "XGLMTokenizer"
    vocabulary_files = ("sentencepiece.bpe.model",)
    switches: ClassVar[Mapping[str, Any]] = {"add_prefix_space": True}
    defaults: ClassVar[Mapping[str, Token | None]] = {
        name: token for name, token in FAIRSEQ.items() if name != "mask_token"
    }
    made_up: ClassVar[tuple[str, ...]] = tuple(f"<madeupword{index}>" for index in range(7))

    @classmethod
    def arrange(cls, pieces: Scores, settings: Settings) -> Scores:
        return [*fairseq_frame(settings), *pieces[3:], *((word, 0.0) for word in cls.made_up)]

    @classmethod
    def unknown(cls, scores: Scores, settings: Settings) -> int:
        return 3

    @classmethod
    def extra_tokens(cls, listed: list[Token] | None, settings: Settings) -> list[Token] | None:
        return [*(listed or []), *(word for word in cls.made_up if word not in map(text_of, listed or []))]

    def frame(self) -> None:
        eos = self.eos_token or "</s>"
        self.backend.post_processor = TemplateProcessing(
            single=[eos, "$A"], pair=[eos, "$A", eos, eos, "$B"], special_tokens=with_ids(self, eos)
        )


DebertaV2TokenizerFast = DebertaV2Tokenizer
BigBirdTokenizerFast = BigBirdTokenizer
PegasusTokenizerFast = PegasusTokenizer
XGLMTokenizerFast = XGLMTokenizer
