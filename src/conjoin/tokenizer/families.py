"""The families whose older files (vocab.txt, vocab.json + merges.txt, SentencePiece) conjoin builds pipelines from.

Each class defines its special tokens, and the pipeline to build without a tokenizer.json, as transformers 5.23 does.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.processors import RobertaProcessing, TemplateProcessing

from conjoin.tokenizer.formats.read import Vocabulary
from conjoin.tokenizer.formats.settings import Settings, Token, text_of
from conjoin.tokenizer.tokenizer import Tokenizer

SPACE = "\u2581"  # SentencePiece's visible space

# GPT-4's split, as Qwen2 uses it (Qwen2 tokenizer.json, pre_tokenizer)
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_BERT: Mapping[str, Token | None] = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
DEBERTA: Mapping[str, Token | None] = {"bos_token": "[CLS]", "eos_token": "[SEP]", **_BERT}
FAIRSEQ: Mapping[str, Token | None] = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}


class BertTokenizer(Tokenizer):
    """WordPiece over words and punctuation (Devlin et al. 2018, arXiv:1810.04805). Frame: `[CLS] A [SEP] B [SEP]`."""

    kind = "WordPiece"
    vocabulary_files = ("vocab.txt",)
    saved_class = "BertTokenizer"
    model_input_names = ("input_ids", "token_type_ids", "attention_mask")
    switches: ClassVar[Mapping[str, Any]] = {
        "do_lower_case": True,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
    }
    defaults: ClassVar[Mapping[str, Token | None]] = _BERT

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Build the pipeline; honours do_lower_case, strip_accents and tokenize_chinese_chars."""
        options = settings.options
        backend = Backend(models.WordPiece(vocabulary.ids, unk_token=name_of(settings, "unk_token")))
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=options.get("tokenize_chinese_chars", True),
            strip_accents=options.get("strip_accents"),
            lowercase=options.get("do_lower_case", True),
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##")
        return backend

    def frame(self) -> None:
        cls, sep = self.cls_token or "[CLS]", self.sep_token or "[SEP]"
        self.backend.post_processor = TemplateProcessing(
            single=[f"{cls}:0", "$A:0", f"{sep}:0"],
            pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
            special_tokens=with_ids(self, cls, sep),
        )


class DistilBertTokenizer(BertTokenizer):
    """BERT's tokenizer without token types."""

    saved_class = "DistilBertTokenizer"
    model_input_names = ("input_ids", "attention_mask")


class MPNetTokenizer(BertTokenizer):
    """BERT's pieces in RoBERTa's frame (Song et al. 2020, arXiv:2004.09297): `<s> A </s></s> B </s>`."""

    saved_class = "MPNetTokenizer"
    model_input_names = ("input_ids", "attention_mask")
    defaults: ClassVar[Mapping[str, Token | None]] = {
        **FAIRSEQ,
        "unk_token": "[UNK]",
        "mask_token": AddedToken("<mask>", lstrip=True, rstrip=False),
    }

    def frame(self) -> None:
        (sep, sep_id), (cls, cls_id) = with_ids(self, self.sep_token or "</s>", self.cls_token or "<s>")
        self.backend.post_processor = RobertaProcessing(
            (sep, sep_id), (cls, cls_id), trim_offsets=True, add_prefix_space=False
        )


class GPT2Tokenizer(Tokenizer):
    """Byte-level BPE (Radford et al. 2019). No frame unless add_bos_token is set (by OPT)."""

    kind = "BPE"
    vocabulary_files = ("vocab.json", "merges.txt")
    saved_class = "GPT2Tokenizer"
    switches: ClassVar[Mapping[str, Any]] = {"add_prefix_space": False}
    defaults: ClassVar[Mapping[str, Token | None]] = {
        "unk_token": "<|endoftext|>",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": None,
    }

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Build the pipeline; honours add_prefix_space."""
        backend = Backend(_byte_level_bpe(vocabulary))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=bool(settings.options.get("add_prefix_space"))
        )
        backend.decoder = decoders.ByteLevel()
        return backend


class RobertaTokenizer(GPT2Tokenizer):
    """GPT-2's pipeline with a frame (Liu et al. 2019, arXiv:1907.11692): `<s> A </s></s> B </s>`."""

    saved_class = "RobertaTokenizer"
    defaults = FAIRSEQ

    def frame(self) -> None:
        options = self.settings.options
        (sep, sep_id), (cls, cls_id) = with_ids(self, self.sep_token or "</s>", self.cls_token or "<s>")
        self.backend.post_processor = RobertaProcessing(
            (sep, sep_id),
            (cls, cls_id),
            trim_offsets=options.get("trim_offsets", True),
            add_prefix_space=bool(options.get("add_prefix_space")),
        )


class DebertaTokenizer(GPT2Tokenizer):
    """GPT-2's pipeline with BERT's special tokens (He et al. 2021, arXiv:2006.03654): `[CLS] A [SEP] [SEP] B [SEP]`."""

    saved_class = "DebertaTokenizer"
    model_input_names = ("input_ids", "attention_mask", "token_type_ids")
    defaults: ClassVar[Mapping[str, Token | None]] = DEBERTA

    def frame(self) -> None:
        cls, sep = self.cls_token or "[CLS]", self.sep_token or "[SEP]"
        self.backend.post_processor = TemplateProcessing(
            single=[cls, "$A", sep], pair=[cls, "$A", sep, sep, "$B", sep], special_tokens=with_ids(self, cls, sep)
        )


class BlenderbotTokenizer(GPT2Tokenizer):
    """GPT-2's pipeline with a space in front of every text (Roller et al. 2020, arXiv:2004.13637). Frame: `A </s>`."""

    saved_class = "BlenderbotTokenizer"
    switches: ClassVar[Mapping[str, Any]] = {"add_prefix_space": True}
    defaults: ClassVar[Mapping[str, Token | None]] = {
        **FAIRSEQ,
        "mask_token": AddedToken("<mask>", lstrip=True, rstrip=False, normalized=False),
    }

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Build GPT-2's pipeline; honours add_prefix_space."""
        space = settings.options.get("add_prefix_space", True)
        return super().build(vocabulary, replace(settings, options={**settings.options, "add_prefix_space": space}))

    def frame(self) -> None:
        eos = self.eos_token or "</s>"
        self.backend.post_processor = TemplateProcessing(
            single=["$A", eos], pair=["$A:0", "$B:1"], special_tokens=with_ids(self, eos)
        )


class GPTNeoXTokenizer(GPT2Tokenizer):
    """GPT-2's pipeline after NFC (Black et al. 2022, arXiv:2204.06745)."""

    saved_class = "GPTNeoXTokenizer"
    defaults: ClassVar[Mapping[str, Token | None]] = {**GPT2Tokenizer.defaults, "pad_token": "<|padding|>"}

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Build GPT-2's pipeline with NFC; also honours trim_offsets."""
        backend = super().build(vocabulary, settings)
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=bool(settings.options.get("add_prefix_space")),
            trim_offsets=settings.options.get("trim_offsets", True),
        )
        return backend


class Qwen2Tokenizer(GPT2Tokenizer):
    """Byte-level BPE over GPT-4's word split, after NFC (Qwen team 2024, arXiv:2407.10671)."""

    saved_class = "Qwen2Tokenizer"
    defaults: ClassVar[Mapping[str, Token | None]] = dict.fromkeys(
        ("unk_token", "eos_token", "pad_token"), "<|endoftext|>"
    )

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Build the pipeline; honours add_prefix_space."""
        backend = Backend(_byte_level_bpe(vocabulary))
        backend.normalizer = normalizers.NFC()
        space = bool(settings.options.get("add_prefix_space"))
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_QWEN_SPLIT), behavior="isolated", invert=False),
                pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        return backend

    def frame(self) -> None:
        super().frame()
        self.add_tokens([AddedToken(token, special=True) for token in self.all_special_tokens])


class OpenAIGPTTokenizer(Tokenizer):
    """BPE of lower-case words, each of which ends in `</w>`, behind BERT's split (Radford et al. 2018). No frame."""

    kind = "BPE"
    vocabulary_files = ("vocab.json", "merges.txt")
    saved_class = "OpenAIGPTTokenizer"
    defaults: ClassVar[Mapping[str, Token | None]] = {"unk_token": "<unk>"}

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Build the pipeline, which has no options."""
        end = {"continuing_subword_prefix": "", "end_of_word_suffix": "</w>"}
        bpe = models.BPE(vocabulary.ids, vocabulary.merges, unk_token=name_of(settings, "unk_token"), **end)
        backend = Backend(bpe)
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.BPEDecoder(suffix="</w>")
        return backend


class LlamaTokenizer(Tokenizer):
    """SentencePiece BPE with byte fallback (Touvron et al. 2023, arXiv:2302.13971)."""

    kind = "BPE"
    vocabulary_files = ("tokenizer.model",)
    saved_class = "LlamaTokenizer"
    switches: ClassVar[Mapping[str, Any]] = {"add_prefix_space": True, "legacy": False}
    padding_side = "left"
    defaults: ClassVar[Mapping[str, Token | None]] = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Build the pipeline; honours add_prefix_space and legacy (a space before all parts of a text)."""
        space = settings.options.get("add_prefix_space")
        space = True if space is None else bool(space)
        start = "never" if not space else "always" if settings.options.get("legacy") else "first"
        backend = Backend(models.BPE(vocabulary.ids, vocabulary.merges, fuse_unk=True, byte_fallback=True))
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=start, split=False)
        steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", left=1)] if space else steps)
        return backend


class GemmaTokenizer(Tokenizer):
    """SentencePiece BPE with byte fallback, which keeps all spaces (Gemma team 2024, arXiv:2403.08295)."""

    kind = "BPE"
    vocabulary_files = ("tokenizer.model",)
    saved_class = "GemmaTokenizer"
    padding_side = "left"
    defaults: ClassVar[Mapping[str, Token | None]] = {
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Build the pipeline, which has no options."""
        unk = name_of(settings, "unk_token")
        bpe = models.BPE(vocabulary.ids, vocabulary.merges, unk_token=unk, fuse_unk=True, byte_fallback=True)
        backend = Backend(bpe)
        backend.normalizer = normalizers.Replace(" ", SPACE)
        backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous", invert=False)
        backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
        return backend


def _byte_level_bpe(vocabulary: Vocabulary) -> models.BPE:
    return models.BPE(vocabulary.ids, vocabulary.merges, continuing_subword_prefix="", end_of_word_suffix="")


def name_of(settings: Settings, name: str) -> str:
    token = settings.named.get(name)
    return "" if token is None else text_of(token)


def with_ids(tokenizer: Tokenizer, *tokens: str) -> list[tuple[str, int]]:
    """Return each token with its id, as templates need them."""
    return [(token, tokenizer.id_of(token) or 0) for token in tokens]


DistilBertTokenizerFast = DistilBertTokenizer
BertTokenizerFast = BertTokenizer
ElectraTokenizer = ElectraTokenizerFast = BertTokenizer
OpenAIGPTTokenizerFast = OpenAIGPTTokenizer
GPT2TokenizerFast = GPT2Tokenizer
OPTTokenizer = OPTTokenizerFast = GPT2Tokenizer
RobertaTokenizerFast = RobertaTokenizer
BartTokenizer = BartTokenizerFast = RobertaTokenizer
DebertaTokenizerFast = DebertaTokenizer
MPNetTokenizerFast = MPNetTokenizer
BlenderbotTokenizerFast = BlenderbotTokenizer
MvpTokenizer = MvpTokenizerFast = RobertaTokenizer
LEDTokenizer = LEDTokenizerFast = LongformerTokenizer = LongformerTokenizerFast = RobertaTokenizer
GPTNeoXTokenizerFast = GPTNeoXTokenizer
Qwen2TokenizerFast = Qwen2Tokenizer
LlamaTokenizerFast = LlamaTokenizer
GemmaTokenizerFast = GemmaTokenizer
