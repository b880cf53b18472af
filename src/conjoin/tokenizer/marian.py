"""Marian (OPUS-MT): two SentencePiece models, whose pieces vocab.json numbers."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from tokenizers.processors import TemplateProcessing

from conjoin.errors import TokenizerError
from conjoin.tokenizer.cutters import SPACE, SpmCutter, SpmJoiner
from conjoin.tokenizer.families import with_ids
from conjoin.tokenizer.formats.find import Files
from conjoin.tokenizer.formats.read import Vocabulary, read_ids, read_model
from conjoin.tokenizer.formats.settings import Settings, Token
from conjoin.tokenizer.languages import TargetLanguage
from conjoin.tokenizer.multilingual import WithLanguages
from conjoin.tokenizer.pieces import Head, Parts, PieceTokenizer
from conjoin.tokenizer.run import Runner
from conjoin.tokenizer.rust import add, in_turn

_TARGET_IDS = "target_vocab.json"


class MarianTokenizer(WithLanguages, PieceTokenizer):
    """Tokenizer of translation models (Junczys-Dowmunt et al. 2018, arXiv:1804.00344). Frame: `A </s>`.

    Models of several target languages read the target's code in front of the source (`>>fra<< Hello.`): `tgt_lang`
    puts it there, unless a text has one itself. With `separate_vocabs`, targets have a vocabulary of their own.
    """

    saved_class = "MarianTokenizer"
    vocabulary_files = ("source.spm", "target.spm", "vocab.json")
    marks_sources = False
    default_language = None
    _target_runner: Runner | None = None
    _codes: tuple[str, ...] = ()
    defaults: ClassVar[Mapping[str, Token | None]] = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

    @classmethod
    def read(cls, paths: Sequence[Path], files: Files, settings: Settings) -> Vocabulary:
        source, target, vocab = paths
        separate = bool(settings.options.get("separate_vocabs"))
        own = files.get(_TARGET_IDS) if separate else None
        if separate and own is None:
            raise TokenizerError(
                f"{files.folder}: separate_vocabs = True, but there is no {_TARGET_IDS}.", hint="fetch that file too."
            )
        kept = [*paths, *([own] if own else [])]
        return Vocabulary(
            origin=vocab,
            ids=read_ids(vocab),
            target_ids=None if own is None else read_ids(own),
            models=(read_model(source), read_model(target)),
            contents={path.name: path.read_bytes() for path in kept},
        )

    @classmethod
    def parts(cls, vocabulary: Vocabulary, settings: Settings) -> Parts:
        source, target = vocabulary.models
        joiner = SpmJoiner(source if vocabulary.target_ids is None else target)
        return Parts((SpmCutter(source), SpmCutter(target)), vocabulary.contents, joiner)

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary, settings: Settings) -> Self:
        settings.options.setdefault("model_max_length", 512)  # transformers' default of this class
        tokenizer = super().from_vocabulary(vocabulary, settings)
        if vocabulary.target_ids is not None:
            tokenizer.own_targets(vocabulary)
        return tokenizer

    def own_targets(self, vocabulary: Vocabulary) -> None:
        """Number target pieces by a vocabulary of their own.

        Raises:
            TokenizerError: the two vocabularies disagree on the id that ends a text.
        """
        ids = vocabulary.target_ids or {}
        backend = self.build(replace(vocabulary, ids=ids), self.settings)
        self._target_runner = Runner(backend, self.settings.origin)
        self.add_tokens([])
        eos = self.eos_token or "</s>"
        if backend.token_to_id(eos) != self.eos_token_id:
            raise TokenizerError(
                f"{self.settings.origin}: {eos} has the id {self.eos_token_id} in vocab.json and "
                f"{backend.token_to_id(eos)} in {_TARGET_IDS}; a model ends texts in one id.",
                hint="both files must come from the same checkpoint; fetch them again together.",
            )

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        count = super().add_tokens(new_tokens, special_tokens)
        if self._target_runner is not None:
            tokens = self.backend.get_added_tokens_decoder()
            ordered = [token for _, token in sorted(tokens.items(), key=lambda item: item[0])]
            add(self._target_runner.backend, ordered, special=False)
        return count

    def runner_of(self, *, is_target: bool) -> Runner:
        return self._target_runner if is_target and self._target_runner is not None else self._runner

    def frame(self) -> None:
        for runner in filter(None, (self._runner, self._target_runner)):
            eos = self.eos_token or "</s>"
            runner.backend.post_processor = TemplateProcessing(
                single=["$A", eos], pair=["$A", "$B", eos], special_tokens=with_ids(self, eos)
            )

    def language_codes(self) -> Iterable[str]:
        """Return the codes of `>>fra<<` and the like in the vocabulary; with separate vocabularies there are none."""
        return self._codes

    def language_token(self, code: str) -> str:
        return f">>{code}<<"

    @property
    def target_language(self) -> TargetLanguage | None:
        """None: a target begins as any other, since its code belongs to the source."""
        return None

    @property
    def needs_target_language(self) -> bool:
        """False, since a source may have the code itself."""
        return False

    @property
    def src_lang(self) -> str | None:
        """None: sources have no code of their language."""
        return None

    @src_lang.setter
    def src_lang(self, code: str | None) -> None:
        if code is not None:
            raise TokenizerError(
                f"src_lang = {code!r}: a {type(self).__name__} reads every language of its sources without a code.",
                hint="leave it out; tgt_lang, or --target-language, chooses the language to write.",
            )

    def target_template(self) -> Any:
        return None

    def finish(self) -> None:
        ids = {} if self.settings.options.get("separate_vocabs") else self.get_vocab()
        found = sorted(ids, key=lambda token: ids[token])
        self._codes = tuple(token[2:-2] for token in found if token.startswith(">>") and token.endswith("<<"))
        code = self.settings.options.get("tgt_lang")
        if isinstance(code, str):
            self.tgt_lang = code

    def head(self, text: str, *, is_target: bool, is_first: bool) -> Head:
        end = text.find("<<") + 2
        if text.startswith(">>") and end > 1:
            return [text[:end]], end
        code = self.settings.options.get("tgt_lang")
        return ([], 0) if is_target or not is_first or not code else ([self.language_token(code)], 0)

    def texts_of(self, rows: list[list[int]], *, skip_special_tokens: bool) -> list[str]:
        if self._target_runner is None:
            return super().texts_of(rows, skip_special_tokens=skip_special_tokens)
        backend = self._target_runner.backend
        skipped = self.all_special_tokens if skip_special_tokens else list[str]()
        special = {backend.token_to_id(token) for token in skipped}
        tokens = [[backend.id_to_token(index) for index in row if index not in special] for row in rows]
        return [self.join([token for token in row if token is not None]) for row in tokens]

    @in_turn
    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_target_runner": deepcopy(self._target_runner)}

    def join(self, tokens: Sequence[str]) -> str:
        special, text, pieces = set(self.all_special_tokens), "", list[str]()
        for token in tokens:
            if token in special:
                text += self.made_of.joiner.join(pieces) + token + " "
                pieces = []
            else:
                pieces.append(token)
        return (text + self.made_of.joiner.join(pieces)).replace(SPACE, " ").strip()


MarianTokenizerFast = MarianTokenizer
