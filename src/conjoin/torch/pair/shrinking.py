"""Checks before a vocabulary shrinks: are ids that the model uses, or tokens of its tokenizer, left without a row?"""

import logging
from collections.abc import Mapping
from typing import Any, cast

from conjoin.errors import ConfigError, ConjoinError, listing, warn
from conjoin.families import Role
from conjoin.join import special_tokens

_SOURCE_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")
_TARGET_IDS = (
    *("decoder_start_token_id", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id"),
)


def require_ids_kept(model: Any, sizes: Mapping[Role, int]) -> None:
    """Check that ids in use keep their rows, and warn of tokens that lose theirs.

    Args:
        model: An EncoderDecoderModel.

    Raises:
        ConfigError: a new size leaves out an id that starts, ends, pads or must be in a target, or that the config
            names for sources.

    Warns:
        ConjoinWarning: the model's tokenizer has more tokens than the new size.
    """
    old_sizes: dict[Role, int] = {"encoder": model.spec.encoder.vocab_size, "decoder": model.spec.decoder.vocab_size}
    smaller: dict[Role, int] = {role: size for role, size in sizes.items() if size < old_sizes[role]}
    lost = [
        f"{role} = {size}: {name} = {index} would have no row"
        for role, size in smaller.items()
        for name, index in _ids_in_use(model, role).items()
        if size <= index < old_sizes[role]
    ]
    if lost:
        raise ConfigError(
            f"resize_token_embeddings leaves out ids that the model uses:\n{listing(lost)}",
            hint="give these ids another value first, or a larger size: model.resize_token_embeddings(...)",
        )
    for role, size in smaller.items():
        _warn_of_tokens(model, role, size, old_sizes[role])


def _ids_in_use(model: Any, role: Role) -> dict[str, int]:
    """Return the largest id of every setting that names ids, without repeating an id."""
    if role == "encoder":
        config = getattr(model.config, "encoder", model.config)
        settings = {f"config.{name}": getattr(config, name, None) for name in _SOURCE_IDS}
    else:
        special = special_tokens(model.config)
        settings: dict[str, Any] = {"decoder_start_token_id": special.start, "pad_token_id": special.pad}
        settings |= {"bos_token_id": special.bos, "eos_token_id": list(special.eos)}
        settings |= {f"generation_config.{name}": getattr(model.generation_config, name) for name in _TARGET_IDS}
    largest: dict[str, int] = {}
    for name, value in settings.items():
        values = cast("list[Any]", value) if isinstance(value, list | tuple) else [value]
        ids = [each for each in values if isinstance(each, int)]
        largest |= {name: max(ids)} if ids and max(ids) not in largest.values() else {}
    return largest


def _warn_of_tokens(model: Any, role: Role, size: int, old: int) -> None:
    logging.getLogger(__name__).warning("%s: the rows of ids %d to %d are dropped.", role, size, old - 1)
    tokens = _tokens(model, role)
    if tokens is not None and tokens > size:
        warn(f"{role} = {size}, but its tokenizer has {tokens} tokens: texts with the last ones cannot be read.")


def _tokens(model: Any, role: Role) -> int | None:
    """Return the size of the model's tokenizer; None if it has none, or one that cannot be loaded."""
    try:
        tokenizer = model.tokenizer
    except ConjoinError:
        return None
    side = getattr(tokenizer, "source" if role == "encoder" else "target", tokenizer)
    return len(side)
