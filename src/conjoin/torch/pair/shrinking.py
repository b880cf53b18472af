"""What a smaller vocabulary would lose: ids that the model itself uses, words of its tokenizer, rows."""

import logging
from collections.abc import Mapping
from typing import Any

from conjoin.errors import ConfigError, ConjoinError, listing, warn
from conjoin.families import Role
from conjoin.join import special_tokens

_OF_A_SOURCE = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")
_FORCED = ("decoder_start_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
_FORCED += ("forced_bos_token_id", "forced_eos_token_id")


def require_ids_kept(model: Any, sizes: Mapping[Role, int]) -> None:
    """Look at what the new sizes leave out.

    Args:
        model: An EncoderDecoderModel.

    Raises:
        ConfigError: an id that starts, ends, pads or must stand in a target, or that a source's config names.

    Warns:
        ConjoinWarning: the model's tokenizer has more tokens than that.
    """
    olds: dict[Role, int] = {"encoder": model.spec.encoder.vocab_size, "decoder": model.spec.decoder.vocab_size}
    smaller: dict[Role, int] = {role: size for role, size in sizes.items() if size < olds[role]}
    lost = [
        f"{role} = {size}: {name} = {index} would have no row"
        for role, size in smaller.items()
        for name, index in _ids_in_use(model, role).items()
        if size <= index < olds[role]
    ]
    if lost:
        raise ConfigError(
            f"resize_token_embeddings leaves out ids that the model uses:\n{listing(lost)}",
            hint="give these ids another value first, or a larger size: model.resize_token_embeddings(...)",
        )
    for role, size in smaller.items():
        _tell(model, role, size, olds[role])


def _ids_in_use(model: Any, role: Role) -> dict[str, int]:
    if role == "encoder":
        config = getattr(model.config, "encoder", model.config)
        said = {f"config.{name}": getattr(config, name, None) for name in _OF_A_SOURCE}
    else:
        known, settings = special_tokens(model.config), model.generation_config
        said = {"decoder_start_token_id": known.start, "pad_token_id": known.pad, "bos_token_id": known.bos}
        said |= {"eos_token_id": list(known.eos)}
        said |= {f"generation_config.{name}": getattr(settings, name) for name in _FORCED}
    found: dict[str, int] = {}
    for name, value in said.items():
        ids = [each for each in (value if isinstance(value, list | tuple) else [value]) if isinstance(each, int)]
        found |= {name: max(ids)} if ids and max(ids) not in found.values() else {}
    return found


def _tell(model: Any, role: Role, size: int, old: int) -> None:
    logging.getLogger(__name__).warning("%s: the rows of ids %d to %d are dropped.", role, size, old - 1)
    tokens = _tokens(model, role)
    if tokens is not None and tokens > size:
        warn(f"{role} = {size}, but its tokenizer has {tokens} tokens: texts with the last ones cannot be read.")


def _tokens(model: Any, role: Role) -> int | None:
    """The size of the tokenizer that travels with the model; None where there is none, or none that can be used."""
    try:
        found = model.tokenizer
    except ConjoinError:
        return None
    side = getattr(found, "source" if role == "encoder" else "target", found)
    return len(side)
