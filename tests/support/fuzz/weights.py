"""Weight files: safetensors whole and in shards, their index, TensorFlow's .h5 and Flax's .msgpack."""

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import h5py
import msgpack
import numpy as np

from conjoin import EncoderDecoderModel
from format_files import FIXTURES
from fuzz.models import use_weights, write_pair
from fuzz.mutators import INTERESTING, change_bytes, change_json, changed, mangled, odd_text, spelled
from fuzz.runner import Kind

_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F8_E8M0", "C64", "F4", "", "f32", "Q4")
_SHAPES: tuple[Any, ...] = (
    [],
    [0],
    [1],
    [-1],
    [2**31],
    [2**63],
    [1] * 70,
    [1.5],
    "2",
    None,
    [[2]],
    [True],
    [2**32, 2**32],
)


def _write_shards(folder: Path) -> None:
    write_pair(folder)
    model = EncoderDecoderModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="2KB")


def change_safetensors(path: Path, draw: Random) -> None:
    """Damage a safetensors file: its bytes, its header, or its numbers."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    match draw.randrange(6):
        case 0:
            path.write_bytes(mangled(raw, draw))
            return
        case 1:
            data = mangled(data, draw)
        case 2:
            name, other = draw.choice(list(header)), draw.choice(list(header))
            header[name], header[other] = header[other], header[name]
        case 3:
            entry = header[draw.choice([name for name in header if name != "__metadata__"])]
            entry["dtype" if draw.random() < 0.5 else "shape"] = draw.choice(draw.choice((_DTYPES, _SHAPES)))
        case 4:
            at = draw.randrange(0, len(data), 4)
            data = (
                data[:at]
                + np.float32(draw.choice((np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45))).tobytes()
                + data[at + 4 :]
            )
        case _:
            header = changed(header, draw, words=("__metadata__", "dtype", "shape", "data_offsets"))
    text = spelled(header).encode("utf-8", "surrogatepass")
    length = len(text) if draw.random() < 0.9 else draw.choice(INTERESTING)
    path.write_bytes(length.to_bytes(8, "little") + text + data)


def _change_safetensors(folder: Path, draw: Random) -> None:
    change_safetensors(folder / "model.safetensors", draw)


def _change_shards(folder: Path, draw: Random) -> None:
    shards = sorted(folder.glob("model-*.safetensors"))
    shard = draw.choice(shards)
    match draw.randrange(5):
        case 0:
            shard.unlink()
        case 1:
            other = draw.choice(shards)
            if other != shard:
                shutil.copy(other, shard)
        case 2:
            _change_index(folder, draw)
        case _:
            change_safetensors(shard, draw)


def _change_index(folder: Path, draw: Random) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    shards = sorted(set(index["weight_map"].values()))
    odd = (
        *shards,
        "../model.safetensors",
        "/etc/passwd",
        "a/b",
        "x" * 5000,
        "config.json",
        ".",
        "",
        "con",
        "C:\\x",
        "model\0",
    )
    if draw.random() < 0.5:
        change_json(path, draw, words=("weight_map", "metadata", "total_size"))
        return
    for name in draw.sample(sorted(index["weight_map"]), draw.choice((1, 2))):
        match draw.randrange(3):
            case 0:
                index["weight_map"][name] = draw.choice(odd)
            case 1:
                index["weight_map"][odd_text(draw)] = index["weight_map"].pop(name)
            case _:
                del index["weight_map"][name]
    path.write_text(spelled(index), encoding="utf-8", errors="surrogatepass")


def _copy_of(*name: str) -> Any:
    def build(folder: Path) -> None:
        shutil.copytree(FIXTURES.joinpath(*name), folder, dirs_exist_ok=True)

    return build


def _change_h5(folder: Path, draw: Random) -> None:
    path = folder / "tf_model.h5"
    if draw.random() < 0.4:
        change_bytes(path, draw)
        return
    with h5py.File(path, "r+") as file:
        for _ in range(draw.choice((1, 1, 2))):
            _change_group(file, draw)


def _change_group(file: h5py.File, draw: Random) -> None:
    found: list[str] = []
    file.visit(found.append)
    datasets = [name for name in found if isinstance(file.get(name), h5py.Dataset)]
    groups = [name for name in found if isinstance(file.get(name), h5py.Group)]
    match draw.randrange(4):
        case 0:
            del file[draw.choice(found)]
        case 1:
            holder = draw.choice([file, *(file[name] for name in groups)])
            names = [name for name in holder.attrs] or ["layer_names", "weight_names"]
            _change_attribute(holder, draw.choice([*names, "layer_names0", "weight_names0"]), draw)
        case 2:
            name = draw.choice(groups)
            del file[name]
            file[name] = draw.choice(
                (h5py.SoftLink(f"/{name}"), h5py.ExternalLink("config.json", "/"), np.ones(3), "text")
            )
        case _:
            _change_dataset(file, draw.choice(datasets), draw)


def _change_attribute(holder: Any, name: str, draw: Random) -> None:
    if draw.random() < 0.2 and name in holder.attrs:
        del holder.attrs[name]
        return
    kept = list(holder.attrs[name]) if name in holder.attrs and np.ndim(holder.attrs[name]) else [b"bert"]
    odd = odd_text(draw).replace("\0", "").encode("utf-8", "surrogatepass") or b"?"
    holder.attrs[name] = draw.choice(
        (
            5,
            1.5,
            "bert",
            b"\xff\xfe",
            np.zeros((2, 2)),
            [],
            h5py.Empty("f4"),
            np.array([b"\xff"]),
            np.array([1, 2]),
            np.array([*kept, odd]),
            np.array([odd]),
            np.array(kept[1:] or [odd]),
            np.array([*kept, kept[0]]),
            h5py.Empty("S3"),
        )
    )


def _change_dataset(file: Any, name: str, draw: Random) -> None:
    kept = file[name][()]
    flat = np.asarray(kept).reshape(-1)
    del file[name]
    match draw.randrange(10):
        case 0:
            file[name] = h5py.Empty("f4")
        case 1:
            file[name] = h5py.SoftLink(f"/{name}")
        case 2:
            file.create_dataset(name, draw.choice(((1 << 40,), (1 << 20, 1 << 20), (0, 4), ())), "f4", chunks=None)
        case 3:
            file.create_dataset(name, data=flat, chunks=True, compression="gzip")
        case 4:
            file[name] = np.zeros(3, [("a", "f4"), ("b", "i2")])
        case 5:
            file[name] = draw.choice(("text", b"raw", np.array([b"a", b"b"]), [["a"]]))
        case 6:
            file.create_dataset(name, kept.shape, h5py.vlen_dtype(np.float32))
        case 7:
            file[name] = kept.astype(draw.choice(("f8", "f2", "i4", "i8", "u1", ">f4", "c8", "?")))
        case 8:
            file[name] = h5py.ExternalLink(draw.choice(("config.json", "/etc/passwd", "tf_model.h5")), f"/{name}")
        case _:
            flat[draw.randrange(flat.size)] = draw.choice((np.nan, np.inf, -np.inf, 3e38))
            file[name] = flat.reshape(kept.shape)


def _change_msgpack(folder: Path, draw: Random) -> None:
    path = folder / "flax_model.msgpack"
    if draw.random() < 0.4:
        change_bytes(path, draw)
        return
    tree = msgpack.unpackb(path.read_bytes(), strict_map_key=False)
    for _ in range(draw.choice((1, 1, 2))):
        holder = tree
        while (inner := [key for key, value in holder.items() if isinstance(value, dict)]) and draw.random() < 0.8:
            holder = holder[draw.choice(inner)]
        _change_leaf(holder, draw.choice(list(holder)), draw)
    path.write_bytes(msgpack.packb(tree, unicode_errors="surrogatepass") or b"")


def _change_leaf(holder: dict[Any, Any], key: Any, draw: Random) -> None:
    odd = ([2], "float32", b"\0" * 8)
    match draw.randrange(6):
        case 0:
            del holder[key]
        case 1:
            holder[draw.choice((odd_text(draw), 5, "kernel", "embedding", None, b"raw", 1.5))] = holder.pop(key)
        case 2:
            shape, dtype = draw.choice(_SHAPES), draw.choice((*_DTYPES, "float32", "V2", "object", "bfloat16"))
            if isinstance(shape, list):
                shape = [min(each, 2**64 - 1) if isinstance(each, int) else each for each in shape]
            holder[key] = msgpack.ExtType(draw.choice((1, 2, 3, 0, -1)), msgpack.packb((shape, dtype, odd[2])))
        case 3:
            holder[key] = draw.choice((None, True, 5, -5, 1.5, "text", b"raw", [], {}, [1, [2]], 2**63))
        case 4 if isinstance(holder[key], msgpack.ExtType):
            holder[key] = msgpack.ExtType(holder[key].code, mangled(holder[key].data, draw))
        case _:
            value: Any = msgpack.ExtType(1, msgpack.packb(odd))
            for _ in range(draw.choice((1, 3, 60, 200))):
                value = {"a": value}
            holder[key] = draw.choice(
                (value, {"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {"0": value}})
            )


KINDS = (
    Kind("safetensors", write_pair, _change_safetensors, use_weights),
    Kind("shards", _write_shards, _change_shards, use_weights),
    Kind("index", _write_shards, _change_index, use_weights),
    Kind("h5", _copy_of("tf", "bert_bert-narrow_h5"), _change_h5, use_weights),
    Kind("msgpack", _copy_of("flax", "bert_bert-narrow_msgpack"), _change_msgpack, use_weights),
)
