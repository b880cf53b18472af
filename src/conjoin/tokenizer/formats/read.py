"""Read vocabulary files of every format into one `Vocabulary`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from conjoin.errors import FileError, TokenizerError
from conjoin.jsons import JsonError, parse_json
from conjoin.tokenizer.formats.refuse import check_charsmap, check_vocab
from conjoin.tokenizer.formats.sentencepiece import PieceType, SentencePieceModel, merges_of, read_sentencepiece
from conjoin.tokenizer.rust import no_panics

WHITESPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Unicode's white space, as Rust's str::trim_end strips it; Python's rstrip() and `\\s` take U+001C..U+001F too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What a family needs to build its pipeline.

    WordPiece and BPE use `ids`, Unigram uses `scores`; the other is empty. `has_bytes` is True if every byte has a
    piece, so that no text is unknown. Families that number the pieces of SentencePiece models themselves have these in
    `models`, the ids of targets in `target_ids` if they are others, and the files' contents, which are saved again.
    """

    origin: Path
    ids: dict[str, int] = field(default_factory=dict[str, int])
    merges: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    scores: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    charsmap: bytes | None = None
    added: list[AddedToken] = field(default_factory=list[AddedToken])
    has_bytes: bool = False
    from_sentencepiece: bool = False
    models: tuple[SentencePieceModel, ...] = ()
    target_ids: dict[str, int] | None = None
    contents: dict[str, bytes] = field(default_factory=dict[str, bytes])


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        TokenizerError: the file is not JSON, or not an object.
    """
    try:
        value = parse_json(_text(path))
    except JsonError as error:
        raise TokenizerError(
            f"{path}: {str(error).replace('not JSON', 'not valid JSON', 1)}",
            hint="fetch the file again, or repair it at the place named.",
        ) from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: holds a {type(value).__name__}, expected a JSON object.")
    return cast(dict[str, Any], value)


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file.

    Raises:
        TokenizerError: it is not UTF-8.
    """
    return _text(path).split("\n")


def read_backend(path: Path) -> Backend:
    """Load `tokenizer.json` exactly as it is written.

    Raises:
        TokenizerError: the `tokenizers` library refuses the file; its message is kept.
    """
    try:
        with no_panics(str(path)):
            return Backend.from_file(str(path))
    except TokenizerError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise TokenizerError(f"{path}: the tokenizers library refuses it: {error}.") from error


def model_kind(document: Mapping[str, Any], path: Path | str) -> str:
    """Return the model type of a `tokenizer.json`: WordPiece, BPE, Unigram or WordLevel, or infer it in old files."""
    model = document.get("model")
    if not isinstance(model, dict) or "vocab" not in model:
        raise TokenizerError(f"{path}: holds no `model` with a `vocab`, so it is not a tokenizers file.")
    model = cast(dict[str, Any], model)
    if model.get("type"):
        return str(model["type"])
    if isinstance(model["vocab"], list):
        return "Unigram"
    return "BPE" if "merges" in model else "WordPiece"


def read_wordpiece(path: Path) -> Vocabulary:
    """Read `vocab.txt`: one piece a line, the line number is the id."""
    lines = _text(path).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    ids = {line.rstrip(WHITESPACE): index for index, line in enumerate(lines)}
    if not ids:
        raise TokenizerError(f"{path}: the vocabulary is empty.", hint="fetch the file again.")
    return Vocabulary(origin=path, ids=ids)


def read_byte_level(vocab: Path, merges: Path) -> Vocabulary:
    """Read `vocab.json` and `merges.txt` of a byte-level BPE.

    Raises:
        TokenizerError: a merge names a piece that the vocabulary lacks, or is not two pieces; two pieces share an id.
    """
    ids = cast(dict[str, int], read_json(vocab))
    check_vocab(ids, vocab)
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(_text(merges).split("\n"), start=1):
        if line.startswith("#version") or not line.strip():
            continue
        parts = line.rstrip("\r").split(" ")
        if len(parts) != 2:
            raise TokenizerError(f"{merges}: line {number} is {line!r}, expected two pieces with one space between.")
        pairs.append((parts[0], parts[1]))
    _check_merges(pairs, ids, merges, vocab)
    return Vocabulary(origin=vocab, ids=ids, merges=pairs)


def read_ids(path: Path) -> dict[str, int]:
    """Read `vocab.json`: pieces and their ids.

    Raises:
        TokenizerError: it is empty, or its ids are none, or two pieces share one.
    """
    ids = cast(dict[str, int], read_json(path))
    check_vocab(ids, path)
    if not ids:
        raise TokenizerError(f"{path}: the vocabulary is empty.", hint="fetch the file again.")
    return ids


def read_model(path: Path) -> SentencePieceModel:
    """Read a SentencePiece model of either kind.

    Raises:
        TokenizerError: the file is unreadable, or its normalisation table is damaged.
    """
    model = read_sentencepiece(path)
    if model.charsmap is not None:
        check_charsmap(model.charsmap, path)
    return model


def read_spm(path: Path, *, as_bpe: bool) -> Vocabulary:
    """Read a SentencePiece model; control and user-defined pieces become added tokens.

    Args:
        as_bpe: the family runs BPE, so merges are rebuilt from the pieces.
    Raises:
        TokenizerError: the file is unreadable, or of the other kind (unigram or BPE).
    """
    model = read_model(path)
    if model.is_unigram == as_bpe:
        kinds = ("unigram", "BPE") if as_bpe else ("BPE (or word, char)", "unigram")
        raise TokenizerError(
            f"{path}: a SentencePiece {kinds[0]} model, but this family needs {kinds[1]}.",
            hint="use the tokenizer class that the checkpoint names, or AutoTokenizer.",
        )
    ids = model.ids()
    return Vocabulary(
        origin=path,
        ids=ids if as_bpe else {},
        scores=[] if as_bpe else model.scores(),
        merges=merges_of(ids) if as_bpe else [],
        charsmap=model.charsmap,
        has_bytes=model.has_bytes,
        added=[
            AddedToken(piece.text, normalized=False, special=piece.type is PieceType.CONTROL)
            for piece in model.pieces
            if piece.type in (PieceType.CONTROL, PieceType.USER_DEFINED)
        ],
        from_sentencepiece=True,
    )


def _check_merges(merges: list[tuple[str, str]], ids: dict[str, int], merges_path: Path, vocab_path: Path) -> None:
    unknown = [f"{a} {b}" for a, b in merges if a not in ids or b not in ids or a + b not in ids]
    if unknown:
        raise TokenizerError(
            f"{merges_path.name} and {vocab_path.name} of {vocab_path.parent} disagree: {len(unknown)} of {len(merges)}"
            f" merges name pieces that the vocabulary lacks, the first is {unknown[0]!r}.",
            hint="both files must come from the same checkpoint; fetch them again together.",
        )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8 text: {error}.", hint="fetch the file again.") from error
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error}.") from error
