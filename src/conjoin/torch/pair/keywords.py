"""Keyword arguments of transformers' loading and saving: honoured, refused, or ignored with a warning."""

from typing import Any

import torch

from conjoin.errors import ConfigError, near
from conjoin.pretrained import reject_loading_kwargs
from conjoin.torch.pair.loading import to_dtype


def take_dtype(dtype: torch.dtype | str | None, keywords: dict[str, Any]) -> torch.dtype | None:
    """The dtype that is asked for, None for the default; takes what is no config value out of `keywords`.

    Raises:
        ConfigError: no such dtype, or a keyword asks for what is not built here.
    """
    reject_loading_kwargs(keywords)
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


def reject_saving_kwargs(keywords: dict[str, Any]) -> None:
    """Refuse what tells transformers to save in another way; `save_function` changes nothing that is written.

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
