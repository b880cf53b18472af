"""Load a tokenizer object from files."""

from collections.abc import Mapping
from typing import Any, TypeVar

from conjoin.errors import ConjoinError, FileError, TokenizerError
from conjoin.tokenizer.files.as_written import load_as_written
from conjoin.tokenizer.files.frame import honour_ends
from conjoin.tokenizer.formats.find import TOKENIZER_JSON, Files, Source, find_files
from conjoin.tokenizer.formats.read import Vocabulary
from conjoin.tokenizer.formats.settings import Settings, Token, read_settings, text_of
from conjoin.tokenizer.pipeline import Pipeline, fitting
from conjoin.tokenizer.rust import no_panics

T = TypeVar("T", bound=Pipeline)


def load(cls: type[T], source: Source, overrides: Mapping[str, Any]) -> T:
    """Load `cls` from `source`."""
    return load_files(cls, find_files(source), overrides)


def load_files(cls: type[T], files: Files, overrides: Mapping[str, Any]) -> T:
    """Load `cls` from local files.

    Raises:
        FileError: files that `cls` needs are missing.
        TokenizerError: the files are unreadable or belong to another family.
    """
    try:
        path = None if cls.reads_raw and _has_raw(cls, files) else files.get(TOKENIZER_JSON)
        with no_panics(str(path or files.folder)):
            return _load_raw(cls, files, overrides) if path is None else load_as_written(cls, path, files, overrides)
    except ConjoinError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise TokenizerError(
            f"{files.folder}: a tokenizer file holds something of an unexpected shape: {type(error).__name__}: {error}."
        ) from error


def _load_raw(cls: type[T], files: Files, overrides: Mapping[str, Any]) -> T:
    """Build the pipeline of the class over its vocabulary files."""
    if cls.kind is None:
        raise _missing(cls, files)
    settings = read_settings(files, overrides)
    settings.is_raw = True
    vocabulary = _read_raw(cls, files, settings)
    tokenizer = _build(cls, vocabulary, settings)
    tokenizer.frame()
    honour_ends(tokenizer)
    return tokenizer


def _has_raw(cls: type[Pipeline], files: Files) -> bool:
    return all(files.get(name) is not None for name in cls.vocabulary_files)


def _build(cls: type[T], vocabulary: Vocabulary, settings: Settings) -> T:
    for name, token in cls.defaults.items():
        settings.named.setdefault(name, token)
    listed: list[Token] | None = settings.family_extra
    if vocabulary.from_sentencepiece:
        texts = {token.content for token in vocabulary.added}
        listed = [*vocabulary.added, *(token for token in listed or [] if text_of(token) not in texts)]
    extra = cls.extra_tokens(listed, settings)
    if settings.extra is None:
        settings.extra = extra
    try:
        return cls.from_vocabulary(vocabulary, settings)
    except ConjoinError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise TokenizerError(f"{vocabulary.origin}: cannot become a {cls.__name__}: {error}.") from error


def _read_raw(cls: type[Pipeline], files: Files, settings: Settings) -> Vocabulary:
    paths = [files.get(name) for name in cls.vocabulary_files]
    existing = [path for path in paths if path is not None]
    if files.only is not None and not existing and cls.vocabulary_files:
        existing = [files.folder / files.only]
    if len(existing) != len(cls.vocabulary_files):
        raise _missing(cls, files)
    return cls.read(existing, files, settings)


def _missing(cls: type[Pipeline], files: Files) -> FileError:
    needed = " + ".join(cls.vocabulary_files)
    present = ", ".join(files.names()[:12]) or "nothing"
    fits = fitting(files)
    suggestion = f" The files fit: {', '.join(fits)}." if fits else ""
    code = f"{fits[0]}.from_pretrained({str(files.folder)!r})" if fits else None
    return FileError(
        f"{files.folder}: no {TOKENIZER_JSON}{f' and no {needed}' if needed else ''}, which {cls.__name__} reads. "
        f"There is: {present}.{suggestion}",
        hint=code or "save the tokenizer next to the model, or name the folder or hub id that holds it.",
    )
