"""The two halves of a new model: folders, hub ids, or models already in memory."""

from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from conjoin import spec
from conjoin.checkpoint import Framework, open_checkpoint, resolve, take_framework
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import JoinError
from conjoin.families import HUB_KEYWORDS, PretrainedConfig, Role
from conjoin.join import JoinReport, may_be_fresh, pair_spec, plan_join, untied_head
from conjoin.pretrained.keywords import find_config, take_words_of_half
from conjoin.pretrained.plans import joining_offer, untie_head


@dataclass(frozen=True, slots=True)
class Source:
    """One half to join: a folder with a checkpoint, or a joined model whose half is taken.

    Args:
        framework: Whose weights are read, where a folder has several.
    """

    role: Role
    config: PretrainedConfig
    folder: Path | None = None
    framework: Framework | None = None
    model: Any = None

    def arrays(self) -> dict[str, Any]:
        """The parameters of a half in memory."""
        if self.model is None:
            return {}
        return {name: x for name, x in self.model.all_params().items() if name.startswith(f"{self.role}.")}


def find_source(
    kind: type[Any], role: Role, name_or_path: str | PathLike[str] | None, keywords: dict[str, Any]
) -> Source:
    """Find one half.

    Args:
        kind: The backend's class of joined models.
        keywords: `model` (a joined model whose half is taken), `config`, hub keywords, and config values that override.

    Raises:
        JoinError: neither a name nor a model is given, or both, or the folder holds a pair.
    """
    model, config = keywords.pop("model", None), keywords.pop("config", None)
    take_words_of_half(role, keywords)
    framework = take_framework(keywords)
    hub = {key: keywords.pop(key) for key in HUB_KEYWORDS if key in keywords}
    if (model is None) == (name_or_path is None):
        raise JoinError(
            f"The {role}: {'both a name and' if model is not None else 'neither a name nor'} a model is given.",
            hint=f"give the first arguments as folders or hub ids, or {role}_model=...",
        )
    if model is not None:
        if not isinstance(model, kind):
            raise JoinError(
                f"{role}_model is a {type(model).__name__}; expected a {kind.__name__}, whose {role} is taken.",
                hint="give the folder or hub id of the checkpoint instead.",
            )
        held = model.config.encoder if role == "encoder" else model.config.decoder
        return Source(role, held.copy(**keywords), model=model)
    assert name_or_path is not None
    folder = resolve(name_or_path, **hub)
    found = find_config(folder, config, keywords, prefix=f"{role}_")
    if isinstance(found, EncoderDecoderConfig):
        raise JoinError(
            f"The {role}: {folder} holds a joined pair, not one half.",
            hint=f"{kind.__name__}.from_pretrained loads it; {role}_model= then takes its half.",
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
        joining_offer(source.config, source.role, checkpoint)
        for source in sources
        if source.folder is not None
        for checkpoint in [files.enter_context(open_checkpoint(source.folder, framework=source.framework))]
    ]
    if untied_head(pair, offers):
        pair = untie_head(config, pair)
    given = {name for source in sources for name in source.arrays()}
    plan = plan_join(pair, offers, init=config.cross_attention_init, fresh_allowed=may_be_fresh, given=given)
    return config, pair, plan
