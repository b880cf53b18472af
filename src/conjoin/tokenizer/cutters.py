"""Cut texts into the pieces of a SentencePiece model, whose ids a family numbers itself, and join pieces to text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from conjoin.tokenizer.formats.sentencepiece import PieceType, SentencePieceModel, merges_of
from conjoin.tokenizer.rust import add

SPACE = "\u2581"  # SentencePiece's visible space
_UNKNOWN = "\uffff"  # no character, so that no text has it
_BYTES = "<(?=0x[0-9A-F]{2}>)"
_BONUS = 0.1  # sentencepiece, unigram_model.cc: a user-defined symbol scores length * the best score - 0.1


@dataclass(frozen=True, slots=True)
class Cut:
    """A piece of a text, and where it begins and ends there, in characters."""

    text: str
    span: tuple[int, int]


class Cutter(Protocol):
    """Cuts texts into pieces; added tokens are pieces of their own."""

    def tell(self, tokens: Iterable[AddedToken]) -> None:
        """Learn added tokens."""
        ...

    def cut(self, texts: Sequence[str], *, split_special_tokens: bool) -> list[list[Cut]]:
        """Cut texts; special tokens in them as ordinary text if `split_special_tokens`."""
        ...


class Joiner(Protocol):
    """Makes text of pieces."""

    def join(self, pieces: Sequence[str]) -> str:
        """Return the text of pieces, none of which is a special token."""
        ...


class SpmCutter:
    """Cuts as the sentencepiece library does with a model: unknown characters in a row are one piece."""

    def __init__(self, model: SentencePieceModel) -> None:
        self._rust = _pipeline(model)
        self._charsmap = model.charsmap
        self._known = None if model.is_unigram else {piece.text for piece in model.pieces}

    def tell(self, tokens: Iterable[AddedToken]) -> None:
        """Learn added tokens."""
        add(self._rust, [as_written(token) for token in tokens], special=False)

    def cut(self, texts: Sequence[str], *, split_special_tokens: bool) -> list[list[Cut]]:
        """Cut texts."""
        self._rust.encode_special_tokens = split_special_tokens
        rows = self._rust.encode_batch(list(texts), add_special_tokens=False)
        return [
            [self._piece(text, piece, span) for piece, span in zip(row.tokens, row.offsets, strict=True)]
            for text, row in zip(texts, rows, strict=True)
        ]

    def _piece(self, text: str, piece: str, span: tuple[int, int]) -> Cut:
        if piece != _UNKNOWN or self._known is None:
            return Cut(piece, span)
        unknown = text[slice(*span)]  # a BPE does not say which characters it does not know, as a unigram model does
        normal = unknown if self._charsmap is None else normalizers.Precompiled(self._charsmap).normalize_str(unknown)
        return Cut(_UNKNOWN if normal in self._known else normal, span)


def _pipeline(model: SentencePieceModel) -> Backend:
    """Return a pipeline over the pieces that occur in texts; control pieces do not."""
    steps: list[Any] = [] if model.charsmap is None else [normalizers.Precompiled(model.charsmap)]
    if model.single_spaces:
        steps.append(normalizers.Replace(Regex("^ +| +$| +(?= )"), ""))
    if model.adds_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    in_texts = [piece for piece in model.pieces if piece.type in _IN_TEXTS]
    backend = Backend(_unigram(model) if model.is_unigram else _bpe(model))
    backend.normalizer = normalizers.Sequence(steps)
    words: list[Any] = []
    if not any(SPACE in piece.text[1:] for piece in in_texts):  # then no piece crosses words, and words are faster
        words.append(pre_tokenizers.Split(SPACE, behavior="merged_with_next", invert=False))
    if model.has_bytes:  # `<0x41>` in a text is not the byte's piece
        words.append(pre_tokenizers.Split(Regex(_BYTES), behavior="isolated", invert=False))
    if words:
        backend.pre_tokenizer = pre_tokenizers.Sequence(words)
    if not model.is_unigram:
        symbols = [piece.text for piece in in_texts if piece.type is PieceType.USER_DEFINED]
        add(backend, [AddedToken(text, normalized=False) for text in symbols], special=False)
    return backend


_IN_TEXTS = (PieceType.NORMAL, PieceType.USER_DEFINED, PieceType.BYTE)


def _unigram(model: SentencePieceModel) -> models.Unigram:
    normal = [piece.score for piece in model.pieces if piece.type is PieceType.NORMAL]
    best = max(normal, default=0.0)
    scores = [(_UNKNOWN, 0.0)]
    for piece in model.pieces:
        if piece.type is PieceType.USER_DEFINED:
            scores.append((piece.text, len(piece.text.encode()) * best - _BONUS))
        elif piece.type in _IN_TEXTS:
            scores.append((piece.text, piece.score))
    return models.Unigram(scores, unk_id=0, byte_fallback=model.has_bytes)


def _bpe(model: SentencePieceModel) -> models.BPE:
    pieces = sorted((piece for piece in model.pieces if piece.type in _IN_TEXTS), key=lambda piece: -piece.score)
    ids = {piece.text: index for index, piece in enumerate(pieces)}
    ids[_UNKNOWN] = len(ids)
    return models.BPE(ids, merges_of(ids), unk_token=_UNKNOWN, fuse_unk=True, byte_fallback=model.has_bytes)


def as_written(token: AddedToken) -> AddedToken:
    """Return an added token that is looked for in a text as it is, before its normalisation."""
    rules = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "special")}
    return AddedToken(token.content, normalized=False, **rules)


class PlainJoiner:
    """Joins pieces as they are: control pieces are text too."""

    def __init__(self, model: SentencePieceModel) -> None:
        self._bytes = {piece.text for piece in model.pieces if piece.type is PieceType.BYTE}

    def join(self, pieces: Sequence[str]) -> str:
        """Return the text of pieces, without spaces at its ends."""
        data = b"".join(bytes([int(each[3:5], 16)]) if each in self._bytes else each.encode() for each in pieces)
        return data.decode("utf-8", errors="replace").replace(SPACE, " ").strip()


class SpmJoiner:
    """Joins pieces as the sentencepiece library does with a model: pieces that it does not know stay as they are."""

    def __init__(self, model: SentencePieceModel) -> None:
        kinds = {piece.text: piece.type for piece in model.pieces}
        self._control = {text for text, kind in kinds.items() if kind is PieceType.CONTROL}
        self._bytes = {text for text, kind in kinds.items() if kind is PieceType.BYTE}
        self._known = {text for text, kind in kinds.items() if kind is not PieceType.UNKNOWN}
        self._adds_prefix, self._single_spaces = model.adds_prefix, model.single_spaces

    def join(self, pieces: Sequence[str]) -> str:
        """Return the text of pieces, without the space that begins every text."""
        text, data = "", bytearray()
        for piece in pieces:
            if piece in self._bytes:
                data.append(int(piece[3:5], 16))
                continue
            text += data.decode("utf-8", errors="replace")
            data.clear()
            text += self._text(piece, is_first=not text)
        return text + data.decode("utf-8", errors="replace")

    def _text(self, piece: str, *, is_first: bool) -> str:
        if piece in self._control:
            return ""
        if piece not in self._known:
            return piece
        if is_first and (self._adds_prefix or self._single_spaces):
            piece = piece.removeprefix(SPACE)
        return piece.replace(SPACE, " ")
