"""Families that cut a text into pieces first, and then look the pieces up in a vocabulary of their own.

The ids do not follow the order of the pieces' model, so no single model of the `tokenizers` library gives both: a
cutter makes the pieces, a WordLevel model numbers them. transformers reads
only their raw files, which are saved as they are.
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Self, cast

from tokenizers import Encoding, models
from tokenizers import Tokenizer as Backend

from conjoin.errors import TokenizerError
from conjoin.tokenizer.cutters import Cut, Cutter, Joiner
from conjoin.tokenizer.formats.read import Vocabulary
from conjoin.tokenizer.formats.settings import Settings, Token, text_of
from conjoin.tokenizer.rust import in_turn
from conjoin.tokenizer.texts import Texts
from conjoin.tokenizer.tokenizer import Tokenizer

Head = tuple[list[str], int]
"""Pieces that a text begins with, and how many of its characters they stand for."""
_NO_HEAD: Head = ([], 0)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Texts in pieces.

    Args:
        texts: Their rows are lists of pieces, or pairs of lists.
        cuts: The pieces of each row: of its text, and of its second text if it has one.
        words: The word of each piece, likewise; None if texts were not lists of words.
    """

    texts: Texts
    cuts: list[tuple[list[Cut], ...]]
    words: list[tuple[list[int], ...]] | None

    def restore(self, row: int, encoding: Encoding) -> Encoding:
        """Return an encoding of a row with the pieces and places of its text, which the vocabulary does not know."""
        state: dict[str, Any] = json.loads(bytes(cast(Any, encoding).__getstate__()))
        restored = Encoding()
        cast(Any, restored).__setstate__(json.dumps(self._restored(row, state)).encode())
        return restored

    def _restored(self, row: int, state: dict[str, Any]) -> dict[str, Any]:
        place: int | None
        for side, cuts in enumerate(self.cuts[row]):
            words = None if self.words is None else self.words[row][side]
            span = state["sequence_ranges"].get(str(side), {"start": 0, "end": len(state["ids"])})
            for index in range(span["start"], span["end"]):
                if (place := state["words"][index]) is not None:
                    cut = cuts[place]
                    state["tokens"][index], state["offsets"][index] = cut.text, cut.span
                    state["words"][index] = place if words is None else words[place]
        state["overflowing"] = [self._restored(row, each) for each in state["overflowing"]]
        return state


@dataclass(frozen=True, slots=True)
class Parts:
    """What a family needs besides its vocabulary.

    Args:
        cutters: Of texts and of target texts; they may be one.
        contents: The family's files, by name.
        joiner: Makes text of pieces.
    """

    cutters: tuple[Cutter, Cutter]
    contents: Mapping[str, bytes]
    joiner: Joiner


class PieceTokenizer(Tokenizer):
    """Base of these families."""

    kind = "WordLevel"
    keeps_class = True
    reads_raw = True

    def __init__(self, backend: Backend, settings: Settings | None = None, made_of: Parts | None = None) -> None:
        """Wrap the vocabulary; `from_pretrained` loads it with what else it takes."""
        if made_of is None:
            raise TokenizerError(
                f"{type(self).__name__} is not made of a tokenizers.Tokenizer, it is loaded.",
                hint=f"{type(self).__name__}.from_pretrained(name_or_folder)",
            )
        self.made_of = made_of
        super().__init__(backend, settings)

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary, settings: Settings) -> Self:
        return cls(cls.build(vocabulary, settings), settings, cls.parts(vocabulary, settings))

    @classmethod
    def parts(cls, vocabulary: Vocabulary, settings: Settings) -> Parts:
        """Return what the family needs besides the vocabulary."""
        raise NotImplementedError

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Return the vocabulary as a WordLevel model, which takes pieces.

        Raises:
            TokenizerError: it lacks the unknown token.
        """
        unknown = settings.named.get("unk_token")
        text = "" if unknown is None else text_of(unknown)
        if text not in vocabulary.ids:
            raise TokenizerError(
                f"{vocabulary.origin}: has no {text or 'unk_token'!r}, the id of pieces that it lacks.",
                hint="fetch the file again; it belongs to another tokenizer, or is damaged.",
            )
        return Backend(models.WordLevel(vocabulary.ids, unk_token=text))

    @property
    def contents(self) -> Mapping[str, bytes]:
        return self.made_of.contents

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        count = super().add_tokens(new_tokens, special_tokens)
        added = [
            token for _, token in sorted(self.backend.get_added_tokens_decoder().items(), key=lambda item: item[0])
        ]
        for cutter in dict.fromkeys(self.made_of.cutters):
            cutter.tell(added)
        return count

    def head(self, text: str, *, is_target: bool, is_first: bool) -> Head:
        """Return pieces that a text begins with, and how many of its characters they stand for.

        Args:
            is_first: True if the text begins a row to which special tokens are added.
        """
        del text, is_target, is_first
        return _NO_HEAD

    @in_turn
    def cut(
        self,
        texts: Texts,
        *,
        is_target: bool,
        framed: bool,
        is_split_into_words: bool,
        split_special_tokens: bool,
    ) -> Pieces:
        rows = [_sides(row, are_words=is_split_into_words) for row in texts.rows]
        sides: list[list[list[str]]] = [[[*side] if is_split_into_words else [side] for side in row] for row in rows]
        flat = [
            (word, side is row[0] and number == 0) for row in sides for side in row for number, word in enumerate(side)
        ]
        heads = [self.head(word, is_target=is_target, is_first=is_first and framed) for word, is_first in flat]
        rest = [word[length:] for (word, _), (_, length) in zip(flat, heads, strict=True)]
        made = self.made_of.cutters[is_target].cut(rest, split_special_tokens=split_special_tokens)
        whole = map(_whole, heads, made)
        cuts = [[[(cut, word) for word, _ in enumerate(side) for cut in next(whole)] for side in row] for row in sides]
        return Pieces(
            Texts([_row([[cut.text for cut, _ in side] for side in row]) for row in cuts], texts.is_batch),
            [tuple([cut for cut, _ in side] for side in row) for row in cuts],
            [tuple([word for _, word in side] for side in row) for row in cuts] if is_split_into_words else None,
        )

    @in_turn
    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"made_of": replace(self.made_of, cutters=deepcopy(self.made_of.cutters))}

    @in_turn
    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self.join(tokens)

    def join(self, tokens: Sequence[str]) -> str:
        """Return the text of tokens."""
        raise NotImplementedError

    def texts_of(self, rows: list[list[int]], *, skip_special_tokens: bool) -> list[str]:
        skipped = set(self.all_special_ids) if skip_special_tokens else set[int | None]()
        tokens = [[self.token_of(index) for index in row if index not in skipped] for row in rows]
        return [self.join([token for token in row if token is not None]) for row in tokens]


def _whole(head: Head, cuts: list[Cut]) -> list[Cut]:
    """Return the pieces of a text: those that it begins with, and those of the rest."""
    first, length = head
    moved = [Cut(cut.text, (cut.span[0] + length, cut.span[1] + length)) for cut in cuts] if length else cuts
    return [*(Cut(piece, (0, length)) for piece in first), *moved]


def _sides(row: Any, *, are_words: bool) -> tuple[Any, ...]:
    """Return a row's text, or its two; a tuple of words is one text."""
    is_pair = isinstance(row, tuple) and not (are_words and all(isinstance(word, str) for word in cast(Any, row)))
    return cast(tuple[Any, ...], row) if is_pair else (cast(Any, row),)


def _row(sides: list[list[str]]) -> Any:
    return sides[0] if len(sides) == 1 else tuple(sides)
