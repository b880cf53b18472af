"""TensorFlow's and Flax's tensor names and layouts, to and from PyTorch's, as transformers 4 writes them.

Reading is mechanical: the last part of a name determines the array's layout. Writing also needs to know what each
tensor is (`Kind`), because PyTorch names matrices, embedding tables and norms all `weight`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from conjoin.errors import ConfigError, WeightError, listing

Array = Any  # a numpy array, or anything with ndim, shape, T, transpose and indexing
Framework = Literal["pt", "tf", "flax"]
FRAMEWORKS: Mapping[Framework, str] = {"pt": "PyTorch", "tf": "TensorFlow", "flax": "Flax"}
Kind = Literal["linear", "conv1d", "embedding", "norm", "scale", "bias", "norm_bias", "conv1d_bias", "plain"]
"""What a stored tensor is: `norm` is the weight of a norm with a bias, `scale` that of a norm without one, `conv1d` a
matrix that PyTorch stores as (in, out), `plain` a tensor with the same name in every framework."""

_SIDES = ("encoder", "decoder", "enc_to_dec_proj")
_TORCH_LEAF = {
    **dict.fromkeys(("kernel", "embeddings", "embedding", "gamma", "scale"), "weight"),
    "beta": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_LEAF: Mapping[Framework, Mapping[Kind, str]] = {
    "pt": {},
    "tf": {"linear": "kernel", "embedding": "embeddings", "norm": "gamma", "norm_bias": "beta"},
    "flax": {"linear": "kernel", "conv1d": "kernel", "embedding": "embedding", "norm": "scale"},
}

FROM_KEYWORDS = ("from_pt", "from_tf", "from_flax")


def pop_framework(kwargs: dict[str, Any]) -> Framework | None:
    """Pop from_pt=, from_tf= and from_flax= and return the framework that they choose, if any.

    Raises:
        ConfigError: they choose more than one.
    """
    chosen: list[Framework] = [framework for framework in FRAMEWORKS if kwargs.pop(f"from_{framework}", False)]
    if len(chosen) > 1:
        raise ConfigError(
            f"{' and '.join(f'from_{framework}' for framework in chosen)} are set; weights come from one of them."
        )
    return chosen[0] if chosen else None


def torch_names(names: Iterable[str], framework: Framework) -> dict[str, str]:
    """Return name -> PyTorch's name for the tensors of another framework.

    Args:
        names: All names of a checkpoint, since only together they show whether it is a joined pair. TensorFlow's names
            come without the model's own name before them.
    Raises:
        WeightError: two tensors would get the same name.
    """
    names = list(names)
    match framework:
        case "pt":
            return {name: name for name in names}
        case "tf":
            paths = _tf_paths(names)
        case "flax":
            paths = {name: re.split(r"[/.]", name) for name in names}
            paths = {name: path[1:] if path[0] in ("params", "batch_stats") else path for name, path in paths.items()}
    renamed = {name: ".".join((*path[:-1], _TORCH_LEAF.get(path[-1], path[-1]))) for name, path in paths.items()}
    first: dict[str, str] = {}
    clashes = [
        f"{name} and {first[new]}: {new}" for name, new in renamed.items() if first.setdefault(new, name) != name
    ]
    if clashes:
        raise WeightError(f"Tensors that have the same name in PyTorch:\n{listing(clashes)}")
    return renamed


def _tf_paths(names: Sequence[str]) -> dict[str, list[str]]:
    """Split names into parts. A pair's names start at their side, without the layer around the encoder's body."""
    paths = {name: _tf_path(name) for name in names}
    starts = {name: next((i for i, part in enumerate(path) if part in _SIDES), -1) for name, path in paths.items()}
    if -1 in starts.values() or not {paths[name][start] for name, start in starts.items()} >= {"encoder", "decoder"}:
        return paths
    paths = {name: path[starts[name] :] for name, path in paths.items()}
    inside = {name: path for name, path in paths.items() if path[0] == "encoder"}
    bodies = {path[1] for path in inside.values() if len(path) > 2}
    if len(bodies) == 1:
        paths |= {name: [path[0], *path[2:]] for name, path in inside.items() if len(path) > 2}
    return paths


def _tf_path(name: str) -> list[str]:
    """Split a variable's name into parts: `a___b` stands for b, `layer_._0` for two parts."""
    parts = [part.rsplit("___", 1)[-1] for part in re.sub(r":\d+$", "", name).split("/")]
    parts = parts[1:] if "model." in name and len(parts) > 1 else parts  # such names still start with the model's name
    return [inner for part in parts for inner in part.split("_._") if inner] or [name]


def torch_array(name: str, array: Array) -> Array:
    """Return a view of a TensorFlow or Flax array in PyTorch's layout.

    Args:
        name: Its TensorFlow or Flax name.
    """
    leaf = re.split(r"[/.]", re.sub(r":\d+$", "", name))[-1]
    if leaf == "kernel":
        return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    if leaf == "bias" and array.ndim == 2 and array.shape[0] == 1:  # TensorFlow's Conv1D
        return array[0]
    return array


@dataclass(frozen=True, slots=True)
class Dialect:
    """Names and layouts with which a framework stores PyTorch's tensors.

    Args:
        kinds: PyTorch's name -> what the tensor is; for other names, name and shape decide.
        body: A part of TensorFlow's names after `around` that PyTorch's names lack ("bert."): TensorFlow wraps the body
            of a bare model, and of a pair's encoder, in a layer.
        around: "encoder." in a pair, "" in a bare model.
    """

    framework: Framework
    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    body: str = ""
    around: str = ""

    def path(self, name: str, kind: Kind) -> list[str]:
        """Return the parts of the framework's name; TensorFlow's without the model's own name before it."""
        if self.framework == "tf" and name.startswith(self.around):
            name = self.around + self.body + name.removeprefix(self.around)
        *module, leaf = name.split(".")
        if leaf in ("weight", "bias"):
            leaf = _LEAF[self.framework].get(kind, leaf)
        if self.framework != "tf":
            return [*module, leaf]
        return [*_tf_module(module), "weight" if module[-1:] == ["word_embeddings"] else leaf]

    def array(self, array: Array, kind: Kind) -> Array:
        """Return a view of the array in the framework's layout."""
        match self.framework, kind:
            case ("tf" | "flax", "linear") | ("flax", "conv1d"):
                return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
            case "tf", "conv1d_bias":
                return array[None]
            case _:
                return array

    def kind(self, name: str, shape: Sequence[int]) -> Kind:
        """Return what a tensor is: from `kinds`, else a guess by its name and shape."""
        if name in self.kinds:
            return self.kinds[name]
        module, _, leaf = name.rpartition(".")
        if leaf != "weight":
            return "bias" if leaf == "bias" else "plain"
        if len(shape) == 1:
            return "norm"
        return "embedding" if "embed" in module.rpartition(".")[-1] else "linear"


def _tf_module(module: Sequence[str]) -> list[str]:
    """Return PyTorch's path to a module as TensorFlow's scopes.

    Lists are `layer_._0`, but `layers.0` in BART, whose token embeddings keep their dot too. BERT's two heads are two
    layers.
    """
    if list(module) == ["model", "shared"]:
        return ["model.shared"]
    scopes: list[str] = []
    for part in module:
        if part.isdigit() and scopes:
            dotted = scopes[-1] == "layers" and scopes[-2:-1] in (["encoder"], ["decoder"])
            scopes[-1] += f".{part}" if dotted else f"_._{part}"
        else:
            scopes.append(part)
    if "cls" in scopes:
        head = "nsp" if scopes[-1] == "seq_relationship" else "mlm"
        scopes = [f"{head}___cls" if scope == "cls" else scope for scope in scopes]
    return scopes
