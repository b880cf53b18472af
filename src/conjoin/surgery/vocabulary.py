"""The vocabulary of one side of a model: counted on texts, reduced, and held to give the same tokens."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from conjoin.errors import ConfigError
from conjoin.tokenizer import Tokenizer
from conjoin.tokenizer.files.save import chat_templates
from conjoin.tokenizer.trimming import Document, TrimmableVocabulary

_AT_ONCE = 1000
"""Texts that are tokenized at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How small a vocabulary shall be.

    Args:
        min_count: Keep tokens that occur at least this often in the texts.
        size: Keep this many tokens: those that must stay, then the most frequent ones, then the first of the rest.
        multiple_of: Keep a few more, so that their number is a multiple of this.
        keep: Tokens to keep in any case, as the vocabulary spells them, or texts whose tokens are kept.
    """

    min_count: int = 1
    size: int | None = None
    multiple_of: int = 1
    keep: Collection[str] = ()

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("min_count", "size", "multiple_of"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} = {value}; expected 1 or more.")

    @property
    def keeps_all_seen(self) -> bool:
        """True if every token of the texts is kept."""
        return self.min_count == 1 and self.size is None


@dataclass(eq=False)
class Side:
    """One vocabulary, and the texts that it must be able to read or write.

    Args:
        name: For messages: "source" or "target".
        reader, writer: Tokenizers of sources and of targets; they have the same tokens.
        sources, targets: Texts that they tokenize.
        rows: Rows of its matrices; some may have no token.
        in_use: Ids that the model's settings name.
    """

    name: str
    reader: Tokenizer
    writer: Tokenizer
    sources: Sequence[str]
    targets: Sequence[str]
    rows: int
    in_use: set[int]
    kept: list[int] = field(default_factory=list[int])

    @cached_property
    def vocabulary(self) -> TrimmableVocabulary:
        """The tokens, and what belongs together."""
        return self._vocabulary_of(self.writer)

    def _vocabulary_of(self, tokenizer: Tokenizer) -> TrimmableVocabulary:
        if tokenizer.contents:
            raise ConfigError(
                f"the {self.name} tokenizer is a {type(tokenizer).__name__}, whose vocabulary "
                f"({', '.join(tokenizer.contents)}) cannot be trimmed: its pieces come from a model of their own.",
                hint="trim a model whose tokenizer is a tokenizer.json.",
            )
        document: Document = json.loads(tokenizer.backend.to_str())
        return TrimmableVocabulary(document, f"the {self.name} tokenizer")

    def encoded(self, reader: Tokenizer, writer: Tokenizer) -> Iterator[tuple[str, list[int]]]:
        """Yield every text with its ids by two tokenizers."""
        for texts, tokenizer, key in ((self.sources, reader, "text"), (self.targets, writer, "text_target")):
            for start in range(0, len(texts), _AT_ONCE):
                some = list(texts[start : start + _AT_ONCE])
                given: dict[str, Any] = {key: some}
                rows: Any = tokenizer(**given, verbose=False)["input_ids"]
                yield from zip(some, rows, strict=True)

    def count(self) -> Int[np.ndarray, "V"]:
        """Return how often every id occurs in the texts."""
        counts = np.zeros(max(self.rows, len(self.writer)), np.int64)
        for _, ids in self.encoded(self.reader, self.writer):
            np.add.at(counts, ids, 1)
        return counts

    def choose(self, wanted: Wanted, counts: Int[np.ndarray, "V"]) -> None:
        """Choose the tokens to keep.

        Raises:
            ConfigError: more tokens must stay than are wanted.
        """
        must = self.vocabulary.closed(self.required() | self._named(wanted.keep))
        must = {index for index in must if index < self.rows}
        by_count = np.argsort(-counts, kind="stable").tolist()
        order = [index for index in by_count if index < self.rows and index in self.vocabulary.tokens]
        if wanted.size is None:
            kept = must | self.vocabulary.closed(i for i in order if counts[i] >= wanted.min_count)
            size = -(-len(kept) // wanted.multiple_of) * wanted.multiple_of
        else:
            kept, size = must, wanted.size // wanted.multiple_of * wanted.multiple_of
            if len(kept) > size:
                raise ConfigError(
                    f"keep_size = {wanted.size}, but {len(kept):,} tokens of the {self.name} vocabulary must stay: "
                    "special tokens, and the bytes or characters that unknown texts are spelled with.",
                    hint=f"--keep-size {len(kept)} or more.",
                )
        self.kept = sorted(self._filled(kept, order, size))

    def _filled(self, kept: set[int], order: Sequence[int], size: int) -> set[int]:
        """Add tokens in their order, each with those that it is made of, while there is room."""
        kept = set(kept)
        for index in order:
            if len(kept) >= size:
                break
            added = set[int]() if index in kept else self.vocabulary.closed([index]) - kept
            if len(kept) + len(added) <= size:
                kept |= added
        return kept

    def required(self) -> set[int]:
        """Return the ids that stay whatever the texts: see `TrimmableVocabulary`, the settings, and chat templates."""
        listed = (*self.reader.all_special_ids, *self.writer.all_special_ids)
        special = {index for index in listed if index is not None}
        return self.vocabulary.required | special | self.in_use | self._of_templates()

    def _named(self, keep: Iterable[str]) -> set[int]:
        ids = self.vocabulary.ids
        named: set[int] = set()
        for text in keep:
            named |= {ids[text]} if text in ids else set(self._plain(text))
        return named

    def _plain(self, text: str) -> list[int]:
        return self.writer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _of_templates(self) -> set[int]:
        """Return the ids of what chat templates write themselves: text outside of tags, and strings inside."""
        templates = {
            text
            for tokenizer in (self.reader, self.writer)
            for text in chat_templates(tokenizer.init_kwargs.get("chat_template")).values()
        }
        found: set[int] = set()
        for each in templates:
            outside = re.split(r"{[%{#].*?[%}#]}", each, flags=re.S)
            strings = [text.replace("\\n", "\n") for _, text in re.findall(r"(['\"])(.*?)\1", each, flags=re.S)]
            found |= {index for text in (*outside, *strings) for index in self._plain(text)}
        return found

    def changed(self, reader: Tokenizer, writer: Tokenizer) -> list[str]:
        """Return the texts whose tokens trimmed tokenizers change."""
        new = {old: index for index, old in enumerate(self.kept)}
        pairs = zip(self.encoded(self.reader, self.writer), self.encoded(reader, writer), strict=True)
        return [text for (text, old), (_, now) in pairs if [new.get(index) for index in old] != now]

    def keep_parts_of(self, texts: Iterable[str]) -> None:
        """Keep also every token that occurs in some texts, so that these are read as before in any case."""
        backend = self.writer.backend
        more: set[int] = set()
        for text in texts:
            plain = backend.normalizer.normalize_str(text) if backend.normalizer else text
            words = backend.pre_tokenizer.pre_tokenize_str(plain) if backend.pre_tokenizer else [(plain, None)]
            for word in {word for word, _ in words}:
                more |= self.vocabulary.parts_of(word)
        self.kept = sorted({*self.kept, *(i for i in self.vocabulary.closed(more) if i < self.rows)})

    def document(self, tokenizer: Tokenizer) -> Document:
        """Return the tokenizer.json of a tokenizer of this side, with the kept tokens."""
        return self._vocabulary_of(tokenizer).trimmed(self.kept)
