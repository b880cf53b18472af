"""From a request's texts to the ids and settings that the engine takes. Runs in a thread of its own, not the loop's."""

import logging
import re
import secrets
import threading
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from conjoin.errors import ConjoinError, ConjoinWarning, GenerationError, TokenizerError, shown
from conjoin.evaluation.texts import source_limit, tokenize_sources, with_length
from conjoin.generation import GenerationConfig
from conjoin.serving.limits import Limits
from conjoin.serving.refusal import Kind, Refusal, invalid
from conjoin.serving.request import Request
from conjoin.tokenizer.multilingual import WithLanguages, speaks

log = logging.getLogger("conjoin.serve")

_WARNINGS = threading.Lock()
"""Held while warnings are collected, which is a state of the whole process."""
_LANGUAGES = threading.Lock()
"""Held while a tokenizer has the languages of one request."""
_SEEDS = -(1 << 63), (1 << 64) - 1
"""What PyTorch takes."""
_LENGTHS = ("max_new_tokens", "max_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the engine takes.

    Args:
        ids: Of the source, cut.
        prefix: Ids of the target's beginning, without the start id.
        settings: Of `generate`.
        places: Where each token begins and ends in the source, in characters; None if nobody asked, or it is not known.
    """

    ids: list[int]
    was_cut: bool
    prefix: list[int]
    settings: dict[str, Any]
    seed: int
    places: tuple[tuple[int, int], ...] | None = None


def read(model: Any, request: Request, limits: Limits) -> Prompt:
    """Tokenize a request's texts and complete its settings.

    Raises:
        Refusal: the source is too long and may not be cut, or ids are not of the vocabulary.
    """
    with _languages(model, request.languages) as language:
        ids, was_cut = _source(model, request, limits)
        places = _places(model, request, ids)
        settings = {**with_length(model, request.settings), **language}
        prefix = _behind_forced(_prefix(model, request), settings, model)
    if all(request.settings.get(name) is None for name in _LENGTHS):
        room = limits.new_tokens
        own = min(settings.get(name) or getattr(model.generation_config, name) or room for name in _LENGTHS)
        if own > room:
            settings["max_new_tokens"] = room
    seed = secrets.randbits(31) if request.seed is None else request.seed
    if not _SEEDS[0] <= seed <= _SEEDS[1]:
        raise invalid(f"seed = {shown(seed)}; expected a number of 64 bits.", "seed")
    return Prompt(ids=ids, was_cut=was_cut, prefix=prefix, settings=settings, seed=seed, places=places)


@contextmanager
def _languages(model: Any, codes: tuple[str | None, str | None]) -> Generator[dict[str, Any]]:
    """Set the languages of a request inside the context; gives settings that begin the target with its language."""
    source, target = (getattr(model.tokenizer, side, model.tokenizer) for side in ("source", "target"))
    chosen = (codes[0] if speaks(source, "source") else None, codes[1] if speaks(target, "target") else None)
    with_languages = [each for each in (source, target) if isinstance(each, WithLanguages)]
    if not with_languages and not any(chosen):
        yield {}
        return
    with _LANGUAGES:  # by a request that names none too: it shall not be read in the languages of another
        before = [(each, each.language_settings()) for each in with_languages]
        try:
            if chosen[0] is not None:
                source.src_lang = chosen[0]
            if chosen[1] is not None:
                target.tgt_lang = chosen[1]
            language = target.target_language if chosen[1] is not None else None
            if language is None:
                yield {}
            else:
                yield {"forced_bos_token_id" if language.leads else "decoder_start_token_id": language.id}
        except TokenizerError as error:
            raise invalid(str(error), "src_lang, tgt_lang") from None
        finally:
            for each, settings in before:
                each.restore_languages(settings)


def _source(model: Any, request: Request, limits: Limits) -> tuple[list[int], bool]:
    bounds = [each for each in (request.max_source_tokens, limits.source_tokens) if each is not None]
    limit = source_limit(model, min(bounds, default=None), new_tokens=request.settings.get("max_new_tokens"))
    if isinstance(request.source, str):
        try:
            (source,) = tokenize_sources(model.tokenizer, [(0, request.source)], limit)
        except ConjoinError as error:
            raise invalid(str(error), "inputs") from None
        ids, was_cut = source.ids, source.cut
    else:
        size = model.spec.encoder.vocab_size
        if wrong := [token for token in request.source if not 0 <= token < size]:
            raise invalid(f"Source ids hold {wrong[0]}; expected 0 to {size - 1}.", "inputs")
        ids = [*request.source]
        was_cut = limit is not None and len(ids) > limit
        ids = ids[:limit]
    if was_cut and not request.cut:
        raise Refusal(
            Kind.TOO_LARGE,
            f"The source is longer than {limit} tokens, the most that is read of it.",
            field="inputs",
            hint="shorten it, or let it be cut.",
        )
    if not ids:
        raise invalid("The source holds no token.", "inputs")
    return ids, was_cut


def _places(model: Any, request: Request, ids: list[int]) -> tuple[tuple[int, int], ...] | None:
    if request.attention is None or not isinstance(request.source, str):
        return None
    row = model.tokenizer(
        request.source, truncation=True, max_length=len(ids), return_offsets_mapping=True, verbose=False
    )
    return tuple(map(tuple, row["offset_mapping"])) if row["input_ids"] == ids else None


def _behind_forced(prefix: list[int], settings: Mapping[str, Any], model: Any) -> list[int]:
    """Put the token with which every result begins, such as that of a language, before a prefix that lacks it.

    Generation forces it behind the start only, where the prefix stands.
    """
    own = model.generation_config
    forced, start = (
        settings.get(name, getattr(own, name, None)) for name in ("forced_bos_token_id", "decoder_start_token_id")
    )
    start = model.config.decoder_start_token_id if start is None else start
    head = prefix[:1] if prefix[:1] == [start] else []
    rest = prefix[len(head) :]
    return [*head, forced, *rest] if rest and isinstance(forced, int) and rest[0] != forced else prefix


def _prefix(model: Any, request: Request) -> list[int]:
    if not isinstance(request.prefix, str):
        size = model.decoder.spec.vocab_size
        if wrong := [token for token in request.prefix if not 0 <= token < size]:
            raise invalid(f"Ids of the target prefix hold {wrong[0]}; expected 0 to {size - 1}.", "target_prefix")
        return [*request.prefix]
    if not request.prefix:
        return []
    target: Any = getattr(model.tokenizer, "target", model.tokenizer)
    try:
        return list(target(request.prefix, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])
    except ConjoinError as error:
        raise invalid(str(error), "target_prefix") from None


def submit(engine: Any, prompt: Prompt, request: Request, client: str) -> tuple[Any, tuple[str, ...]]:
    """Hand a prompt to the engine; return its handle, and what was warned of.

    Raises:
        Refusal: the settings cannot be honoured.
    """
    import torch

    from conjoin.torch.generation.engine import Details

    wanted = request.top is not None or request.attention is not None
    attention = request.attention
    details = Details(
        top=request.top or 0,
        attention=attention is not None,
        layer=None if attention is None else attention.layer,
        head=None if attention is None else attention.head,
    )
    inputs: dict[str, Any] = {"input_ids": torch.tensor([prompt.ids]), **prompt.settings}
    if prompt.prefix:
        inputs["decoder_input_ids"] = torch.tensor([prompt.prefix])
    with _WARNINGS, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        handle = engine.submit(
            **inputs,
            seed=prompt.seed,
            details=details if wanted else None,
            priority=request.priority,
            client=client,
        )
    if handle.done() and handle.error is not None:
        raise as_refusal(handle.error)
    told = (str(each.message) for each in caught if issubclass(each.category, ConjoinWarning))
    return handle, tuple(dict.fromkeys(told))


def as_refusal(error: BaseException) -> Refusal:
    """Return what a client is told of an error: those of its settings name the field, others say little."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, GenerationError):
        text = str(error)
        named = next((word for word in re.findall(r"\w+", text) if word in GenerationConfig.FIELDS), None)
        kind = Kind.UNPROCESSABLE if "cannot go on" in text else Kind.INVALID
        return Refusal(kind, text, field=named)
    if isinstance(error, ConjoinError):
        return invalid(str(error))
    log.error("a request ended with an unexpected error", exc_info=error)
    return unexpected_error(error)


def unexpected_error(error: BaseException) -> Refusal:
    """Return what a client is told of a fault of the server's, which somebody logs."""
    return Refusal(Kind.INTERNAL, f"An unexpected {type(error).__name__} ended this request; the server's log has it.")
