"""The sources of a model on every backend: two halves that are joined, or one checkpoint that is loaded."""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from conjoin import spec
from conjoin.checkpoint import FROM_KEYWORDS, Checkpoint, Framework, open_checkpoint, pop_framework, resolve
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import JoinError
from conjoin.families import HUB_KEYWORDS, KeptLayers, Layers, PretrainedConfig, Role, keep_layers
from conjoin.join import (
    JoinReport,
    TwoFolders,
    fill_special_tokens,
    joining_offer,
    loosen_sharing,
    may_be_fresh,
    never_fresh,
    pair_offer,
    pair_spec,
    parameters_of_kept,
    plan_join,
    plan_random,
    require_plain_weights,
    require_same_layers,
    sources_of_kept,
    target_tokenizer,
    untie_head,
    untied_head,
    with_record,
)
from conjoin.pretrained.keywords import find_config, pop_generation_kwargs, pop_half_kwargs, refuse_misspelt, route

Name = str | PathLike[str] | None


@dataclass(frozen=True, slots=True)
class Source:
    """One half to join: a folder with a checkpoint, or a model in memory.

    Args:
        config: Of the half as it joins.
        framework: Load the weights that this framework wrote, if the folder has several.
        parameters: Those of a half in memory, by canonical name ("decoder.blocks.0...").
        kept: Layers of the checkpoint that join; None for all.
    """

    role: Role
    config: PretrainedConfig
    folder: Path | None = None
    framework: Framework | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    kept: KeptLayers | None = None


Sources = tuple[Source, Source]
ReadHalf = Callable[[Role, Any], tuple[PretrainedConfig, Mapping[str, Any]]]
"""Return config and parameters of a half in memory; raise JoinError if the model belongs to another backend."""


def find_sources(
    encoder: Name,
    decoder: Name,
    kwargs: dict[str, Any],
    read_half: ReadHalf,
    *,
    encoder_layers: Layers | None = None,
    decoder_layers: Layers | None = None,
) -> Sources:
    """Find both halves of a join. Only values of the pair's own config stay in `kwargs`.

    Args:
        encoder_layers, decoder_layers: Layers of that half's checkpoint that join; None for all.

    Raises:
        JoinError: a half has neither a name nor a model, or both, or its folder holds a pair.
        ConfigError: a keyword argument is misspelt or not supported, or there are no such layers.
    """
    for_both = {*HUB_KEYWORDS, *FROM_KEYWORDS} - {"subfolder"}
    shared = {key: kwargs.pop(key) for key in for_both if key in kwargs}
    encoder_kwargs, decoder_kwargs, values = route(kwargs)
    refuse_misspelt(values)
    kwargs.clear()
    kwargs |= values
    return (
        _with_layers(_find_source("encoder", encoder, shared | encoder_kwargs, read_half), encoder_layers),
        _with_layers(_find_source("decoder", decoder, shared | decoder_kwargs, read_half), decoder_layers),
    )


def _with_layers(source: Source, layers: Layers | None) -> Source:
    """Return a source of which only some layers join."""
    if layers is None:
        return source
    kept = keep_layers(source.config, source.role, layers)
    parameters = parameters_of_kept(source.parameters, kept.blocks)
    return replace(source, config=kept.config, kept=kept, parameters=parameters)


def _find_source(role: Role, name_or_path: Name, kwargs: dict[str, Any], read_half: ReadHalf) -> Source:
    model, config, framework = kwargs.pop("model", None), kwargs.pop("config", None), pop_framework(kwargs)
    pop_half_kwargs(role, kwargs)
    hub = {key: kwargs.pop(key) for key in HUB_KEYWORDS if key in kwargs}
    if (model is None) == (name_or_path is None):
        raise JoinError(
            f"The {role}: {'both a name and' if model is not None else 'neither a name nor'} a model is given.",
            hint=f"give the first arguments as folders or hub ids, or {role}_model=...",
        )
    if name_or_path is None:
        config, parameters = read_half(role, model)
        return Source(role, config.copy(**kwargs), parameters=parameters)
    folder = resolve(name_or_path, framework=framework, **hub)
    config = find_config(folder, config, kwargs, prefix=f"{role}_")
    if isinstance(config, EncoderDecoderConfig):
        raise JoinError(
            f"The {role}: {folder} holds a joined pair, not one half.",
            hint=f"load it with from_pretrained; {role}_model= then takes its {role}.",
        )
    require_plain_weights(folder, config, "joining")
    return Source(role, config, folder=folder, framework=framework)


@contextmanager
def open_join(
    sources: Sources, values: dict[str, Any]
) -> Generator[tuple[EncoderDecoderConfig, spec.PairSpec, JoinReport]]:
    """Yield the pair's config, its spec and the origin of every parameter, while the checkpoints are open."""
    encoder, decoder = sources
    require_same_layers(values.get("share", "none"), [(each.config, each.role, each.kept) for each in sources])
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config, **values)
    kept: dict[Role, KeptLayers] = {source.role: source.kept for source in sources if source.kept is not None}
    if kept and config.cross_attention_init == "layerwise" and config.source_layers is None:
        config.source_layers = sources_of_kept(config, None, kept)
    pair = pair_spec(config)
    with ExitStack() as files:
        offers = [
            joining_offer(
                source.config if source.kept is None else source.kept.before,
                source.role,
                files.enter_context(open_checkpoint(source.folder, framework=source.framework)),
                source.kept.blocks if source.kept else None,
            )
            for source in sources
            if source.folder is not None
        ]
        if untied_head(pair, offers):
            pair = untie_head(config, pair)
        in_memory = {*encoder.parameters, *decoder.parameters}
        plan = plan_join(pair, offers, init=config.cross_attention_init, fresh_allowed=may_be_fresh, given=in_memory)
        fill_special_tokens(config, target_tokenizer(decoder.folder))
        yield config, pair, plan


def tokenizer_folders(sources: Sources) -> TwoFolders:
    """Return the folders from which a joined model gets its tokenizers."""
    return TwoFolders(sources[0].folder, sources[1].folder)


@dataclass(frozen=True, slots=True)
class Saved:
    """A saved model and the settings with which it is loaded.

    Args:
        framework: Load the weights that this framework wrote, if the folder has several.
        settings: Generation settings by name, which take precedence over the folder's.
    """

    folder: Path
    config: PretrainedConfig
    framework: Framework | None
    settings: dict[str, Any]


def find_saved(name_or_path: str | PathLike[str], config: PretrainedConfig | None, kwargs: dict[str, Any]) -> Saved:
    """Find a model that from_pretrained loads.

    Args:
        kwargs: Hub keyword arguments, from_tf (or from_flax, from_pt), generation settings, and values that override
            those of the config.

    Raises:
        ConfigError, FileError: unreadable or unknown config, no such folder or hub id.
    """
    hub = {key: kwargs.pop(key) for key in HUB_KEYWORDS if key in kwargs}
    framework, settings = pop_framework(kwargs), pop_generation_kwargs(kwargs)
    folder = resolve(name_or_path, framework=framework, **hub)
    return Saved(folder, find_config(folder, config, kwargs), framework, settings)


@contextmanager
def open_saved(saved: Saved) -> Generator[tuple[spec.PairSpec, JoinReport, Checkpoint]]:
    """Yield the spec of a saved model, the origin of every parameter and the checkpoint, while that is open.

    Raises:
        WeightError: missing or misshapen tensors, all of them in one error.
    """
    config = saved.config
    pair = pair_spec(config)
    with open_checkpoint(saved.folder, framework=saved.framework) as checkpoint:
        offer = pair_offer(config, pair, checkpoint)
        if untied_head(pair, [offer]):
            pair = untie_head(config, pair)
        pair = loosen_sharing(config, pair, offer)
        plan = with_record(plan_join(pair, [offer], init="normal", fresh_allowed=never_fresh), config)
        yield pair, plan, checkpoint


def random_plan(config: PretrainedConfig) -> tuple[spec.PairSpec, JoinReport]:
    """Return the spec of the pair that a config describes, and a plan that draws every parameter."""
    fill_special_tokens(config, None)
    pair = pair_spec(config)
    init = config.cross_attention_init if isinstance(config, EncoderDecoderConfig) else "normal"
    return pair, plan_random(pair, init)
