"""Multimodal checkpoints whose text part is of a family that is there: their text part is what is read.

Their config.json holds the text part's under `text_config`, and their files put `language_model.` before its names
(`record.py`); the tensors of other parts are left unused. What is saved is the text model.
"""

from collections.abc import Mapping
from typing import Any, cast

from conjoin.errors import ConfigError, shown

WRAPPERS = {"gemma3": "gemma3_text", "mistral3": "mistral"}
"""model_type -> the text part's, where `text_config` does not say it."""

_OF_ALL = ("pad_token_id", "bos_token_id", "eos_token_id", "dtype", "torch_dtype")
"""Keys of the whole that hold for its text part, unless that has its own."""
_WINS = ("tie_word_embeddings",)
"""Keys of the whole that hold for its text part even then: transformers 5 asks the whole."""


def text_part(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a config.json says of the text part; any other config.json as it is.

    Raises:
        ConfigError: `text_config` is no object.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in WRAPPERS:
        return values
    text: Any = values.get("text_config")
    if not isinstance(text, Mapping):
        raise ConfigError(f"{kind}: config.json has text_config = {shown(text)}; expected an object.")
    of_all = {key: values[key] for key in _OF_ALL if values.get(key) is not None}
    own = {
        key: value for key, value in cast("Mapping[str, Any]", text).items() if value is not None or key not in of_all
    }
    return {"model_type": WRAPPERS[kind], **of_all, **own, **{key: values[key] for key in _WINS if key in values}}
