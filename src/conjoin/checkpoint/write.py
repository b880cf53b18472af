"""Write tensors as safetensors: one file or shards, the same bytes every time.

The format is written here rather than by the safetensors library, whose `serialize_file` takes copies (up to 0.7) or
raw addresses (0.8), shuffles metadata from run to run, and hides which disk error it met.
Tests read these files with it.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint.dtypes import BY_NAME
from conjoin.checkpoint.files import Staging, write_json
from conjoin.errors import ConfigError, WeightError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_STALE = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|pytorch_model(-\d{5}-of-\d{5})?\.bin|pytorch_model\.bin\.index\.json"
)
_DECIMAL_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS = _DECIMAL_UNITS | {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_PT_METADATA = {"format": "pt"}  # transformers refuses files without it


def parse_size(size: int | str) -> int:
    """Read a size such as "5GB" (powers of ten), "512MiB" (powers of two) or 5000 as a number of bytes.

    Raises:
        ConfigError: not such a size, or not above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    if found is None or found.group(2).upper() not in _UNITS or float(found.group(1)) <= 0:
        raise ConfigError(f"{size!r} is not a size.", hint='write for example "5GB", "512MiB" or a number of bytes')
    return int(float(found.group(1)) * _UNITS[found.group(2).upper()])


@dataclass(slots=True)
class _Shard:
    tensors: dict[str, tuple[NDArray[Any], str]] = field(default_factory=dict[str, tuple[NDArray[Any], str]])
    byte_count: int = 0


def write_tensors(
    staging: Staging,
    tensors: Iterable[tuple[str, NDArray[Any], str]],
    *,
    max_shard_bytes: int,
    metadata: Mapping[str, str] = _PT_METADATA,
) -> list[Path]:
    """Write tensors into a staging folder and remove the weight files that they replace.

    Tensors are taken one by one and held until their shard is full, so at most one shard is in memory. They go into
    shards in the order given, which should therefore not change from save to save; within a file by width and name.

    Args:
        tensors: (name, array, dtype); bfloat16 and 8-bit floats as uint16 and uint8 bits with their true dtype's name.
        max_shard_bytes: A tensor larger than this gets a file of its own.
    Returns:
        The files written, the index last where there is one.
    Raises:
        WeightError: a name given twice, an unknown dtype, or an array that does not hold that dtype.
    """
    for stale in filter(_STALE.fullmatch, staging.names()):
        staging.remove(stale)
    shards: list[Path] = []
    weight_map: dict[str, int] = {}
    total = 0
    for shard in _shards(tensors, max_shard_bytes):
        _refuse_repeats(name for name in shard.tensors if name in weight_map)
        weight_map |= dict.fromkeys(shard.tensors, len(shards))
        shards.append(staging / f"model-{len(shards) + 1:05d}.safetensors")
        _write_file(shards[-1], shard, metadata)
        total += shard.byte_count
        shard.tensors.clear()  # or it would stay in memory beside the next one
    if len(shards) == 1:
        return [shards[0].rename(staging / SINGLE_FILE)]
    named = [path.rename(staging / f"{path.stem}-of-{len(shards):05d}.safetensors") for path in shards]
    index = {name: named[shard].name for name, shard in sorted(weight_map.items())}
    write_json(staging / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": index})
    return [*named, staging / INDEX_FILE]


def _shards(tensors: Iterable[tuple[str, NDArray[Any], str]], max_shard_bytes: int) -> Iterable[_Shard]:
    shard = _Shard()
    for name, given, dtype in tensors:
        array = _storable(name, given, dtype)
        if shard.tensors and shard.byte_count + array.nbytes > max_shard_bytes:
            yield shard
            shard = _Shard()
        _refuse_repeats([name] if name in shard.tensors else [])
        shard.tensors[name] = (array, dtype)
        shard.byte_count += array.nbytes
    yield shard


def _refuse_repeats(names: Iterable[str]) -> None:
    if repeated := list(names):
        raise WeightError(f"Two tensors to write have the name {repeated[0]}.")


def _storable(name: str, array: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype not in BY_NAME:
        raise WeightError(f"{name}: dtype {dtype!r} cannot be stored. Expected one of: {', '.join(BY_NAME)}.")
    storage = np.dtype(BY_NAME[dtype].storage)
    if (array.dtype.kind, array.dtype.itemsize) != (storage.kind, storage.itemsize):
        raise WeightError(f"{name}: a numpy array of {array.dtype} does not hold {dtype}; that takes {storage}.")
    return array.astype(storage, copy=False)


def _write_file(path: Path, shard: _Shard, metadata: Mapping[str, str]) -> None:
    order = sorted(shard.tensors, key=lambda name: (-shard.tensors[name][0].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        array, dtype = shard.tensors[name]
        start, end = end, end + array.nbytes
        header[name] = {"dtype": BY_NAME[dtype].tag, "shape": list(array.shape), "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)  # the widest tensors come first, so all of them lie aligned
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name in order:
            file.write(np.ascontiguousarray(shard.tensors[name][0]).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
