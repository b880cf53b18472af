"""From files to a tokenizer object."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from tokenizers import Tokenizer as Backend

from conjoin.errors import ConjoinError, FileError, TokenizerError
from conjoin.tokenizer._find import TOKENIZER_JSON, Files, Source, find_files
from conjoin.tokenizer._read import (
    Vocabulary,
    model_kind,
    read_backend,
    read_byte_level,
    read_json,
    read_spm,
    read_tokenizer_json,
    read_wordpiece,
)
from conjoin.tokenizer._refuse import check_document
from conjoin.tokenizer._rust import no_panics, set_limits
from conjoin.tokenizer._settings import Settings, Token, read_settings

if TYPE_CHECKING:
    from conjoin.tokenizer.tokenizer import Tokenizer


T = TypeVar("T", bound="Tokenizer")


def load(cls: type[T], source: Source, overrides: Mapping[str, Any]) -> T:
    """Load `cls` from `source`."""
    return load_files(cls, find_files(source), overrides)


def load_files(cls: type[T], files: Files, overrides: Mapping[str, Any]) -> T:
    """Load `cls` from files that are here.

    Raises:
        FileError: the files that `cls` needs are not there.
        TokenizerError: they are unreadable or of another family.
    """
    try:
        with no_panics(str(files.get(TOKENIZER_JSON) or files.folder)):
            return _load(cls, files, overrides)
    except ConjoinError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise TokenizerError(
            f"{files.folder}: a tokenizer file holds something of an unexpected shape: {type(error).__name__}: {error}."
        ) from error


def _load(cls: type[T], files: Files, overrides: Mapping[str, Any]) -> T:
    path = files.get(TOKENIZER_JSON)
    document = read_json(path) if path else None
    if path is not None and document is not None:
        check_document(document, path)
    settings = read_settings(files, document, overrides)
    if cls.kind is None:
        if path is None:
            raise _missing(cls, files)
        return cls(read_backend(path), settings)
    if path is not None and document is not None:
        problem = misfit(cls, document)
        if problem:
            raise TokenizerError(
                f"{path}: {problem}, so {cls.__name__} cannot read it.",
                hint=f"AutoTokenizer.from_pretrained({str(files.folder)!r})",
            )
        vocabulary = read_tokenizer_json(path, document)
    else:
        vocabulary = _read_raw(cls, files)
    return cls(_build(cls, vocabulary, settings), settings)


def misfit(cls: "type[Tokenizer]", document: Mapping[str, Any]) -> str | None:
    """Why a tokenizer.json cannot be of this family; None if it can."""
    kind = model_kind(dict(document), "tokenizer.json")
    if cls.kind is not None and kind != cls.kind:
        return f"holds a {kind} model, expected {cls.kind}"
    steps = str(document.get("pre_tokenizer")) + str(document.get("decoder"))
    if "tokenizer.model" in cls.vocabulary_files and "ByteLevel" in steps:
        return "is byte-level, expected SentencePiece pieces"  # Llama 3 folders name LlamaTokenizer
    return None


def _build(cls: "type[Tokenizer]", vocabulary: Vocabulary, settings: Settings) -> Backend:
    for name, token in cls.defaults.items():
        settings.named.setdefault(name, token)
    given: list[Token] | None = [*vocabulary.added] if vocabulary.from_sentencepiece else settings.family_extra
    extra = cls.extra_tokens(given, settings)
    if settings.extra is None:
        settings.extra = extra
    try:
        backend = cls.build(vocabulary, settings)
        if vocabulary.post_processor is not None:
            backend.post_processor = vocabulary.post_processor
        set_limits(backend, vocabulary.padding, vocabulary.truncation)
    except TokenizerError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise TokenizerError(f"{vocabulary.origin}: cannot become a {cls.__name__}: {error}.") from error
    return backend


def _read_raw(cls: "type[Tokenizer]", files: Files) -> Vocabulary:
    paths = [files.get(name) for name in cls.vocabulary_files]
    found = [path for path in paths if path is not None]
    if files.only is not None and not found and cls.vocabulary_files:
        found = [files.folder / files.only]
    if len(found) != len(cls.vocabulary_files) or not found:
        raise _missing(cls, files)
    match cls.kind:
        case "WordPiece":
            return read_wordpiece(found[0])
        case "BPE" if len(found) == 2:
            return read_byte_level(found[0], found[1])
        case _:
            return read_spm(found[0], as_bpe=cls.kind == "BPE")


def _missing(cls: "type[Tokenizer]", files: Files) -> FileError:
    wanted = " + ".join(cls.vocabulary_files)
    there = ", ".join(files.names()[:12]) or "nothing"
    return FileError(
        f"{files.folder}: no {TOKENIZER_JSON}{f' and no {wanted}' if wanted else ''}, which {cls.__name__} reads. "
        f"There is: {there}.",
        hint="save the tokenizer next to the model, or name the folder or hub id that holds it.",
    )
