"""Keywords of from_pretrained that Hugging Face's users know and that change nothing here, or cannot be honoured."""

import warnings
from typing import Any

from conjoin.errors import ConfigError, ConjoinWarning

_IDLE = ("attn_implementation", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors")
"""They choose among ways of loading and computing of which there is one here."""


def refuse_torch_words(keywords: dict[str, Any]) -> None:
    """Take what is no config value out of `keywords`.

    Raises:
        ConfigError: a keyword asks for what this class does not do.
    """
    idle = [name for name in _IDLE if keywords.pop(name, None) is not None]
    if idle:
        warnings.warn(f"{', '.join(idle)}: no effect here.", ConjoinWarning, stacklevel=3)
    if keywords.pop("ignore_mismatched_sizes", False):
        raise ConfigError("ignore_mismatched_sizes=True: tensors of other shapes are an error here.")
    for name in ("device", "device_map"):
        if name in keywords:
            raise ConfigError(
                f"{name} = {keywords[name]!r}: TensorFlow places variables by itself.",
                hint="with tf.device(...): or, for several devices, with strategy.scope():",
            )
