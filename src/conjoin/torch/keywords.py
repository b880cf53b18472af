"""Keywords of from_pretrained that Hugging Face's users know: taken, refused or told to have no effect."""

import warnings
from typing import Any

import torch

from conjoin.errors import ConfigError, ConjoinWarning
from conjoin.torch.loading import to_dtype

_IDLE = ("attn_implementation", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors")
"""They choose among ways of loading and computing of which there is one here."""


def take_dtype(dtype: torch.dtype | str | None, keywords: dict[str, Any]) -> torch.dtype | None:
    """The dtype that is asked for, None for the default; takes what is no config value out of `keywords`.

    Raises:
        ConfigError: no such dtype, or device_map is given.
    """
    older = keywords.pop("torch_dtype", None)
    dtype = older if dtype is None else dtype
    if "device_map" in keywords:
        raise ConfigError(
            f"device_map = {keywords['device_map']!r}: a model is on one device.",
            hint='device="cuda"; several devices share one through conjoin.training (FSDP).',
        )
    idle = [name for name in _IDLE if keywords.pop(name, None) is not None]
    if idle:
        warnings.warn(f"{', '.join(idle)}: no effect here.", ConjoinWarning, stacklevel=3)
    return None if dtype is None or dtype == "auto" else to_dtype(dtype)
