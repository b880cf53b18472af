"""Start, pad, eos and bos ids of a joined model: resolved once, used by the loss and by generate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConfigError
from conjoin.families import PretrainedConfig, family

if TYPE_CHECKING:
    from conjoin.tokenizer import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """Ids in the decoder's vocabulary.

    Args:
        start: First decoder input, in training and in generation.
        eos: Any of these ends a target; () for none.
        pad: Pads targets after their end; may equal an eos or the start id, so no mask is derived from it alone.
    """

    start: int | None
    pad: int | None
    eos: tuple[int, ...]
    bos: int | None

    @property
    def pad_is_ambiguous(self) -> bool:
        """True if the pad id is also an eos or the start id."""
        return self.pad is not None and (self.pad == self.start or self.pad in self.eos)


def special_tokens(config: PretrainedConfig) -> SpecialTokens:
    """Return the ids in a pair's config; its own take precedence over its decoder's."""
    configs = (config, config.decoder) if isinstance(config, EncoderDecoderConfig) else (config,)
    eos = _first(c.eos_token_id for c in configs)
    return SpecialTokens(
        start=_first(c.decoder_start_token_id for c in configs),
        pad=_first(c.pad_token_id for c in configs),
        eos=() if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
        bos=_first(c.bos_token_id for c in configs),
    )


def lacks_tokens(config: PretrainedConfig) -> bool:
    """True if the start, pad or end id of targets is unknown."""
    known = special_tokens(config)
    return known.start is None or known.pad is None or not known.eos


def fill_special_tokens(config: PretrainedConfig, target: "Tokenizer | None") -> None:
    """Fill ids that a pair's config lacks from its decoder's config and the target tokenizer.

    The start id is the decoder's own, else the first token of its targets: bos, or [CLS] if there is no bos. BERT's
    config.json has none of its ids, but its tokenizer does.
    """
    known = special_tokens(config)
    bos = _first((known.bos, target.bos_token_id if target else None))
    cls = target.cls_token_id if target else None
    ends = _first((target.eos_token_id, target.sep_token_id)) if target else None
    eos = known.eos if known.eos else () if ends is None else (ends,)
    if config.decoder_start_token_id is None:
        config.decoder_start_token_id = _first((known.start, bos, cls))
    if config.eos_token_id is None and eos:
        config.eos_token_id = eos[0] if len(eos) == 1 else list(eos)
    if config.pad_token_id is None:
        config.pad_token_id = _first((target.pad_token_id if target else None, known.pad, eos[0] if eos else None))
    if config.bos_token_id is None:
        config.bos_token_id = bos


def starts_with_last_label(config: PretrainedConfig) -> bool:
    """True if targets start with their own last label instead of a start id, as in mBART (its language code)."""
    if isinstance(config, EncoderDecoderConfig):
        return False
    whole = family(config.model_type).whole
    return whole is not None and whole.start == "last_label"


def require_start(config: PretrainedConfig) -> int:
    """Return the start id.

    Raises:
        ConfigError: it is unknown; with the line to write.
    """
    start = special_tokens(config).start
    if start is None:
        raise ConfigError(
            "The first decoder input is not known: decoder_start_token_id is not set.",
            hint="model.config.decoder_start_token_id = tokenizer.cls_token_id  # or bos_token_id; target's\n"
            'Without Python: write "decoder_start_token_id" into the model\'s config.json.',
        )
    return start


def require_pad(config: PretrainedConfig) -> int:
    """Return the pad id.

    Raises:
        ConfigError: it is unknown; with the line to write.
    """
    pad = special_tokens(config).pad
    if pad is None:
        raise ConfigError(
            "Targets cannot be padded: pad_token_id is not set.",
            hint="model.config.pad_token_id = tokenizer.pad_token_id  # of the target tokenizer\n"
            'Without Python: write "pad_token_id" into the model\'s config.json.',
        )
    return pad


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)
