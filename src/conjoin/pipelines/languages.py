"""Languages of a translation: tokenizers that add their codes, and settings that start results with the target's."""

from copy import copy
from typing import Any

from conjoin.errors import ConfigError, warn
from conjoin.join import start_of_language
from conjoin.tokenizer import MBartTokenizer, TokenizerPair


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
        pair.source = _set(pair.source, "src_lang", source, by_name=by_name)
        pair.target = _set(pair.target, "tgt_lang", target, by_name=by_name)
        return pair
    return _set(_set(tokenizer, "src_lang", source, by_name=by_name), "tgt_lang", target, by_name=by_name)


def language_settings(model: Any, tokenizer: Any, *, chosen: bool) -> dict[str, Any]:
    """Return settings of `generate` that start results with the target's language.

    Args:
        chosen: True if the caller chose it; else the model's own `forced_bos_token_id` wins.

    Raises:
        ConfigError: the model is one of many languages, and nothing says which to write.
    """
    target = getattr(tokenizer, "target", tokenizer)
    if not isinstance(target, MBartTokenizer):
        return {}
    language = target.target_language
    if chosen and language is not None and language.leads:
        return {"forced_bos_token_id": language.id}
    settings = start_of_language(model, tokenizer)
    codes = set(target.lang_code_to_id.values())
    own = {model.generation_config.forced_bos_token_id, model.generation_config.decoder_start_token_id}
    if language is None and not own & codes:
        raise ConfigError(
            f"tgt_lang is not set, but {type(target).__name__} has {len(codes)} languages to translate into.",
            hint='pipe(text, src_lang="en_XX", tgt_lang="ro_RO")',
        )
    return settings


def _set(tokenizer: Any, side: str, code: str | None, *, by_name: bool) -> Any:
    if code is None:
        return tokenizer
    if not isinstance(tokenizer, MBartTokenizer):
        if not by_name:
            warn(f"{side} = {code!r} has no effect: {type(tokenizer).__name__} has no languages.")
        return tokenizer
    changed = copy(tokenizer)
    setattr(changed, side, _full_code(changed, code))
    return changed


def _full_code(tokenizer: MBartTokenizer, code: str) -> str:
    """Return the code that a language's two letters mean, as in translation_en_to_ro: ro_RO."""
    matching = [known for known in tokenizer.lang_code_to_id if known.partition("_")[0] == code]
    return matching[0] if len(matching) == 1 else code
