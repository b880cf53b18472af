"""Languages of a translation: tokenizers that add their codes, and settings that start results with the target's."""

from copy import copy
from typing import Any, Literal

from conjoin.errors import ConfigError, warn
from conjoin.join import start_of_language
from conjoin.tokenizer import TokenizerPair
from conjoin.tokenizer.multilingual import WithLanguages, speaks


def with_languages(tokenizer: Any, source: str | None, target: str | None, *, by_name: bool) -> Any:
    """Return a copy of a tokenizer with its languages set, or the tokenizer itself if it has none.

    Args:
        source, target: Language codes; None keeps the tokenizer's.
        by_name: True if the task's name says them, which a model of one pair of languages needs not heed.

    Raises:
        TokenizerError: the tokenizer does not know a language; the error names similar ones.
    """
    if isinstance(tokenizer, TokenizerPair):
        pair = copy(tokenizer)
        pair.source = _set(pair.source, "source", source, by_name=by_name)
        pair.target = _set(pair.target, "target", target, by_name=by_name)
        return pair
    return _set(_set(tokenizer, "source", source, by_name=by_name), "target", target, by_name=by_name)


def language_settings(model: Any, tokenizer: Any, *, chosen: bool) -> dict[str, Any]:
    """Return settings of `generate` that start results with the target's language.

    Args:
        chosen: True if the caller chose it; else the model's own `forced_bos_token_id` wins.

    Raises:
        ConfigError: the model is one of many languages, and nothing says which to write.
    """
    target = getattr(tokenizer, "target", tokenizer)
    if not isinstance(target, WithLanguages):
        return {}
    language = target.target_language
    if chosen and language is not None and language.leads:
        return {"forced_bos_token_id": language.id}
    settings = start_of_language(model, tokenizer)
    codes = set(target.lang_code_to_id.values())
    own = {model.generation_config.forced_bos_token_id, model.generation_config.decoder_start_token_id}
    if target.needs_target_language and not own & codes:
        raise ConfigError(
            f"tgt_lang is not set, but {type(target).__name__} has {len(codes)} languages to translate into.",
            hint=f"pipe(text, src_lang={target.src_lang!r}, tgt_lang={[*target.lang_code_to_id][-1]!r})",
        )
    return settings


def _set(tokenizer: Any, side: Literal["source", "target"], code: str | None, *, by_name: bool) -> Any:
    if code is None:
        return tokenizer
    name = "src_lang" if side == "source" else "tgt_lang"
    if not speaks(tokenizer, side):
        if not by_name:
            warn(f"{name} = {code!r} has no effect: {type(tokenizer).__name__} has no languages of its {side}s.")
        return tokenizer
    changed = copy(tokenizer)
    setattr(changed, name, code)
    return changed
