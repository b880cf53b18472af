"""Families whose rules and BPE the `tokenizers` library has no steps for: BlenderbotSmall, and BioGPT after Moses."""

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from conjoin.errors import MissingBackend, TokenizerError
from conjoin.tokenizer.cutters import Cut
from conjoin.tokenizer.families import with_ids
from conjoin.tokenizer.formats.find import Files
from conjoin.tokenizer.formats.read import WHITESPACE, Vocabulary, read_ids, read_lines
from conjoin.tokenizer.formats.settings import Settings, Token
from conjoin.tokenizer.pieces import Parts, PieceTokenizer

_END = "</w>"


class WordCutter:
    """Cuts texts at added tokens, then into words and their pieces."""

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        self.ranks = {pair: rank for rank, pair in reversed([*enumerate(merges)])}
        self._tokens: dict[str, AddedToken] = {}

    def tell(self, tokens: Iterable[AddedToken]) -> None:
        """Learn added tokens."""
        self._tokens = {token.content: token for token in tokens}

    def cut(self, texts: Sequence[str], *, split_special_tokens: bool) -> list[list[Cut]]:
        """Cut texts."""
        return [[*self._cut(text, split=split_special_tokens)] for text in texts]

    def _cut(self, text: str, *, split: bool) -> Iterator[Cut]:
        known = sorted((text for text in self._tokens if text), key=len, reverse=True)
        if split or not known:
            yield from self._pieces(text, 0, len(text))
            return
        at = 0
        for found in re.finditer("|".join(map(re.escape, known)), text):
            token = self._tokens[found[0]]
            first, end = found.start(), found.end()
            yield from self._pieces(text, at, len(text[:first].rstrip()) if token.lstrip else first)
            yield Cut(found[0], (first, end))
            at = len(text) - len(text[end:].lstrip()) if token.rstrip else end
        yield from self._pieces(text, at, len(text))

    def _pieces(self, text: str, first: int, end: int) -> Iterator[Cut]:
        """Yield the pieces of a part of a text; their places are found again by their letters."""
        at = first
        for word in self.words(text[first:end]) if first < end else ():
            for piece, letters in self.parts_of(word):
                found = text.lower().find(letters.lower(), at, end) if len(text.lower()) == len(text) else -1
                span = (found, found + len(letters)) if found >= 0 else (at, at)
                at = span[1]
                yield Cut(piece, span)

    @abstractmethod
    def words(self, text: str) -> Iterable[str]:
        """Return the words of a text."""

    @abstractmethod
    def parts_of(self, word: str) -> Iterable[tuple[str, str]]:
        """Return the pieces of a word, each with its letters in the text."""

    def merged(self, word: str) -> list[str]:
        """Return the pieces that the merges make of a word; the last ends in `</w>`."""
        parts = [*word[:-1], word[-1] + _END]
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            parts = merge(parts, best)
        return parts


def merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Merge a pair wherever it occurs, from left to right."""
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


class _SmallCutter(WordCutter):
    """ParlAI's rules: lower case, punctuation apart, `@@` at the end of pieces that the word goes on after."""

    def words(self, text: str) -> Iterable[str]:
        for word in re.findall(f"[^{WHITESPACE}]+\n?", text):
            apart = re.sub("([.,!?()])", r" \1", word)
            apart = re.sub(f"[{WHITESPACE}]{{2,}}", " ", re.sub("(')", r" \1 ", apart))
            for each in apart.replace("\n", " __newln__").split(" "):
                if each:
                    yield each.lower()

    def parts_of(self, word: str) -> Iterable[tuple[str, str]]:
        parts = self.merged(word)
        letters = [*parts[:-1], parts[-1].removesuffix(_END)]
        shown = [*(f"{part}@@" for part in letters[:-1]), letters[-1]]
        yield from zip((piece.lower() for piece in shown if piece), letters, strict=False)


class _SmallJoiner:
    def join(self, pieces: Sequence[str]) -> str:
        """Return the words; nothing undoes the spaces around punctuation."""
        return " ".join(pieces).replace("@@ ", "").strip()


class WordBpeTokenizer(PieceTokenizer):
    """Base of these families."""

    vocabulary_files = ("vocab.json", "merges.txt")
    header: ClassVar[bool] = True
    """True if merges.txt begins with a line that is no merge."""

    @classmethod
    def read(cls, paths: Sequence[Path], files: Files, settings: Settings) -> Vocabulary:
        vocab, merges = paths
        lines = read_lines(merges)
        pairs = [tuple(line.split()[:2]) for line in lines[1 if cls.header else 0 :] if line.strip()]
        if wrong := next((pair for pair in pairs if len(pair) != 2), None):
            raise TokenizerError(
                f"{merges}: has the line {' '.join(wrong)!r}, expected two pieces with a space between."
            )
        contents = {path.name: path.read_bytes() for path in paths}
        return Vocabulary(origin=vocab, ids=read_ids(vocab), merges=[(a, b) for a, b in pairs], contents=contents)

    def join(self, tokens: Sequence[str]) -> str:
        return self.made_of.joiner.join(tokens)

    def frame(self) -> None:
        self.backend.post_processor = TemplateProcessing(single=["$A"], pair=["$A", "$B"], special_tokens=[])


class BlenderbotSmallTokenizer(WordBpeTokenizer):
    """Blenderbot 90M (Roller et al. 2020, arXiv:2004.13637). No frame."""

    saved_class = "BlenderbotSmallTokenizer"
    defaults: ClassVar[Mapping[str, Token | None]] = {
        "bos_token": "__start__",
        "eos_token": "__end__",
        "unk_token": "__unk__",
        "pad_token": "__null__",
    }

    @classmethod
    def parts(cls, vocabulary: Vocabulary, settings: Settings) -> Parts:
        cutter = _SmallCutter(vocabulary.merges)
        return Parts((cutter, cutter), vocabulary.contents, _SmallJoiner())


class _MosesCutter(WordCutter):
    """Moses's words of English, then fastBPE's pieces."""

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        super().__init__(merges)
        self._moses = _sacremoses().MosesTokenizer(lang="en")

    def words(self, text: str) -> Iterable[str]:
        words: list[str] = self._moses.tokenize(text, aggressive_dash_splits=True, return_str=False, escape=True)
        return [word for word in words if word]

    def parts_of(self, word: str) -> Iterable[tuple[str, str]]:
        yield from ((part, part.removesuffix(_END)) for part in self.merged(word))


class _MosesJoiner:
    def __init__(self) -> None:
        self._moses = _sacremoses().MosesDetokenizer(lang="en")

    def join(self, pieces: Sequence[str]) -> str:
        """Return the text of pieces, punctuation joined as English has it."""
        words = "".join(piece.replace(" ", "").replace(_END, " ") for piece in pieces).split()
        return self._moses.detokenize(words)


class BioGptTokenizer(WordBpeTokenizer):
    """Biomedical texts (Luo et al. 2022, arXiv:2210.10341). Frame: `</s> A </s> B`. Needs the package sacremoses."""

    saved_class = "BioGptTokenizer"
    header = False
    defaults: ClassVar[Mapping[str, Token | None]] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
    }

    @classmethod
    def parts(cls, vocabulary: Vocabulary, settings: Settings) -> Parts:
        cutter = _MosesCutter(vocabulary.merges)
        return Parts((cutter, cutter), vocabulary.contents, _MosesJoiner())

    def frame(self) -> None:
        sep = self.sep_token or "</s>"
        self.backend.post_processor = TemplateProcessing(
            single=[sep, "$A"], pair=[sep, "$A", sep, "$B"], special_tokens=with_ids(self, sep)
        )


def _sacremoses() -> Any:
    try:
        return import_module("sacremoses")
    except ImportError as error:
        raise MissingBackend(
            "BioGptTokenizer splits texts by Moses's rules, which are in the package sacremoses; it is not installed.",
            hint="pip install sacremoses",
        ) from error


BlenderbotSmallTokenizerFast = BlenderbotSmallTokenizer
BioGptTokenizerFast = BioGptTokenizer
