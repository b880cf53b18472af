"""A smaller vocabulary for a tokenizer.json: which tokens must stay, and the document of those that do.

Ids are renumbered in their order, so that of two tokens with equal scores or logits the same one still wins. A trimmed
tokenizer gives every text whose tokens are kept the same tokens as before:

- WordPiece takes the longest token at each place: one that won against the whole vocabulary wins against a part of it.
- Unigram takes the best path, likewise. The lowest score stays, since it decides the score of unknown text.
- BPE applies the first rule that fits: the rules that were applied are kept, in their order. A token is therefore kept
  with everything that it can be merged from.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any, cast

from conjoin.errors import TokenizerError
from conjoin.tokenizer.byt5 import byte_alphabet

Document = dict[str, Any]
KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")


class TrimmableVocabulary:
    """The vocabulary of a tokenizer.json.

    Args:
        document: The content of the file.
        origin: Its name in errors.

    Raises:
        TokenizerError: its model is of an unknown kind, or one of single bytes or characters, which cannot lose any.
    """

    def __init__(self, document: Document, origin: str) -> None:
        self._document, self._model = document, cast(Document, document["model"])
        self.kind = str(self._model.get("type") or "BPE")
        if self.kind not in KINDS:
            raise TokenizerError(f"{origin}: a {self.kind} model; expected one of {', '.join(KINDS)}.")
        self._own: dict[int, str] = (
            {index: piece for index, (piece, _) in enumerate(self._scores)}
            if self.kind == "Unigram"
            else {index: text for text, index in cast(dict[str, int], self._model["vocab"]).items()}
        )
        self._added = {int(each["id"]): str(each["content"]) for each in self._listed}
        if self.kind == "BPE" and not self._merges:
            raise TokenizerError(
                f"{origin}: its tokens are single bytes or characters, and unknown texts need all of them: none can be "
                "dropped.",
                hint="a model that reads bytes has a small vocabulary already.",
            )

    @property
    def _scores(self) -> list[tuple[str, float]]:
        return cast("list[tuple[str, float]]", self._model["vocab"])

    @property
    def _listed(self) -> list[Document]:
        return cast(list[Document], self._document.get("added_tokens") or [])

    @cached_property
    def tokens(self) -> dict[int, str]:
        """Every token by its id, added ones included."""
        return dict(sorted({**self._own, **self._added}.items()))

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id of every token; of an added token that hides one of the model, the added one's."""
        return {text: index for index, text in self.tokens.items()}

    @cached_property
    def _merges(self) -> list[tuple[str, str]]:
        listed: list[Any] = self._model.get("merges") or []
        return [(a, b) for a, b in (each.split(" ", 1) if isinstance(each, str) else each for each in listed)]

    @cached_property
    def _parents(self) -> Mapping[int, set[int]]:
        """Return for every token of a BPE all tokens that some rule merges into it."""
        parents: dict[int, set[int]] = {}
        ids = {text: index for index, text in self._own.items()}
        for first, second in self._merges:
            if (merged := ids.get(self._merged(first, second))) is not None and first in ids and second in ids:
                parents.setdefault(merged, set()).update((ids[first], ids[second]))
        return parents

    def _merged(self, first: str, second: str) -> str:
        return first + second.removeprefix(self._model.get("continuing_subword_prefix") or "")

    @cached_property
    def required(self) -> set[int]:
        """Ids that stay whatever the texts: added tokens, unknown text's, and what unknown texts are spelled with.

        These are the 256 bytes where the tokenizer has them, and every single character otherwise.
        """
        unknown = self._model.get("unk_token")
        kept = {*self._added, *([self.ids[unknown]] if unknown in self.ids else [])}
        if self.kind == "Unigram":
            scores = [score for _, score in self._scores]
            kept |= {scores.index(min(scores))} | ({int(u)} if (u := self._model.get("unk_id")) is not None else set())
        return kept | self._spelling()

    def _spelling(self) -> set[int]:
        if self.kind == "WordLevel":
            return set()
        if self._reads_bytes:
            alphabet = set(byte_alphabet())
            return {index for index, text in self._own.items() if text in alphabet}
        if self._model.get("byte_fallback"):
            return {index for index, text in self._own.items() if _is_byte(text)} | self._spaces()
        affixes = (self._model.get("continuing_subword_prefix") or "", self._model.get("end_of_word_suffix") or "")
        return {index for index, text in self._own.items() if _is_single(text, *affixes)}

    def _spaces(self) -> set[int]:
        """Return the ids of spaces, as sentencepiece writes them, and of characters that every text has."""
        return {i for i, text in self._own.items() if len(text) == 1 and (text.isascii() or text == "\u2581")}

    @property
    def _reads_bytes(self) -> bool:
        steps = [self._document.get(part) for part in ("pre_tokenizer", "normalizer", "decoder")]
        return any(_has_step(step, "ByteLevel") for step in steps)

    def closed(self, ids: Iterable[int]) -> set[int]:
        """Return ids with all those that a BPE needs to make them."""
        kept, waiting = set[int](), list(ids)
        parents: Mapping[int, set[int]] = self._parents if self.kind == "BPE" else {}
        while waiting:
            index = waiting.pop()
            if index not in kept:
                kept.add(index)
                waiting += parents.get(index, ())
        return kept

    def parts_of(self, text: str) -> set[int]:
        """Return the ids of all tokens whose text occurs in a text, whichever of them it is made of.

        Args:
            text: As the model reads it: normalised, spaces and bytes as its tokens have them.
        """
        marks = ((self._model.get("continuing_subword_prefix") or ""), (self._model.get("end_of_word_suffix") or ""))
        return {i for i, token in self._own.items() if token.removeprefix(marks[0]).removesuffix(marks[1]) in text}

    def trimmed(self, kept: Collection[int]) -> Document:
        """Return the document of the kept tokens, which get the ids 0, 1, 2 ... in their order.

        Args:
            kept: Ids; those without a token are rows of the model alone, and must come after all tokens.

        Raises:
            TokenizerError: an id without a token is below that of a token.
        """
        order = sorted(kept)
        holes = [index for index in order if index not in self.tokens]
        if holes and holes[0] < max(index for index in order if index in self.tokens):
            raise TokenizerError(f"the id {holes[0]} must be kept, but no token has it.")
        new = {old: index for index, old in enumerate(order)}
        model = {**self._model, "vocab": self._vocab(new)}
        if self.kind == "BPE":
            model["merges"] = self._merges_of(set(model["vocab"]))
        if model.get("unk_id") is not None:
            model["unk_id"] = new[int(model["unk_id"])]
        added: list[Document] = [{**t, "id": new[int(t["id"])]} for t in self._listed if t["id"] in new]
        framed = _renumbered(self._document.get("post_processor"), new)
        return {**self._document, "model": model, "added_tokens": added, "post_processor": framed, "padding": None}

    def _vocab(self, new: Mapping[int, int]) -> Any:
        if self.kind == "Unigram":
            return [piece for index, piece in enumerate(self._scores) if index in new]
        return {text: new[index] for index, text in sorted(self._own.items()) if index in new}

    def _merges_of(self, texts: set[str]) -> list[Any]:
        listed: list[Any] = self._model["merges"]
        fits = (a in texts and b in texts and self._merged(a, b) in texts for a, b in self._merges)
        return [each for each, fit in zip(listed, fits, strict=True) if fit]


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _is_single(text: str, prefix: str, suffix: str) -> bool:
    """True if a token is one character, with the marks of its place in a word or without."""
    bare = text.removeprefix(prefix) if len(text) > 1 else text
    bare = bare.removesuffix(suffix) if suffix and len(bare) > 1 else bare
    return len(bare) == 1 or (len(bare) == 2 and bare[0] == "\u2581")


def _has_step(step: Any, kind: str) -> bool:
    """True if a part of a pipeline is, or contains, a step of a kind."""
    if not isinstance(step, dict):
        return False
    values = cast(Document, step)
    inner: list[Any] = [
        each
        for name in ("pretokenizers", "normalizers", "decoders")
        for each in cast(list[Any], values.get(name) or [])
    ]
    return values.get("type") == kind or any(_has_step(each, kind) for each in inner)


def _renumbered(step: Any, new: Mapping[int, int]) -> Any:
    """Return a post-processor whose special tokens have their new ids."""
    if not isinstance(step, dict):
        return step
    values = dict(cast(Document, step))
    for name in ("sep", "cls"):
        if name in values:
            values[name] = [values[name][0], new[int(values[name][1])]]
    if isinstance(values.get("special_tokens"), dict):
        tokens = cast(dict[str, Document], values["special_tokens"])
        values["special_tokens"] = {
            name: {**token, "ids": [new[int(index)] for index in token["ids"]]} for name, token in tokens.items()
        }
    if isinstance(values.get("processors"), list):
        values["processors"] = [_renumbered(each, new) for each in cast(list[Any], values["processors"])]
    return values
