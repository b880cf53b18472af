"""Models and tokenizers of a pipeline, named or given; and `generate` of any framework's model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Int

from conjoin.configuration import AutoConfig
from conjoin.errors import ConfigError, shown
from conjoin.families import HUB_KEYWORDS
from conjoin.tokenizer import AutoTokenizer

Framework = Literal["pt", "tf", "flax"]

_FRAMEWORKS: dict[str | None, Framework] = {
    **dict.fromkeys(("pt", "torch", "pytorch"), "pt"),
    **dict.fromkeys(("tf", "tensorflow"), "tf"),
    **dict.fromkeys(("flax", "jax"), "flax"),
}
_PACKAGES: dict[str, Framework] = {"conjoin.torch": "pt", "conjoin.tensorflow": "tf", "conjoin.jax": "flax"}
Name = str | PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadArguments:
    """How a model that is named is loaded.

    Args:
        framework: Whose model; PyTorch's by default.
        device: Device of a PyTorch model; -1 is the CPU, a number a GPU. By default a GPU if there is one.
        keywords: Other arguments of `from_pretrained`.
    """

    framework: str | None = None
    config: Any = None
    dtype: Any = None
    device: Any = None
    keywords: Mapping[str, Any]

    @property
    def hub(self) -> dict[str, Any]:
        """The arguments that the hub is asked with."""
        return {name: self.keywords[name] for name in HUB_KEYWORDS if self.keywords.get(name) is not None}


def load_model(name: Name, arguments: LoadArguments) -> Any:
    """Load a model with the class of the framework.

    Raises:
        ConfigError: there is no such framework, or an argument that this one does not take.
        WeightError, FileError: the model cannot be loaded.
    """
    framework = framework_of_name(arguments.framework) or "pt"
    kind = model_class(framework)
    keywords: dict[str, Any] = dict(arguments.keywords)
    config = arguments.config
    if config is not None:
        is_name = isinstance(config, str | PathLike)
        keywords["config"] = AutoConfig.from_pretrained(cast(Name, config), **arguments.hub) if is_name else config
    if arguments.dtype not in (None, "auto"):
        keywords["dtype"] = arguments.dtype
    if framework == "pt":
        if arguments.device is not None or "device_map" not in keywords:
            keywords["device"] = torch_device(arguments.device)
    elif arguments.device is not None:
        keywords["device"] = arguments.device  # refused, with what to do instead
    return kind.from_pretrained(name, **keywords)


def model_class(framework: Framework) -> Any:
    """Return the model class of a framework.

    Raises:
        MissingBackend: it is not installed.
    """
    import conjoin

    match framework:
        case "pt":
            return conjoin.EncoderDecoderModel
        case "tf":
            return conjoin.TFEncoderDecoderModel
        case "flax":
            return conjoin.FlaxEncoderDecoderModel


def load_tokenizer(tokenizer: Any, arguments: LoadArguments, *, is_models: bool) -> Any:
    """Return a tokenizer; one that is named, alone or with keyword arguments in a tuple, is loaded.

    Args:
        is_models: True if it has the model's name, so that it is of the same revision.

    Raises:
        ConfigError: it is nothing that tokenizes and decodes.
    """
    keywords: dict[str, Any] = {}
    if isinstance(tokenizer, tuple):
        tokenizer, keywords = cast("tuple[Any, dict[str, Any]]", tokenizer)
    if isinstance(tokenizer, str | PathLike):
        hub = {key: value for key, value in arguments.hub.items() if is_models or key not in ("revision", "subfolder")}
        return AutoTokenizer.from_pretrained(cast(str, tokenizer), **{**hub, **keywords})
    if not callable(tokenizer) or not hasattr(tokenizer, "batch_decode"):
        raise ConfigError(
            f"tokenizer is a {type(tokenizer).__name__}; expected a tokenizer, or the name of one.",
            hint="conjoin.AutoTokenizer.from_pretrained(name_or_folder)",
        )
    return tokenizer


def framework_of_name(name: str | None) -> Framework | None:
    """Return the framework of a name; None if none is named.

    Raises:
        ConfigError: there is no such framework.
    """
    if name is not None and name not in _FRAMEWORKS:
        raise ConfigError(f"framework = {shown(name)}; expected 'pt', 'tf' or 'flax'.")
    return _FRAMEWORKS.get(name)


def framework_of(model: Any) -> Framework:
    """Return the framework of a model, adapters of peft around it included.

    Raises:
        ConfigError: it is no model of conjoin.
    """
    for kind in type(without_adapters(model)).__mro__:
        if found := _PACKAGES.get(".".join(kind.__module__.split(".")[:2])):
            return found
    raise ConfigError(
        f"model is a {type(model).__name__}; expected a model of conjoin, a folder or a hub id.",
        hint="save a model of transformers with save_pretrained(folder), and name the folder.",
    )


def without_adapters(model: Any) -> Any:
    """Return the model that peft's adapters were put on, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def torch_device(device: Any) -> Any:
    """Return the device of a name, a number (a GPU; -1 is the CPU) or None, a GPU if there is one.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(device, int):
        device = "cpu" if device < 0 else f"cuda:{device}"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device = {shown(device)}: {str(error).splitlines()[0]}") from None


@dataclass(frozen=True, slots=True)
class Rows:
    """Generated ids.

    Args:
        ids: Rows of all sources, one source after the other.
        counts: Number of rows of each source: beam search may find fewer results than requested.
    """

    ids: Int[np.ndarray, "R t"]
    counts: list[int]


def generate_rows(
    model: Any, framework: Framework, sources: Sequence[Sequence[int]], pad: int, settings: Mapping[str, Any]
) -> Rows:
    """Generate for one batch.

    Args:
        sources: Ids of every source.
        pad: Fills shorter rows; the mask hides it.
    """
    longest = max(map(len, sources))
    ids = np.array([[*row, *[pad] * (longest - len(row))] for row in sources], np.int64)
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in sources], np.int64)
    columns = {"input_ids": ids, "attention_mask": mask}
    count = settings.get("num_return_sequences") or model.generation_config.num_return_sequences or 1
    if framework == "pt":
        import torch

        columns = {name: torch.from_numpy(array).to(model.device) for name, array in columns.items()}
    if count == 1 or framework == "flax":  # JAX's model always returns an output object
        output = model.generate(**columns, **settings)
    else:
        output = model.generate(**columns, **settings, return_dict_in_generate=True)
    sequences: Any = getattr(output, "sequences", output)
    counts: Any = getattr(output, "results_per_source", None)
    rows = np.asarray(sequences.cpu() if framework == "pt" else sequences)
    return Rows(rows, [len(rows) // len(sources)] * len(sources) if counts is None else [int(n) for n in counts])


def to_tensor(framework: Framework, ids: Int[np.ndarray, " t"]) -> Any:
    """Return ids as an array of the framework, on the CPU."""
    match framework:
        case "pt":
            import torch

            return torch.from_numpy(ids.copy())
        case "tf":
            import tensorflow as tf

            return tf.convert_to_tensor(ids)
        case "flax":
            import jax.numpy as jnp

            return jnp.asarray(ids)
