"""Keyword arguments of transformers' loading and saving: supported, refused, or ignored with a warning."""

from typing import Any, cast

import torch

from conjoin.errors import ConfigError, near
from conjoin.pretrained import reject_loading_kwargs
from conjoin.torch.pair.loading import to_dtype


def pop_dtype(dtype: torch.dtype | str | None, keywords: dict[str, Any]) -> torch.dtype | None:
    """Return the requested dtype, None for the default, and remove from `keywords` all but config values.

    Raises:
        ConfigError: there is no such dtype, or a keyword argument requests something unsupported.
    """
    reject_loading_kwargs(keywords)
    torch_dtype = keywords.pop("torch_dtype", None)
    dtype = torch_dtype if dtype is None else dtype
    return None if dtype is None or dtype == "auto" else to_dtype(dtype)


def pop_device(device: torch.device | str | None, keywords: dict[str, Any]) -> torch.device | str | None:
    """Return the device requested by `device`, or by a `device_map` with a single device; None for the default.

    Raises:
        ConfigError: the device_map has several devices.
    """
    device_map: Any = keywords.pop("device_map", None)
    places = cast("dict[str, Any]", device_map) if isinstance(device_map, dict) else {}
    single = places.get("") if len(places) == 1 else cast(Any, device_map)
    if single is None and device_map is None:
        return device
    if isinstance(single, int) or (isinstance(single, str | torch.device) and single not in _SPREADING):
        return device or torch.device(single)
    raise ConfigError(
        f"device_map = {device_map!r}: a model is on one device.",
        hint='device="cuda"; several devices share one through conjoin.training (FSDP).',
    )


_SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")


def reject_saving_kwargs(keywords: dict[str, Any]) -> None:
    """Refuse keyword arguments that make transformers save in another way; `save_function` is ignored.

    Raises:
        ConfigError: a keyword argument requests something unsupported.
        TypeError: there is no such keyword argument.
    """
    defaults = {"save_function": None, "safe_serialization": True, "push_to_hub": False, "variant": None, "token": None}
    hints = {
        "safe_serialization": "weights are written as safetensors; `conjoin convert` writes other frameworks' files.",
        "push_to_hub": "model.push_to_hub(repo_id)",
    }
    unknown = [name for name in keywords if name not in defaults]
    if unknown:
        suggestions = [
            near(name, {*defaults, "is_main_process", "state_dict", "max_shard_size", "untied"}) for name in unknown
        ]
        hint = "".join(f" Did you mean {name}?" for name in suggestions if name)
        raise TypeError(f"save_pretrained() got unexpected keyword arguments: {', '.join(unknown)}.{hint}")
    for name, value in keywords.items():
        if name not in ("save_function", "token") and value != defaults[name]:
            raise ConfigError(f"save_pretrained({name}={value!r}): not built here.", hint=hints.get(name))
