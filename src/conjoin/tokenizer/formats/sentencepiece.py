"""Read a SentencePiece model file without protobuf or the sentencepiece package.

Source: the field numbers of google/sentencepiece, src/sentencepiece_model.proto.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import takewhile
from pathlib import Path

from conjoin.errors import TokenizerError

Field = tuple[int, int | bytes]
"""A field's number and its value: an int for varints, bytes for everything else."""


class PieceType(IntEnum):
    """SentencePiece.Type of sentencepiece_model.proto."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; its id is its index in the file."""

    text: str
    score: float
    type: PieceType


@dataclass(slots=True, kw_only=True)
class SentencePieceModel:
    """The fields of a ModelProto that conversion needs; the defaults are those of the .proto file."""

    pieces: list[Piece] = field(default_factory=list[Piece])
    is_unigram: bool = True
    charsmap: bytes | None = None
    adds_prefix: bool = True
    """Texts begin with a space (add_dummy_prefix)."""
    single_spaces: bool = True
    """Several spaces are one, and none are left at the ends (remove_extra_whitespaces)."""

    def scores(self) -> list[tuple[str, float]]:
        """Return the vocabulary in the form of `tokenizers.models.Unigram`."""
        return [(piece.text, piece.score) for piece in self.pieces]

    def ids(self) -> dict[str, int]:
        """Return the vocabulary in the form of `tokenizers.models.BPE`."""
        return {piece.text: index for index, piece in enumerate(self.pieces)}

    @property
    def has_bytes(self) -> bool:
        """True if every byte has a piece, so that no text is unknown."""
        return sum(piece.type is PieceType.BYTE for piece in self.pieces) == 256


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Parse a `.model` file.

    Raises:
        TokenizerError: the file is not a SentencePiece model (often: a Git LFS pointer), or is cut off.
    """
    try:
        model = _parse_model(path.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise TokenizerError(
            f"{path}: not a readable SentencePiece model ({type(error).__name__}).",
            hint="fetch the file again; if it is a few lines of text, it is a Git LFS pointer: run `git lfs pull`.",
        ) from error
    if not model.pieces:
        raise TokenizerError(f"{path}: the SentencePiece model holds no pieces.", hint="fetch the file again.")
    return model


def merges_of(vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Rebuild BPE merges from a SentencePiece BPE vocabulary, which keeps only the merged pieces.

    A merge ranks as the piece it makes; where a piece can be cut in several places, every cut is a merge, the one with
    the shortest left part first.
    """
    pieces = sorted(vocab, key=vocab.__getitem__)
    lengths = sorted({len(piece) for piece in pieces})  # few: n letters in all make less than sqrt(2n) of them
    known = set(lengths)
    cuts = (
        (piece[:at], piece[at:])
        for piece in pieces
        for at in takewhile(len(piece).__gt__, lengths)
        if at and len(piece) - at in known
    )
    return [(left, right) for left, right in cuts if left in vocab and right in vocab]


def _parse_model(data: bytes) -> SentencePieceModel:
    model = SentencePieceModel()
    for number, value in _fields(data):
        match number, value:
            case 1, bytes():
                model.pieces.append(_parse_piece(value))
            case 2, bytes():  # TrainerSpec.model_type: 1 unigram, 2 BPE, 3 word, 4 char
                model.is_unigram = dict(_fields(value)).get(3, 1) == 1
            case 3, bytes():  # NormalizerSpec: 2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces
                rules = dict(_fields(value))
                charsmap = rules.get(2)
                model.charsmap = charsmap if isinstance(charsmap, bytes) and charsmap else None
                model.adds_prefix, model.single_spaces = bool(rules.get(3, 1)), bool(rules.get(4, 1))
            case _:
                pass
    return model


def _parse_piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, PieceType.NORMAL
    for number, value in _fields(data):
        match number, value:
            case 1, bytes():
                text = value.decode("utf-8")
            case 2, bytes():
                (score,) = struct.unpack("<f", value)
            case 3, int():
                kind = PieceType(value)
            case _:
                pass
    return Piece(text, score, kind)


def _fields(data: bytes) -> Iterator[Field]:
    """Walk the protobuf wire format (protobuf.dev/programming-guides/encoding)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(data, at)
            case 5:
                size = 4
            case wire:
                raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise IndexError("field runs past the end")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
