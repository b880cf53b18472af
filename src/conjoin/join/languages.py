"""Languages of a multilingual model: set once, they frame sources and targets and start what is generated."""

from typing import Any, Protocol

from conjoin.errors import ConfigError
from conjoin.families import PretrainedConfig
from conjoin.join.tokens import special_tokens, starts_with_last_label
from conjoin.tokenizer import MBartTokenizer, Tokenizer, TokenizerPair
from conjoin.tokenizer.languages import TargetLanguage

Tokenizers = Tokenizer | TokenizerPair


class Generates(Protocol):
    """A joined model of any framework, as far as languages go."""

    @property
    def config(self) -> PretrainedConfig:
        """The model's config, which holds the start id."""
        ...

    @property
    def generation_config(self) -> Any:
        """Defaults of `generate`."""
        ...


def set_languages(
    model: Generates, tokenizer: Tokenizers | None, source: str | None = None, target: str | None = None
) -> None:
    """Let a model read one language and write another, in training, evaluation and generation; saved with it.

    The source's code frames sources, the target's frames labels. Where labels begin with it (mBART-50), generation is
    made to begin with it; where they end in it (mBART), it is the decoder's start.

    Raises:
        ConfigError: the tokenizer has no languages.
        TokenizerError: it does not know this one.
    """
    if source is None and target is None:
        return
    read, written = _side(tokenizer, "source", source), _side(tokenizer, "target", target)
    for each, code in ((read, source), (written, target)):
        if each is not None and code is not None:
            each.language_id(code)  # both are checked before anything changes
    if read is not None and source is not None:
        read.src_lang = source
    if written is not None and target is not None:
        written.tgt_lang = target
        _start_with(model, written.target_language)


def start_of_language(model: Generates, tokenizer: Tokenizers | None) -> dict[str, Any]:
    """Settings of `generate` that begin targets with the language that the tokenizer knows; {} where others say so.

    `forced_bos_token_id` of the model's own settings wins.
    """
    spoken = target_language(tokenizer)
    if spoken is None:
        return {}
    if spoken.leads:
        return {} if model.generation_config.forced_bos_token_id is not None else {"forced_bos_token_id": spoken.id}
    start = special_tokens(model.config).start
    others = _target_of(tokenizer).lang_code_to_id.values()  # pyright: ignore[reportOptionalMemberAccess]
    return {"decoder_start_token_id": spoken.id} if starts_with_last_label(model.config) or start in others else {}


def target_language(tokenizer: Tokenizers | None) -> TargetLanguage | None:
    """The language of targets, where the tokenizer was told one."""
    target = _target_of(tokenizer)
    return None if target is None else target.target_language


def _start_with(model: Generates, spoken: TargetLanguage | None) -> None:
    if spoken is None:
        return
    if spoken.leads:
        model.generation_config.forced_bos_token_id = spoken.id
    else:
        model.generation_config.forced_bos_token_id = None
        model.generation_config.decoder_start_token_id = None  # the config's, for training and generation alike
        model.config.decoder_start_token_id = spoken.id


def _target_of(tokenizer: Tokenizers | None) -> MBartTokenizer | None:
    target = tokenizer.target if isinstance(tokenizer, TokenizerPair) else tokenizer
    return target if isinstance(target, MBartTokenizer) else None


def _side(tokenizer: Tokenizers | None, side: str, code: str | None) -> MBartTokenizer | None:
    """The tokenizer of one side, which must have languages where one is asked for."""
    one = getattr(tokenizer, side) if isinstance(tokenizer, TokenizerPair) else tokenizer
    if isinstance(one, MBartTokenizer):
        return one
    if code is None:
        return None
    found = "the model has no tokenizer" if one is None else f"its {side} tokenizer, {type(one).__name__}, has none"
    raise ConfigError(
        f"{side}_language = {code!r} needs a tokenizer with languages, and {found}.",
        hint="MBartTokenizer and MBart50Tokenizer have languages; for others leave it out, or use source_prefix.",
    )
