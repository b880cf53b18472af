"""Adapters that were saved beside the weights of a model."""

from pathlib import Path

from conjoin.errors import ConfigError

ADAPTER_CONFIG = "adapter_config.json"
"""peft's name of the settings of an adapter."""


def has_adapter(folder: Path) -> bool:
    """True if a model's folder holds an adapter beside its weights (`conjoin train --lora --no-lora-merge`)."""
    return (folder / ADAPTER_CONFIG).is_file() and (folder / "config.json").is_file()


def refuse_adapter(folder: Path) -> None:
    """Refuse a model with an adapter, where weights are read without PyTorch, which merges adapters into them.

    Raises:
        ConfigError: its folder holds one.
    """
    if has_adapter(folder):
        raise ConfigError(
            f"{folder} holds an adapter ({ADAPTER_CONFIG}) that is to be merged into the weights, which needs PyTorch.",
            hint="EncoderDecoderModel.from_pretrained(folder).save_pretrained(another) writes the merged model.",
        )
