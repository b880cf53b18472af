"""Generation settings, kept beside a model's config and saved with it."""

import warnings
from pathlib import Path
from typing import Any

from conjoin.checkpoint import Staging, write_json
from conjoin.errors import ConjoinWarning
from conjoin.families import PretrainedConfig
from conjoin.generation import GenerationConfig

FILE = "generation_config.json"
IDS = ("decoder_start_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
"""Kept in the model's config alone, so that loss and generate cannot disagree."""


class WithGenerationConfig:
    """A model with generation settings."""

    config: PretrainedConfig
    _generation_config: GenerationConfig

    @property
    def generation_config(self) -> GenerationConfig:
        """Defaults of `generate`. Special ids are not in it: they live in `config`."""
        return self._generation_config

    @generation_config.setter
    def generation_config(self, given: Any) -> None:
        self._generation_config = GenerationConfig.of(given)

    def take_generation_config(self, folder: Path | None, given: Any | None = None) -> None:
        """Read generation_config.json, or what older files keep in config.json; move the special ids into `config`.

        Args:
            given: In place of what the folder says.
        """
        if given is not None:
            found = GenerationConfig.of(given).copy()
        elif folder is not None and (folder / FILE).exists():
            found = GenerationConfig.from_pretrained(folder)
        else:
            found = GenerationConfig.from_model_config(self.config)
        for name in IDS:
            said, known = getattr(found, name, None), getattr(self.config, name)
            if (said is not None and known is None) or (name == "eos_token_id" and said is not None):
                setattr(self.config, name, said)
            elif said is not None and said != known:
                warnings.warn(
                    f"{name} is {known} in config.json and {said} in {FILE}: both training and generate use the first.",
                    ConjoinWarning,
                    stacklevel=4,
                )
            setattr(found, name, None)
        self.generation_config = found

    def save_generation_config(self, staging: Staging) -> None:
        """Write generation_config.json, with the special ids, for transformers to find."""
        values = self.generation_config.to_dict()
        values |= {name: getattr(self.config, name) for name in IDS if getattr(self.config, name) is not None}
        written = GenerationConfig.from_dict(values)
        write_json(staging.path(FILE), written.to_diff_dict())
