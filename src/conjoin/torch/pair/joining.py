"""Joining two halves into one model: from folders, hub ids, or modules already in memory."""

from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conjoin import spec
from conjoin.checkpoint import Framework, open_checkpoint, resolve, take_framework
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConfigError, JoinError
from conjoin.families import HUB_KEYWORDS, PretrainedConfig, Role
from conjoin.join import (
    Given,
    JoinReport,
    may_be_fresh,
    pair_spec,
    plan_join,
    untied_head,
)
from conjoin.pretrained import (
    find_config,
    joining_offer,
    take_words_of_half,
    untie_head,
)
from conjoin.torch.pair.halves import Decoder, Encoder
from conjoin.torch.pair.loading import tie


@dataclass(frozen=True, slots=True)
class Source:
    """One half to join: a folder with a checkpoint, or a live module.

    Args:
        framework: Read the weights that this framework wrote.
    """

    role: Role
    config: PretrainedConfig
    folder: Path | None = None
    framework: Framework | None = None
    module: nn.Module | None = None


def find_source(role: Role, name_or_path: str | PathLike[str] | None, keywords: dict[str, Any]) -> Source:
    """Find one half.

    Args:
        keywords: `model` (a live half), `config`, hub keywords, from_tf and its like, and config values that override.

    Raises:
        JoinError: neither a name nor a model is given, or both, or the folder holds a pair.
    """
    module, config, framework = keywords.pop("model", None), keywords.pop("config", None), take_framework(keywords)
    take_words_of_half(role, keywords)
    hub = {key: keywords.pop(key) for key in HUB_KEYWORDS if key in keywords}
    if (module is None) == (name_or_path is None):
        raise JoinError(
            f"The {role}: {'both a name and' if module is not None else 'neither a name nor'} a model is given.",
            hint=f"give the first arguments as folders or hub ids, or {role}_model=...",
        )
    if module is not None:
        expected = Encoder if role == "encoder" else Decoder
        if not isinstance(module, expected):
            raise JoinError(
                f"{role}_model is a {type(module).__name__}; expected conjoin's {expected.__name__}.",
                hint=f"load it with conjoin.torch.{expected.__name__}.from_pretrained(...), or give its folder.",
            )
        return Source(role, module.config.copy(**keywords), module=module)
    assert name_or_path is not None
    folder = resolve(name_or_path, framework=framework, **hub)
    found = find_config(folder, config, keywords, prefix=f"{role}_")
    if isinstance(found, EncoderDecoderConfig):
        raise JoinError(
            f"The {role}: {folder} holds a joined pair, not one half.",
            hint="EncoderDecoderModel.from_pretrained loads it; model.encoder.save_pretrained writes one half of it.",
        )
    return Source(role, found, folder=folder, framework=framework)


def plan_sources(
    sources: tuple[Source, Source], values: dict[str, Any], files: ExitStack
) -> tuple[EncoderDecoderConfig, spec.PairSpec, JoinReport]:
    """The pair's config and spec, and where every parameter comes from. Checkpoints stay open in `files`."""
    encoder, decoder = sources
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config, **values)
    pair = pair_spec(config)
    offers = [
        joining_offer(
            source.config,
            source.role,
            files.enter_context(open_checkpoint(source.folder, framework=source.framework)),
        )
        for source in sources
        if source.folder is not None
    ]
    if untied_head(pair, offers):
        pair = untie_head(config, pair)
    given = {
        f"{source.role}.{name}"
        for source in sources
        if source.module is not None
        for name, _ in source.module.named_parameters(remove_duplicate=False)
    }
    plan = plan_join(pair, offers, init=config.cross_attention_init, fresh_allowed=may_be_fresh, given=given)
    return config, pair, plan


def adopt_modules(model: nn.Module, sources: tuple[Source, Source], plan: JoinReport) -> None:
    """Put the parameters of live halves into the model, as they are.

    Raises:
        ConfigError: a parameter's shape is not what the pair's config says.
    """
    for source in sources:
        if source.module is None:
            continue
        for name, parameter in source.module.named_parameters(remove_duplicate=False):
            full = f"{source.role}.{name}"
            if not isinstance(plan.origins.get(full), Given):
                continue
            expected = plan.parameters[full].shape
            if tuple(parameter.shape) != expected:
                raise ConfigError(
                    f"{full}: the {source.role} has shape {tuple(parameter.shape)}, the config says {expected}."
                )
            tie(model, full, parameter)


def materialise_rest(model: nn.Module, dtype: torch.dtype, device: torch.device | str) -> None:
    """Give storage to what still lies on the meta device."""
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if parameter.is_meta:
            empty = torch.empty(parameter.shape, dtype=dtype, device=device)
            tie(model, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
