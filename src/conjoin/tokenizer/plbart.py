"""Families that number the pieces of a SentencePiece model as it does, or as fairseq does: BertGeneration, PLBART."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tokenizers import AddedToken

from conjoin.errors import TokenizerError
from conjoin.tokenizer.cutters import PlainJoiner, SpmCutter
from conjoin.tokenizer.families import FAIRSEQ, name_of
from conjoin.tokenizer.formats.find import Files
from conjoin.tokenizer.formats.read import Vocabulary, read_model
from conjoin.tokenizer.formats.settings import Settings, Token, text_of
from conjoin.tokenizer.multilingual import WithLanguages
from conjoin.tokenizer.pieces import Parts, PieceTokenizer

_BASE = ("java", "python", "en_XX")
_LISTS = {"base": _BASE, "multi": (*_BASE, "javascript", "php", "ruby", "go")}


class SpmTokenizer(PieceTokenizer):
    """A SentencePiece model of either kind, whose pieces have the model's ids."""

    vocabulary_files = ("spiece.model",)

    @classmethod
    def read(cls, paths: Sequence[Path], files: Files, settings: Settings) -> Vocabulary:
        (path,) = paths
        model = read_model(path)
        contents = {cls.vocabulary_files[0]: path.read_bytes()}
        return Vocabulary(origin=path, ids=model.ids(), models=(model,), contents=contents)

    @classmethod
    def parts(cls, vocabulary: Vocabulary, settings: Settings) -> Parts:
        (model,) = vocabulary.models
        cutter = SpmCutter(model)
        return Parts((cutter, cutter), vocabulary.contents, PlainJoiner(model))

    def join(self, tokens: Sequence[str]) -> str:
        return self.made_of.joiner.join(tokens)


class BertGenerationTokenizer(SpmTokenizer):
    """Rothe et al. 2019, arXiv:1907.12461. No frame."""

    saved_class = "BertGenerationTokenizer"
    defaults: ClassVar[Mapping[str, Token | None]] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "sep_token": "<::::>",
    }


class PLBartTokenizer(WithLanguages, SpmTokenizer):
    """Programs and their descriptions (Ahmad et al. 2021, arXiv:2103.06333). Frame: `A </s> __python__`.

    Languages are java, python and en_XX, and with `language_codes` = multi four more, but no mask. `base` has no code
    in the frame until `src_lang` is set.
    """

    saved_class = "PLBartTokenizer"
    vocabulary_files = ("sentencepiece.bpe.model",)
    default_language = None
    defaults: ClassVar[Mapping[str, Token | None]] = {
        **FAIRSEQ,
        "mask_token": AddedToken("<mask>", lstrip=True, rstrip=False, special=True),
    }

    @classmethod
    def read(cls, paths: Sequence[Path], files: Files, settings: Settings) -> Vocabulary:
        """Read the model, and number its pieces behind fairseq's special tokens."""
        vocabulary = super().read(paths, files, settings)
        settings.options.setdefault("clean_up_tokenization_spaces", True)  # transformers' default of this class
        codes = _codes(settings)
        named = [name_of(settings, name) or text_of(cls.defaults[name] or "") for name in _FIRST]
        tokens = [*named, *(piece.text for piece in vocabulary.models[0].pieces[3:]), *map(_token, codes)]
        tokens += ["<mask>"] if codes == _BASE else []
        vocabulary.ids.clear()
        vocabulary.ids.update({token: index for index, token in enumerate(tokens)})
        return vocabulary

    @classmethod
    def extra_tokens(cls, listed: list[Token] | None, settings: Settings) -> list[Token] | None:
        codes = [_token(code) for code in _codes(settings)]
        if _codes(settings) != _BASE:
            settings.named["mask_token"] = None
        return [*codes, *(token for token in listed or [] if text_of(token) not in codes)]

    def language_codes(self) -> Iterable[str]:
        return _codes(self.settings)

    def language_token(self, code: str) -> str:
        return _token(code)

    def full_code(self, code: str) -> str:
        return super().full_code(code.removeprefix("__").removesuffix("__"))

    @property
    def src_lang(self) -> str | None:
        """The language of texts; en_XX until it is set if `language_codes` = multi, else none."""
        usual = None if _codes(self.settings) == _BASE else "en_XX"
        return self.settings.options.get("src_lang") or usual

    @src_lang.setter
    def src_lang(self, code: str) -> None:
        WithLanguages.src_lang.fset(self, code)  # pyright: ignore[reportOptionalCall]

    def target_template(self) -> object:
        return self._template(self.settings.options.get("tgt_lang"))


_FIRST = ("bos_token", "pad_token", "eos_token", "unk_token")


def _token(code: str) -> str:
    return f"__{code}__"


def _codes(settings: Settings) -> tuple[str, ...]:
    name = settings.options.get("language_codes", "base")
    if name not in _LISTS:
        raise TokenizerError(f"language_codes = {name!r}, expected one of: {', '.join(_LISTS)}.")
    return _LISTS[name]


BertGenerationTokenizerFast = BertGenerationTokenizer
PLBartTokenizerFast = PLBartTokenizer
