"""Generation settings, kept beside a model's config and saved with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from conjoin.checkpoint import Staging, write_json
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConfigError, listing, shown, warn
from conjoin.families import PretrainedConfig, is_id
from conjoin.generation import DEFAULTS, GENERATION_WORDS, IDS, GenerationConfig

FILE = "generation_config.json"
_NEUTRAL = {"max_length": 20, **DEFAULTS}
"""What a half's config.json of transformers 4 holds although nobody chose it."""


class WithGenerationConfig:
    """A model with generation settings. What is written to its config by their names goes to them."""

    _own_config: PretrainedConfig
    _generation_config: GenerationConfig | None = None

    @property
    def config(self) -> PretrainedConfig:
        """What the model is; its settings of `generate` are those of `generation_config`."""
        return self._own_config

    @config.setter
    def config(self, config: PretrainedConfig) -> None:
        self._own_config = config
        if self._generation_config is not None:
            for name, value in self._bind(self._generation_config).items():
                setattr(self._generation_config, name, value)

    @property
    def generation_config(self) -> GenerationConfig:
        """Defaults of `generate`. Special ids that it does not hold itself are those of `config`."""
        if self._generation_config is None:
            raise AttributeError("generation_config")  # keras asks before it sets
        return self._generation_config

    @generation_config.setter
    def generation_config(self, given: Any) -> None:
        settings = GenerationConfig.of(given)
        self._bind(settings)

    def _bind(self, settings: GenerationConfig) -> dict[str, Any]:
        """Make these the settings that the config speaks to; returns those that the config held."""
        old, new = self._generation_config, settings.belong_to(self.config)
        self._generation_config = new
        found: dict[str, Any] = {}
        if isinstance(self.config, EncoderDecoderConfig):
            self.config.encoder.bind_generation(GENERATION_WORDS, new, writes=False, instead_of=old)
            found = self.config.decoder.bind_generation(GENERATION_WORDS, new, instead_of=old)
        return found | self.config.bind_generation(GENERATION_WORDS, new, instead_of=old)

    def take_generation_config(
        self, folder: Path | None, given: Any | None = None, words: Mapping[str, Any] | None = None
    ) -> None:
        """Read generation_config.json, or what older files keep in config.json; move the special ids into `config`.

        Args:
            given: In place of what the folder says.
            words: Settings by name that win over all of it.

        Raises:
            ConfigError: a special id is no id.
        """
        older = GenerationConfig.from_model_config(self.config)
        if given is not None:
            found = GenerationConfig.of(given).copy()
        elif folder is not None and (folder / FILE).exists():
            found = GenerationConfig.from_pretrained(folder)
            _warn_of_two_words(self.config, older, found)
        else:
            found = older
        self._move_ids(found)
        self.generation_config = found
        for name, value in (words or {}).items():
            setattr(self.generation_config, name, value)

    def _move_ids(self, found: GenerationConfig) -> None:
        """Let `config` hold the special ids, but those that training and generation are told differently."""
        for name in IDS:
            said, known = vars(found)[name], getattr(self.config, name)
            if not _are_ids(said):
                raise ConfigError(f"{FILE}: {name} = {shown(said)}; expected an id of a token, or null.")
            if said is None or said == known:
                setattr(found, name, None)
            elif known is None or name == "eos_token_id":
                setattr(self.config, name, said)
                setattr(found, name, None)
            else:
                warn(
                    f"{name} is {known} in config.json and {said} in {FILE}: training uses the first, generate the "
                    f"second. If that is not meant, set model.generation_config.{name} = None."
                )

    def save_generation_config(self, staging: Staging) -> None:
        """Write generation_config.json, with the special ids, for transformers to find."""
        values = self.generation_config.to_dict()
        values.pop("_from_model_config", None)  # config.json does not hold them any more
        values |= {name: value for name in IDS if (value := getattr(self.generation_config, name)) is not None}
        written = GenerationConfig.from_dict(values)
        write_json(staging.path(FILE), written.to_diff_dict())


def without_generation_words(config: PretrainedConfig) -> PretrainedConfig:
    """A copy of a model's config for its config.json: settings of `generate` stand in generation_config.json alone."""
    plain = config.to_dict()
    for values in (plain, plain.get("encoder"), plain.get("decoder")):
        if isinstance(values, dict):
            fields = cast("dict[str, Any]", values)
            for name in GENERATION_WORDS & fields.keys():
                del fields[name]
    return type(config).from_dict(plain)


def _are_ids(value: Any) -> bool:
    """Whether it is an id, a list of ids, or none."""
    value = value.tolist() if hasattr(value, "tolist") else value
    ids = cast("list[Any]", value) if isinstance(value, list | tuple) else [] if value is None else [value]
    return all(map(is_id, ids))


def _warn_of_two_words(config: PretrainedConfig, older: GenerationConfig, found: GenerationConfig) -> None:
    """Tell where config.json and generation_config.json disagree.

    A decoder's part of config.json is heard only where the other file speaks too: transformers fills it with what its
    class has by default (BART's forced_eos_token_id).
    """
    own, said = vars(config), GenerationConfig.from_dict(older.set_values()).set_values()
    apart: list[str] = []
    for name in GENERATION_WORDS & said.keys():
        value, other = said[name], vars(found)[name]
        heard = name in own or (other is not None and value != _NEUTRAL.get(name))
        if heard and value != (_NEUTRAL.get(name) if other is None else other):
            apart.append(
                f"{name}: {shown(value)} in config.json, {'nothing' if other is None else shown(other)} in {FILE}"
            )
    if apart:
        warn(
            f"Two files say how to generate, and disagree:\n{listing(sorted(apart))}\n{FILE} is followed; remove these "
            "from config.json, or save the model anew, which does that."
        )
