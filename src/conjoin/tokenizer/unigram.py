"""The SentencePiece unigram families, which differ in id offsets and special tokens.

Source of the offsets: fairseq's dictionaries, whose special tokens come before SentencePiece's pieces.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from conjoin.errors import TokenizerError
from conjoin.tokenizer.families import FAIRSEQ, SPACE, name_of, with_ids
from conjoin.tokenizer.formats.read import Vocabulary
from conjoin.tokenizer.formats.settings import Settings, Token, text_of
from conjoin.tokenizer.sentinels import WithSentinels
from conjoin.tokenizer.tokenizer import Tokenizer

Scores = list[tuple[str, float]]


class UnigramTokenizer(Tokenizer):
    """Base of the unigram families (Kudo 2018, arXiv:1804.10959): words start with a visible space."""

    kind = "Unigram"
    vocabulary_files = ("sentencepiece.bpe.model",)
    defaults = FAIRSEQ
    unknown_id: ClassVar[int] = 3
    splits_white_space: ClassVar[bool] = True
    """True if words end at white space of every kind, not at spaces only."""

    @classmethod
    def arrange(cls, pieces: Scores, settings: Settings) -> Scores:
        """Order the pieces of a .model file by the checkpoint's ids; `pieces` starts with <unk> <s> </s>."""
        return [*fairseq_frame(settings), *pieces[3:], (name_of(settings, "mask_token"), 0.0)]

    @classmethod
    def normalizer(cls, vocabulary: Vocabulary, settings: Settings) -> Any:
        """Return the normalizer of text; None if there is none."""
        del settings
        return None if vocabulary.charsmap is None else normalizers.Precompiled(vocabulary.charsmap)

    @classmethod
    def start(cls, settings: Settings) -> str:
        """Return "always" if every part of a text gets a space in front; honours add_prefix_space."""
        return "always" if settings.options.get("add_prefix_space", True) else cls.without_prefix_space

    @classmethod
    def words(cls, settings: Settings) -> Any:
        """Return the pre-tokenizer, which splits text into words."""
        metaspace = pre_tokenizers.Metaspace(SPACE, prepend_scheme=cls.start(settings))
        return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])

    @classmethod
    def unknown(cls, scores: Scores, settings: Settings) -> int:
        """Return the id of the unknown token."""
        del scores, settings
        return cls.unknown_id

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Build the pipeline of a unigram family."""
        scores = vocabulary.scores
        if vocabulary.from_sentencepiece:
            scores = cls.arrange(scores, settings)
        unknown, has_bytes, start = cls.unknown(scores, settings), vocabulary.has_bytes, cls.start(settings)
        backend = Backend(models.Unigram(scores, unk_id=unknown, byte_fallback=has_bytes))
        normalizer = cls.normalizer(vocabulary, settings)
        words, decoder = cls.words(settings), decoders.Metaspace(SPACE, prepend_scheme=start)
        if cls.splits_white_space and (has_bytes or start == "first"):
            normalizer = normalizers.Sequence(
                [step for step in (normalizer, _single_spaces(start)) if step is not None]
            )
            words = pre_tokenizers.Metaspace(SPACE, prepend_scheme=start)
        if normalizer is not None:
            backend.normalizer = normalizer
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, _bytes_apart()]) if has_bytes else words
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoder]) if has_bytes else decoder
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
    def extra_tokens(cls, listed: list[Token] | None, settings: Settings) -> list[Token] | None:
        return ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"] if listed is None else listed


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
        """Return the normalizer; honours do_lower_case and keep_accents."""
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
        """Build the pipeline with its frame, since add_bos_token and add_eos_token replace the frame later."""
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


class T5Tokenizer(WithSentinels, UnigramTokenizer):
    """Unigram with sentinels at the end (Raffel et al. 2019, arXiv:1910.10683). `A </s> B </s>`."""

    saved_class = "T5Tokenizer"
    not_rebuilt = frozenset({"legacy"})
    vocabulary_files = ("spiece.model",)
    unknown_id = 2
    defaults: ClassVar[Mapping[str, Token | None]] = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

    @classmethod
    def arrange(cls, pieces: Scores, settings: Settings) -> Scores:
        """Append the sentinels, the first of them with the highest id."""
        sentinels = cls.sentinels(cls.sentinels_asked(settings))
        return [*pieces, *((text_of(token), 0.0) for token in reversed(sentinels))]

    @classmethod
    def start(cls, settings: Settings) -> str:
        """Return "always", or "first" with legacy=False; T5 has no add_prefix_space."""
        return "first" if settings.options.get("legacy") is False else "always"

    def frame(self) -> None:
        eos = self.eos_token_id
        self.backend.post_processor = TemplateProcessing(
            single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", eos or 0)]
        )


def _single_spaces(start: str) -> Any:
    """SentencePiece's remove_extra_whitespaces: of other white space, only what the table makes a space is one.

    A first space is left where Metaspace would see by its absence that this is not the start of the text.
    """
    return normalizers.Replace(Regex(" +$| +(?= )" if start == "first" else "^ +| +$| +(?= )"), "")


def _bytes_apart() -> Any:
    """Split `<0x41>` in text after its first character, so that Rust does not read it as a byte's piece."""
    return pre_tokenizers.Split(Regex("<(?=0x[0-9A-F]{2}>)"), behavior="isolated")


def fairseq_frame(settings: Settings) -> Scores:
    """Return the special tokens of fairseq's first four ids."""
    start = "bos_token" if "bos_token" in settings.named else "cls_token"
    names = (start, "pad_token", "eos_token", "unk_token")
    return [(name_of(settings, name), 0.0) for name in names]


XLMRobertaTokenizerFast = XLMRobertaTokenizer
CamembertTokenizerFast = CamembertTokenizer
AlbertTokenizerFast = AlbertTokenizer
T5TokenizerFast = T5Tokenizer
