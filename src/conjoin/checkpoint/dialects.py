"""TensorFlow's and Flax's names and layouts for what PyTorch's checkpoints hold, as transformers 4 writes them.

Reading is mechanical: the last part of a name says how the array lies. Writing needs to know in addition what each
tensor is (`Kind`), because PyTorch calls matrices, tables and norms all `weight`.
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
"""What a stored tensor is: `norm` the weight of a norm that has a bias, `scale` of one that has none, `conv1d` a matrix
that PyTorch stores (in, out), `plain` whatever is called the same everywhere."""

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


def take_framework(keywords: dict[str, Any]) -> Framework | None:
    """Which framework's weights from_pt=, from_tf= or from_flax= ask for; takes them out of the keywords.

    Raises:
        ConfigError: more than one is asked for.
    """
    asked: list[Framework] = [framework for framework in FRAMEWORKS if keywords.pop(f"from_{framework}", False)]
    if len(asked) > 1:
        raise ConfigError(
            f"{' and '.join(f'from_{framework}' for framework in asked)} are set; weights come from one of them."
        )
    return asked[0] if asked else None


def torch_names(names: Iterable[str], framework: Framework) -> dict[str, str]:
    """The names that PyTorch has for another framework's tensors.

    Args:
        names: All names of a checkpoint: whether it is a joined pair's shows in all of them together. TensorFlow's
            without the model's own name before them.
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
    found = {name: ".".join((*path[:-1], _TORCH_LEAF.get(path[-1], path[-1]))) for name, path in paths.items()}
    first: dict[str, str] = {}
    twice = [f"{name} and {first[new]}: {new}" for name, new in found.items() if first.setdefault(new, name) != name]
    if twice:
        raise WeightError(f"Tensors that have the same name in PyTorch:\n{listing(twice)}")
    return found


def _tf_paths(names: Sequence[str]) -> dict[str, list[str]]:
    """Names as parts; a pair's from its side on, and without the body's own layer in its encoder."""
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
    """The parts of a variable's name: `a___b` stands for b, `layer_._0` for two parts."""
    parts = [part.rsplit("___", 1)[-1] for part in re.sub(r":\d+$", "", name).split("/")]
    parts = parts[1:] if "model." in name and len(parts) > 1 else parts  # such names keep the model's own before them
    return [inner for part in parts for inner in part.split("_._") if inner] or [name]


def torch_array(name: str, array: Array) -> Array:
    """A TensorFlow or Flax array as PyTorch has it; a view.

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
    """How to write PyTorch's tensors in a framework's names and layouts.

    Args:
        kinds: What each tensor is, by PyTorch's name; by its own name and shape where it is not told.
        body: What TensorFlow's names have behind `around` and PyTorch's have not ("bert."): it puts a layer around
            the body of a bare model, and of a pair's encoder.
        around: "encoder." in a pair, "" in a bare model.
    """

    framework: Framework
    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    body: str = ""
    around: str = ""

    def path(self, name: str, kind: Kind) -> list[str]:
        """The framework's name, part by part; TensorFlow's without the model's own name before it."""
        if self.framework == "tf" and name.startswith(self.around):
            name = self.around + self.body + name.removeprefix(self.around)
        *module, leaf = name.split(".")
        if leaf in ("weight", "bias"):
            leaf = _LEAF[self.framework].get(kind, leaf)
        if self.framework != "tf":
            return [*module, leaf]
        return [*_tf_module(module), "weight" if module[-1:] == ["word_embeddings"] else leaf]

    def array(self, array: Array, kind: Kind) -> Array:
        """The array as the framework has it; a view."""
        match self.framework, kind:
            case ("tf" | "flax", "linear") | ("flax", "conv1d"):
                return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
            case "tf", "conv1d_bias":
                return array[None]
            case _:
                return array

    def kind(self, name: str, shape: Sequence[int]) -> Kind:
        """What a tensor is: as told, else a matrix, a table or a norm by the looks of it."""
        if name in self.kinds:
            return self.kinds[name]
        module, _, leaf = name.rpartition(".")
        if leaf != "weight":
            return "bias" if leaf == "bias" else "plain"
        if len(shape) == 1:
            return "norm"
        return "embedding" if "embed" in module.rpartition(".")[-1] else "linear"


def _tf_module(module: Sequence[str]) -> list[str]:
    """PyTorch's path to a module as TensorFlow's scopes.

    Lists are `layer_._0`, but `layers.0` in BART, whose word table keeps its dot too. BERT's two heads are two layers.
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
