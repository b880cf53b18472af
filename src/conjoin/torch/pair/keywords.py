"""Keywords of loading and saving that Hugging Face's users know: taken, refused or told to have no effect."""

from dataclasses import dataclass
from typing import Any

import torch

from conjoin.checkpoint import Framework, take_framework
from conjoin.errors import ConfigError, near
from conjoin.families import HUB_KEYWORDS
from conjoin.pretrained import take_generation_words, take_loading_words
from conjoin.torch.pair.loading import to_dtype


@dataclass(frozen=True, slots=True)
class Loading:
    """How from_pretrained shall load, taken out of its keywords.

    Args:
        settings: The generation settings in place of the folder's, and those that win over them by name.
    """

    hub: dict[str, Any]
    framework: Framework | None
    dtype: torch.dtype | None
    device: torch.device | str | None
    settings: tuple[Any, dict[str, Any]]


def take_loading(
    keywords: dict[str, Any], dtype: torch.dtype | str | None, device: torch.device | str | None, settings: Any
) -> Loading:
    """Take out of `keywords` what is no value of the config.

    Raises:
        ConfigError: no such dtype or device, or a keyword asks for what is not built here.
    """
    hub = {key: keywords.pop(key) for key in HUB_KEYWORDS if key in keywords}
    wanted, device = take_dtype(dtype, keywords), take_device(device, keywords)
    return Loading(hub, take_framework(keywords), wanted, device, (settings, take_generation_words(keywords)))


def take_dtype(dtype: torch.dtype | str | None, keywords: dict[str, Any]) -> torch.dtype | None:
    """The dtype that is asked for, None for the default; takes what is no config value out of `keywords`.

    Raises:
        ConfigError: no such dtype, or a keyword asks for what is not built here.
    """
    take_loading_words(keywords)
    older = keywords.pop("torch_dtype", None)
    dtype = older if dtype is None else dtype
    return None if dtype is None or dtype == "auto" else to_dtype(dtype)


def take_device(device: torch.device | str | None, keywords: dict[str, Any]) -> torch.device | str | None:
    """The device that is asked for, None for the default, by `device` or by a `device_map` that names one.

    Raises:
        ConfigError: a device_map of several devices.
    """
    given = keywords.pop("device_map", None)
    named = given.get("") if isinstance(given, dict) and len(given) == 1 else given
    if named is None and given is None:
        return device
    if isinstance(named, int) or (isinstance(named, str | torch.device) and named not in _SPREADING):
        return device or torch.device(named)
    raise ConfigError(
        f"device_map = {given!r}: a model is on one device.",
        hint='device="cuda"; several devices share one through conjoin.training (FSDP).',
    )


_SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")


def refuse_saving_words(keywords: dict[str, Any]) -> None:
    """Look at what tells transformers how to save; all of it but `save_function` changes what is written.

    Raises:
        ConfigError: a keyword asks for what is not built here.
        TypeError: no such keyword.
    """
    neutral = {"save_function": None, "safe_serialization": True, "push_to_hub": False, "variant": None, "token": None}
    hints = {
        "safe_serialization": "weights are written as safetensors; `conjoin convert` writes other frameworks' files.",
        "push_to_hub": "model.push_to_hub(repo_id)",
    }
    unknown = [name for name in keywords if name not in neutral]
    if unknown:
        meant = [
            near(name, {*neutral, "is_main_process", "state_dict", "max_shard_size", "untied"}) for name in unknown
        ]
        hint = "".join(f" Did you mean {other}?" for other in meant if other)
        raise TypeError(f"save_pretrained() got unexpected keyword arguments: {', '.join(unknown)}.{hint}")
    for name, value in keywords.items():
        if name not in ("save_function", "token") and value != neutral[name]:
            raise ConfigError(f"save_pretrained({name}={value!r}): not built here.", hint=hints.get(name))
