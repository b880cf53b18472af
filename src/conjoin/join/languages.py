"""Languages of a multilingual model: once set, their codes are added to sources and targets and start generation."""

from typing import Any, Literal, Protocol

from conjoin.errors import ConfigError
from conjoin.families import PretrainedConfig
from conjoin.join.tokens import special_tokens, starts_with_last_label
from conjoin.tokenizer import Tokenizer, TokenizerPair
from conjoin.tokenizer.languages import TargetLanguage
from conjoin.tokenizer.multilingual import WithLanguages, speaks

Tokenizers = Tokenizer | TokenizerPair


class Generates(Protocol):
    """The attributes of a joined model, of any framework, that languages need."""

    @property
    def config(self) -> PretrainedConfig:
        """The model's config, which holds the start id."""
        ...

    @property
    def generation_config(self) -> Any:
        """The model's settings for `generate`."""
        ...


def set_languages(
    model: Generates, tokenizer: Tokenizers | None, source: str | None = None, target: str | None = None
) -> None:
    """Set the languages of sources and targets for training, evaluation and generation; they are saved with the model.

    The tokenizer adds the source's code to sources and the target's code to labels. If labels begin with their code
    (mBART-50, NLLB), generation is forced to begin with it; if they end in it (mBART), it is the decoder's start id.
    Marian has the target's code in its sources, and nothing else changes.

    Raises:
        ConfigError: the tokenizer has no languages.
        TokenizerError: the tokenizer does not know the language.
    """
    if source is None and target is None:
        return
    sources, targets = _side(tokenizer, "source", source), _side(tokenizer, "target", target)
    for side, code in ((sources, source), (targets, target)):
        if side is not None and code is not None:
            side.language_id(code)  # both are checked before anything changes
    if sources is not None and source is not None:
        sources.src_lang = source
    if targets is not None and target is not None:
        targets.tgt_lang = target
        _start_with(model, targets.target_language)


def start_of_language(model: Generates, tokenizer: Tokenizers | None) -> dict[str, Any]:
    """Return settings of `generate` that begin targets with the tokenizer's target language; {} if none are needed.

    `forced_bos_token_id` of the model's own settings takes precedence.
    """
    language = target_language(tokenizer)
    if language is None:
        return {}
    if language.leads:
        return {} if model.generation_config.forced_bos_token_id is not None else {"forced_bos_token_id": language.id}
    start = special_tokens(model.config).start
    languages = _target_of(tokenizer).lang_code_to_id.values()  # pyright: ignore[reportOptionalMemberAccess]
    replaces_start = starts_with_last_label(model.config) or start in languages
    return {"decoder_start_token_id": language.id} if replaces_start else {}


def target_language(tokenizer: Tokenizers | None) -> TargetLanguage | None:
    """Return the language of targets if the tokenizer has one set."""
    target = _target_of(tokenizer)
    return None if target is None else target.target_language


def _start_with(model: Generates, language: TargetLanguage | None) -> None:
    """Make targets of the model begin with a language, in training and in generation."""
    if language is None:
        return
    if language.leads:
        model.generation_config.forced_bos_token_id = language.id
    else:
        model.generation_config.forced_bos_token_id = None
        model.generation_config.decoder_start_token_id = None  # training and generation then both use the config's
        model.config.decoder_start_token_id = language.id


def _target_of(tokenizer: Tokenizers | None) -> WithLanguages | None:
    target = tokenizer.target if isinstance(tokenizer, TokenizerPair) else tokenizer
    return target if isinstance(target, WithLanguages) else None


def _side(tokenizer: Tokenizers | None, side: Literal["source", "target"], code: str | None) -> WithLanguages | None:
    """Return the tokenizer of one side, which must have languages if `code` is set."""
    single = getattr(tokenizer, side) if isinstance(tokenizer, TokenizerPair) else tokenizer
    if isinstance(single, WithLanguages) and speaks(single, side):
        return single
    if code is None:
        return None
    problem = (
        "the model has no tokenizer" if single is None else f"its {side} tokenizer, {type(single).__name__}, has none"
    )
    raise ConfigError(
        f"{side}_language = {code!r} needs a tokenizer with languages, but {problem}.",
        hint="Tokenizers of mBART, NLLB, M2M-100 and PLBART have languages, and Marian's those that it writes; for "
        "others leave it out, or use source_prefix.",
    )
