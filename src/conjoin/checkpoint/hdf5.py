"""TensorFlow's `.h5` files as Keras 2 and transformers write them, read and written through h5py.

A single file has a group per layer, whose attribute `weight_names` lists the variables; a shard lists its variables in
`layer_names` of the file itself. Names of variables leave out their first part, the name of the model.
"""

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint.dtypes import BY_NAME
from conjoin.checkpoint.exchange import sync
from conjoin.checkpoint.files import require_file
from conjoin.checkpoint.header import BadHeader, TensorInfo
from conjoin.errors import MissingBackend, WeightError

_ATTRIBUTE_BYTES = 64512  # HDF5_OBJECT_HEADER_LIMIT of Keras: longer lists are split into name0, name1, ...
_TOP_LEVEL = "top_level_model_weights"
_SCOPE = "tf_model"  # readers drop it: Keras makes it from the class name and a number
_EVERYWHERE = re.compile(r"shared/|\w+/embeddings/")  # embeddings of T5 and BERT, which their heads list too
_KERAS = "2.15.0"  # the version of the layout; readers check its first number


class H5File:
    """One open `.h5` file.

    Raises:
        BadHeader: with every problem of the file.
        MissingBackend: h5py is not installed.
        FileError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata = {"format": "tf"}
        self._file = _opened(path)
        try:
            with _as_damage("its structure"):
                self._datasets = _datasets(self._file)
            self.infos = {name: _info(name, dataset) for name, dataset in self._datasets.items()}
        except BadHeader as bad:
            self.close()
            raise BadHeader([f"{path.name}: {problem}" for problem in bad.problems]) from None

    def array(self, name: str) -> NDArray[Any]:
        """Read one variable."""
        dtype = np.dtype(BY_NAME[self.infos[name].dtype].storage)
        try:
            with _as_damage(name):
                array = np.asarray(self._datasets[name][()], dtype)
        except BadHeader as bad:
            raise WeightError(f"{self.path}: {bad}", hint="download or save the checkpoint again") from None
        array.flags.writeable = False
        return array

    def close(self) -> None:
        """Close the file; arrays returned before remain valid."""
        self._file.close()


def _h5py(action: str, path: Path) -> Any:
    try:
        import h5py  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise MissingBackend(
            f"{path}: {action} TensorFlow's .h5 files needs h5py, which is not installed.",
            hint="pip install 'conjoin[convert]'",
        ) from None
    return h5py


def _opened(path: Path) -> Any:
    h5py = _h5py("reading", path)
    require_file(path)
    try:
        return h5py.File(path, "r")
    except (OSError, ValueError, RuntimeError) as error:
        raise BadHeader([f"{path.name}: not a readable HDF5 file: {error}"]) from None


@contextmanager
def _as_damage(place: str) -> Generator[None]:
    """Turn any error while reading a place of the file into a BadHeader; h5py may raise errors of any class."""
    try:
        yield
    except BadHeader:
        raise
    except Exception as error:
        raise BadHeader([f"{place}: cannot be read: {error or type(error).__name__}"]) from None


def _datasets(file: Any) -> dict[str, Any]:
    """Return name -> dataset for every variable."""
    problems: list[str] = []
    datasets: dict[str, Any] = {}
    for name, group, key in _variables(file):
        dataset = _dataset(file, group, key)
        if isinstance(dataset, str):
            problems.append(f"{name}: {dataset}")
        else:
            datasets.setdefault(name, dataset)  # T5's two stacks both list the token embeddings that they share
    if problems:
        raise BadHeader(problems)
    return datasets


def _variables(file: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield each variable's name, the group that holds it, and its path in the group."""
    layers = _names(file, "layer_names")
    if layers is None:
        raise BadHeader(["no attribute layer_names; expected a file written by TensorFlow's save_weights"])
    groups = {layer: member for layer in layers if (member := _member(file, layer)) is not None}
    if not any(map(_is_group, groups.values())):
        yield from ((layer, file, layer) for layer in layers)
        return
    sides = _unnamed_sides(layers)
    for layer in (*layers, *([_TOP_LEVEL] if _TOP_LEVEL in file else [])):
        group = _member(file, layer)
        variables = None if group is None else _names(group, "weight_names")
        if variables is None:
            raise BadHeader([f"{layer}: no group with an attribute weight_names"])
        for variable in variables:
            name = _unscoped(variable, layer)
            yield name.replace(layer, sides[layer], 1) if layer in sides else name, group, variable


def _member(file: Any, name: str) -> Any:
    """Return what a file has under a name, or None."""
    with _as_damage(name):
        return file.get(name)


def _unscoped(variable: str, layer: str) -> str:
    """Return a variable's name without the model's, which is missing if the model was built outside its own scope."""
    first, slash, rest = variable.partition("/")
    built_bare = first == layer and not rest.startswith(f"{layer}/")
    return variable if not slash or built_bare or "model." in variable else rest


def _unnamed_sides(layers: Sequence[str]) -> dict[str, str]:
    """Return class name -> side for a pair of two unnamed models, whose layers have the names of their classes."""
    halves = [layer for layer in layers if layer != "enc_to_dec_proj"]
    unnamed = len(halves) == 2 and all(layer.startswith("tf") for layer in halves)
    return dict(zip(halves, ("encoder", "decoder"), strict=True)) if unnamed else {}


def _is_group(member: Any) -> bool:
    return type(member).__name__ == "Group"


def _names(group: Any, attribute: str) -> list[str] | None:
    """Return the names in an attribute, or in several numbered ones if the list was too long for one."""
    if attribute in group.attrs:
        return _texts(group, attribute)
    names: list[str] = []
    number = 0
    while f"{attribute}{number}" in group.attrs:
        names += _texts(group, f"{attribute}{number}")
        number += 1
    return names if number else None


def _texts(group: Any, attribute: str) -> list[str]:
    with _as_damage(f"the attribute {attribute} of {group.name}"):
        names = [name.decode("utf-8") if isinstance(name, bytes) else name for name in group.attrs[attribute]]
    if not all(isinstance(name, str) for name in names):
        raise BadHeader([f"the attribute {attribute} of {group.name} is not a list of names"])
    return names


def _dataset(file: Any, group: Any, key: str) -> Any:
    """Return a variable's dataset, or a text that describes what is wrong with it."""
    try:
        dataset = group[key]
    except KeyError:
        return "listed, but not in the file"
    except Exception as error:  # circular links, an invalid HDF5 name, damage
        return f"cannot be read: {error}"
    if type(dataset).__name__ != "Dataset":
        return "a group, expected an array"
    if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
        return "leads to another file"  # HDF5 can link to other files; checkpoints do not
    if dataset.shape is None:
        return "an empty dataset, expected an array"
    if dataset.size and not dataset.id.get_storage_size():
        return "its numbers were never written"
    return dataset if _dtype_name(dataset) else f"dtype {dataset.dtype} is not supported"


def _dtype_name(dataset: Any) -> str | None:
    name = str(dataset.dtype.name)
    return name if name in BY_NAME else None


def _info(name: str, dataset: Any) -> TensorInfo:
    return TensorInfo(name, tuple(dataset.shape), cast(str, _dtype_name(dataset)))


def write_h5(path: Path, tensors: Mapping[str, tuple[NDArray[Any], str]], *, whole: bool) -> None:
    """Write variables, named as in `H5File`; bfloat16, which HDF5 lacks, becomes float32.

    Args:
        whole: True for a single file, with a group per layer as in Keras; False for a shard.
    """
    h5py = _h5py("writing", path)
    arrays = {name: _storable(name, array, dtype) for name, (array, dtype) in tensors.items()}
    with h5py.File(path, "w") as file:
        if whole:
            _write_layers(file, arrays)
        else:
            _write_names(file, "layer_names", list(arrays))
            for name, array in arrays.items():
                file.create_dataset(name, data=array)
    sync(path)


def _storable(name: str, array: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if array.dtype.name != dtype:
        raise WeightError(f"{name}: {dtype} cannot be stored in an .h5 file.", hint="convert it to float32 first.")
    return array


def _write_layers(file: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    layers: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in arrays.items():
        layer = re.split(r"[/.:]", name)[0]
        layers.setdefault(layer, {})[scoped(name)] = array
    file.attrs["backend"], file.attrs["keras_version"] = "tensorflow", _KERAS
    _write_names(file, "layer_names", list(layers))
    for layer, variables in layers.items():
        group = file.create_group(layer)
        for name, array in variables.items():
            group.create_dataset(name, data=array)
    owners = {scoped(name): re.split(r"[/.:]", name)[0] for name in arrays if _EVERYWHERE.match(name)}
    for layer, variables in layers.items():
        borrowed = [name for name, owner in owners.items() if owner != layer]
        for name in borrowed:
            file[layer][name] = file[owners[name]][name]  # a second name for the same bytes
        _write_names(file[layer], "weight_names", [*variables, *borrowed])
    _write_names(file.create_group(_TOP_LEVEL), "weight_names", [])


def scoped(name: str) -> str:
    """Return a variable's full name, with the model's name before it if TensorFlow puts one there."""
    return f"{_SCOPE}/{name}" if "/" in name and "model." not in name else name


def _write_names(group: Any, attribute: str, names: Sequence[str]) -> None:
    """Write a list of names, in several numbered attributes if one would be too long."""
    raw = np.array([name.encode("utf-8") for name in names] or [], "S")
    parts = -(-raw.nbytes // _ATTRIBUTE_BYTES)
    if parts <= 1:
        group.attrs[attribute] = raw
        return
    rows = _ATTRIBUTE_BYTES // raw.itemsize
    for number, start in enumerate(range(0, len(raw), rows)):
        group.attrs[f"{attribute}{number}"] = raw[start : start + rows]
