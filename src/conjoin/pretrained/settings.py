"""Generation settings in two files: config.json, where older checkpoints have them, and generation_config.json."""

from typing import Any, cast

from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import listing, shown, warn
from conjoin.families import PretrainedConfig, family, is_id
from conjoin.generation import DEFAULTS, GENERATION_WORDS, GenerationConfig

FILE = "generation_config.json"
_NEUTRAL = {"max_length": 20, **DEFAULTS}
"""What a half's config.json of transformers 4 holds although nobody chose it."""


def without_generation_settings(config: PretrainedConfig) -> PretrainedConfig:
    """A copy of a model's config for its config.json: settings of `generate` stand in generation_config.json alone."""
    plain = config.to_dict()
    for values in (plain, plain.get("encoder"), plain.get("decoder")):
        if isinstance(values, dict):
            fields = cast("dict[str, Any]", values)
            for name in GENERATION_WORDS & fields.keys():
                del fields[name]
    return type(config).from_dict(plain)


def are_ids(value: Any) -> bool:
    """True for an id, a list of ids, or none."""
    value = value.tolist() if hasattr(value, "tolist") else value
    ids = cast("list[Any]", value) if isinstance(value, list | tuple) else [] if value is None else [value]
    return all(map(is_id, ids))


def warn_of_disagreement(config: PretrainedConfig, older: GenerationConfig, settings: GenerationConfig) -> None:
    """Warn where config.json and generation_config.json disagree.

    A decoder's part of config.json is heard only where the other file speaks too: transformers fills it with what its
    class has by default (BART's forced_eos_token_id), and that is nobody's choice.
    """
    decoder = config.decoder if isinstance(config, EncoderDecoderConfig) else config
    by_class = family(decoder.model_type).generation
    own, said = vars(config), GenerationConfig.from_dict(older.set_values()).set_values()
    apart: list[str] = []
    for name in GENERATION_WORDS & said.keys():
        value, other = said[name], vars(settings)[name]
        heard = name in own or (other is not None and value not in (_NEUTRAL.get(name), by_class.get(name)))
        if heard and value != (_NEUTRAL.get(name) if other is None else other):
            apart.append(
                f"{name}: {shown(value)} in config.json, {'nothing' if other is None else shown(other)} in {FILE}"
            )
    if apart:
        warn(
            f"Two files say how to generate, and disagree:\n{listing(sorted(apart))}\n{FILE} is followed; remove these "
            "from config.json, or save the model anew, which does that."
        )
