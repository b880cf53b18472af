"""Write tensors as safetensors, or as another framework's files: one file or shards, the same bytes every time.

We write safetensors ourselves because the library's `serialize_file` takes copies (up to 0.7) or raw addresses (0.8),
shuffles metadata from run to run, and hides the disk error behind its own. Tests read our files with the library.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint.dialects import Dialect
from conjoin.checkpoint.dtypes import BY_NAME
from conjoin.checkpoint.files import Staging, write_json
from conjoin.checkpoint.forms import H5, MSGPACK, SAFETENSORS, Form, replaces
from conjoin.checkpoint.hdf5 import scoped, write_h5
from conjoin.checkpoint.msgpack_writer import write_msgpack
from conjoin.errors import ConfigError, WeightError

Tensor = tuple[str, NDArray[Any], str]
"""Name, array and dtype; bfloat16 and 8-bit floats as uint16 and uint8 bits with their true dtype's name."""
_DECIMAL_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS = _DECIMAL_UNITS | {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_PT_METADATA = {"format": "pt"}  # transformers refuses files without it


def parse_size(size: int | str) -> int:
    """Read a size such as "5GB" (powers of ten), "512MiB" (powers of two) or 5000 as a number of bytes.

    Raises:
        ConfigError: the size is not of such a form, or not positive.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    if match is None or match.group(2).upper() not in _UNITS or float(match.group(1)) <= 0:
        raise ConfigError(f"{size!r} is not a size.", hint='write for example "5GB", "512MiB" or a number of bytes')
    return int(float(match.group(1)) * _UNITS[match.group(2).upper()])


@dataclass(slots=True)
class _Shard:
    tensors: dict[str, tuple[NDArray[Any], str]] = field(default_factory=dict[str, tuple[NDArray[Any], str]])
    byte_count: int = 0


def write_tensors(
    staging: Staging,
    tensors: Iterable[Tensor],
    *,
    max_shard_bytes: int,
    metadata: Mapping[str, str] = _PT_METADATA,
    form: Form = SAFETENSORS,
) -> list[Path]:
    """Write tensors into a staging folder and remove the weight files that they replace.

    Tensors are taken one by one and held until their shard is full, so at most one shard is in memory. Shards are
    filled in the order of `tensors`, which should therefore be the same for every save; a file is sorted by itemsize
    and name.

    Args:
        max_shard_bytes: A larger tensor gets a file of its own.
        metadata: Metadata of a safetensors file.
    Returns:
        The files written; the index last if there is one.
    Raises:
        WeightError: a name occurs twice, a dtype is unknown, or an array does not hold its dtype.
    """
    for stale in [name for name in staging.names() if any(replaced.has(name) for replaced in replaces(form))]:
        staging.remove(stale)
    shards: list[Path] = []
    weight_map: dict[str, int] = {}
    total = 0
    for shard, last in _shards(tensors, max_shard_bytes):
        _reject_duplicates(name for name in shard.tensors if name in weight_map)
        weight_map |= dict.fromkeys(shard.tensors, len(shards))
        shards.append(staging / f"{form.stem}-{len(shards) + 1:05d}.{form.suffix}")
        _write_form(form, shards[-1], shard, metadata, whole=last and len(shards) == 1)
        total += shard.byte_count
        shard.tensors.clear()  # or it would stay in memory beside the next one
    if len(shards) == 1:
        return [shards[0].rename(staging / form.file)]
    named = [path.rename(staging / f"{path.stem}-of-{len(shards):05d}.{form.suffix}") for path in shards]
    index = {_in_index(form, name, metadata): named[shard].name for name, shard in sorted(weight_map.items())}
    write_json(staging / form.index, {"metadata": {"total_size": total}, "weight_map": index})
    return [*named, staging / form.index]


def write_dialect(
    staging: Staging, tensors: Iterable[Tensor], *, dialect: Dialect, form: Form, max_shard_bytes: int
) -> list[Path]:
    """Write tensors with PyTorch's names and layouts under the names and in the layouts of another framework.

    Args:
        form: Kind of file, which must support the dialect's framework.
    Returns, raises:
        As `write_tensors`.
    """
    assert dialect.framework in form.frameworks
    metadata = {"format": dialect.framework}
    return write_tensors(
        staging, _translated(tensors, dialect, form), max_shard_bytes=max_shard_bytes, metadata=metadata, form=form
    )


def _translated(tensors: Iterable[Tensor], dialect: Dialect, form: Form) -> Iterator[Tensor]:
    for name, array, dtype in tensors:
        kind = dialect.kind(name, array.shape)
        path = dialect.path(name, kind)
        match dialect.framework:
            case "tf":
                new_name = "/".join(path) + ":0"
                if "model." in new_name:  # TensorFlow's name of BART's token embeddings
                    new_name = f"{path[0]}/{new_name}"
            case "flax":
                new_name = ("/" if form == MSGPACK else ".").join(path)
            case "pt":
                new_name = name
        yield new_name, dialect.array(array, kind), dtype


def _in_index(form: Form, name: str, metadata: Mapping[str, str]) -> str:
    """Return a tensor's name in the index; TensorFlow's index has full names, its shards do not."""
    return scoped(name) if form == H5 or metadata.get("format") == "tf" else name


def _shards(tensors: Iterable[Tensor], max_shard_bytes: int) -> Iterable[tuple[_Shard, bool]]:
    """Yield filled shards, each with True if it is the last."""
    shard = _Shard()
    for name, tensor, dtype in tensors:
        array = _storable(name, tensor, dtype)
        if shard.tensors and shard.byte_count + array.nbytes > max_shard_bytes:
            yield shard, False
            shard = _Shard()
        _reject_duplicates([name] if name in shard.tensors else [])
        shard.tensors[name] = (array, dtype)
        shard.byte_count += array.nbytes
    yield shard, True


def _reject_duplicates(names: Iterable[str]) -> None:
    if repeated := list(names):
        raise WeightError(f"Two tensors to write have the name {repeated[0]}.")


def _storable(name: str, array: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype not in BY_NAME:
        raise WeightError(f"{name}: dtype {dtype!r} cannot be stored. Expected one of: {', '.join(BY_NAME)}.")
    storage = np.dtype(BY_NAME[dtype].storage)
    if (array.dtype.kind, array.dtype.itemsize) != (storage.kind, storage.itemsize):
        raise WeightError(f"{name}: a numpy array of {array.dtype} does not hold {dtype}; expected {storage}.")
    return array.astype(storage, copy=False)


def _write_form(form: Form, path: Path, shard: _Shard, metadata: Mapping[str, str], *, whole: bool) -> None:
    match form.suffix:
        case "h5":
            write_h5(path, shard.tensors, whole=whole)
        case "msgpack":
            write_msgpack(path, shard.tensors)
        case _:
            _write_file(path, shard, metadata)


def _write_file(path: Path, shard: _Shard, metadata: Mapping[str, str]) -> None:
    order = sorted(shard.tensors, key=lambda name: (-shard.tensors[name][0].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        array, dtype = shard.tensors[name]
        start, end = end, end + array.nbytes
        header[name] = {"dtype": BY_NAME[dtype].tag, "shape": list(array.shape), "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)  # the widest dtypes come first, so all tensors are aligned
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name in order:
            file.write(np.ascontiguousarray(shard.tensors[name][0]).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
