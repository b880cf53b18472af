"""PyTorch's .bin files: zip files of today, the pickles one after another of before, and shards."""

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from random import Random
from typing import Any

import torch

from conjoin.checkpoint import open_checkpoint
from fuzz.models import use_weights, write_pair
from fuzz.mutators import change_json, mangled, odd_text
from fuzz.runner import Kind


class _Evil:
    """Runs a program where it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def _state(folder: Path) -> dict[str, torch.Tensor]:
    with open_checkpoint(folder) as checkpoint:
        return {name: torch.tensor(checkpoint.array(name)) for name in checkpoint}


def _write_bin(folder: Path, *, legacy: bool) -> None:
    write_pair(folder)
    torch.save(_state(folder), folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    (folder / "model.safetensors").unlink()


def _write_shards(folder: Path) -> None:
    write_pair(folder)
    state, shards = _state(folder), [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    weight_map = {name: shards[index % 2] for index, name in enumerate(state)}
    for shard in shards:
        torch.save({name: state[name] for name, where in weight_map.items() if where == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


def change_pickled(path: Path, draw: Random, *, legacy: bool = False) -> None:
    """Damage a file of torch.save's: its bytes, its members, its pickle, or the objects in it."""
    match draw.randrange(4):
        case 0:
            path.write_bytes(mangled(path.read_bytes(), draw))
        case 1 if zipfile.is_zipfile(path):
            _change_members(path, draw)
        case 2:
            state = torch.load(path, weights_only=True)
            _save(_bomb(draw) if draw.random() < 0.15 else _changed(state, draw), path, legacy=legacy)
        case _:
            _change_pickle(path, draw)


def _save(value: Any, path: Path, *, legacy: bool) -> None:
    if isinstance(value, bytes):
        path.write_bytes(value)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, path, _use_new_zipfile_serialization=not legacy)


def _changed(state: dict[str, torch.Tensor], draw: Random) -> Any:
    for _ in range(draw.choice((1, 1, 2))):
        name = draw.choice(list(state))
        match draw.randrange(6):
            case 0:
                del state[name]
            case 1:
                state[draw.choice((odd_text(draw), 5, None, ("a",), 1.5))] = state.pop(name)  # pyright: ignore[reportArgumentType]
            case _:
                state[name] = _odd_tensor(state[name], draw)
    whole = (
        state,
        OrderedDict(state),
        {"state_dict": state},
        [state],
        {"model": state, "step": 3},
        None,
        torch.ones(3),
    )
    return draw.choice(whole) if draw.random() < 0.1 else state


def _odd_tensor(t: torch.Tensor, draw: Random) -> Any:
    flat, odd = t.reshape(-1), [torch.nan, torch.inf, 3e38]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return draw.choice(
            (
                lambda: t.to("meta"),
                lambda: torch.nn.Parameter(t.to("meta")),
                t.to_sparse,
                lambda: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
                lambda: torch.nested.nested_tensor([flat, flat[:1]]),
                lambda: torch.nested.nested_tensor([flat, flat[:1]], layout=torch.jagged),
                lambda: torch._neg_view(t),  # pyright: ignore[reportPrivateImportUsage]
                lambda: torch.complex(t, t).imag,
                lambda: torch.complex(t, t).conj(),
                lambda: torch.complex(t, t).conj().imag,
                t.double,
                lambda: t.to(draw.choice((torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.float8_e4m3fn))),
                lambda: flat[0].expand(t.shape),
                lambda: torch.nn.Parameter(t),
                lambda: flat[:1],
                lambda: t.new_empty(0),
                lambda: t[None],
                lambda: t.mT if t.dim() > 1 else flat.flip(0),
                lambda: t.reshape(-1).repeat(2)[::2].reshape(t.shape),
                lambda: torch.where(torch.arange(flat.numel()) == 0, draw.choice(odd), flat).reshape(t.shape),
                t.tolist,
                _Evil,
                lambda: bytearray(9),
                lambda: torch.Size([1, 2]),
                lambda: torch.float32,
            )
        )()


def _bomb(draw: Random) -> bytes:
    """A small pickle that asks for gigabytes, nests without end, or claims lengths that are not there."""
    size = draw.choice((6_000_000_000, 2**40, 2**31 - 1, 1_000_000_000))
    count = b"\x8a\x08" + struct.pack("<q", size)
    bodies = (
        b"\x80\x02c__builtin__\nbytearray\n" + count + b"\x85R.",
        b"\x80\x04\x8c\x08builtins\x8c\tbytearray\x93" + count + b"\x85R.",
        b"\x80\x05\x96" + struct.pack("<Q", size) + b"abc.",
        b"\x80\x04\x8e" + struct.pack("<Q", size) + b"abc.",
        b"\x80\x04\x8d" + struct.pack("<Q", size) + b"abc.",
        b"\x80\x02" + b"(" * 5000 + b"t" * 5000 + b".",
        b"\x80\x02" + b"]" + b"]a" * 5000 + b".",
        b"\x80\x02}r" + struct.pack("<I", 2**31) + b".",
        pickle.dumps({"a": _Evil()}, 2),
        pickle.dumps([0] * 5, 2),
    )
    body, out = draw.choice(bodies), io.BytesIO()
    if draw.random() < 0.3:
        return body
    with zipfile.ZipFile(out, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as made:
        made.writestr("archive/data.pkl", body)
        made.writestr("archive/version", "3\n")
        if draw.random() < 0.3:
            made.writestr("archive/data/0", b"\0" * draw.choice((4, 50_000_000)))
    return out.getvalue()


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def _write_members(path: Path, members: dict[str, bytes], kind: int) -> None:
    with zipfile.ZipFile(path, "w", kind) as made:
        for name, raw in members.items():
            made.writestr(name, raw)


def _change_members(path: Path, draw: Random) -> None:
    members = _members(path)
    for _ in range(draw.choice((1, 1, 2))):
        name = draw.choice(list(members))
        match draw.randrange(4):
            case 0:
                del members[name]
            case 1:
                members[odd_text(draw).replace("\0", "") or "x"] = members.pop(name)
            case 2:
                other = draw.choice(list(members))
                members[name], members[other] = members[other], members[name]
            case _:
                members[name] = mangled(members[name], draw)
        if not members:
            break
    _write_members(path, members, draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def _change_pickle(path: Path, draw: Random) -> None:
    """Damage the pickle alone, so that the file around it stays good."""
    if not zipfile.is_zipfile(path):
        path.write_bytes(mangled(path.read_bytes()[:400], draw) + path.read_bytes()[400:])
        return
    members = _members(path)
    name = next(name for name in members if name.endswith("data.pkl"))
    raw = members[name]
    if draw.random() < 0.4:
        old = draw.choice((b"FloatStorage", b"cpu", b"torch._utils", b"_rebuild_tensor_v2", b"collections", b"storage"))
        new = draw.choice(
            (
                b"HalfStorage",
                b"LongStorage",
                b"meta",
                b"cuda",
                b"os",
                b"system",
                b"_rebuild_meta_tensor_no_storage",
                b"_rebuild_parameter",
                b"builtins",
                b"UntypedStorage",
                b"QInt8Storage",
            )
        )
        members[name] = raw.replace(old, new, draw.choice((1, -1)))
    else:
        members[name] = mangled(raw, draw)
    _write_members(path, members, zipfile.ZIP_STORED)


def _change_shards(folder: Path, draw: Random) -> None:
    if draw.random() < 0.2:
        change_json(folder / "pytorch_model.bin.index.json", draw, words=("weight_map",))
        return
    change_pickled(draw.choice(sorted(folder.glob("*-of-*.bin"))), draw)


KINDS = (
    Kind(
        "bin",
        lambda folder: _write_bin(folder, legacy=False),
        lambda folder, draw: change_pickled(folder / "pytorch_model.bin", draw),
        use_weights,
    ),
    Kind(
        "bin_legacy",
        lambda folder: _write_bin(folder, legacy=True),
        lambda folder, draw: change_pickled(folder / "pytorch_model.bin", draw, legacy=True),
        use_weights,
    ),
    Kind("bin_shards", _write_shards, _change_shards, use_weights),
)
