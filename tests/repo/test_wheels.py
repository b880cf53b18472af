"""Wheels carry compiled kernels, which run where no compiler is. `make wheels` installs what builds them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from conjoin.native.levels import levels_of

pytest.importorskip("hatchling", reason="hatchling is not installed; `make wheels` installs it")

ROOT = Path(__file__).parents[2]
LINUX = "manylinux_2_28_x86_64"
# Counts the kernels that are called, generates and trains.
WORK = """
import ctypes, os, sys
names = set()
find = ctypes.CDLL.__getitem__
ctypes.CDLL.__getitem__ = lambda library, name: names.add(name) or find(library, name)

import torch
import conjoin
from conjoin.torch.cpu.native.library import library

assert conjoin.__file__.startswith(sys.argv[1]), conjoin.__file__
assert library()._name.startswith(os.path.join(sys.argv[1], "conjoin", "native", "lib")), library()._name
sizes = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, vocab_size=61)
halves = [conjoin.BertConfig(**sizes) for _ in range(2)]
ids = dict(decoder_start_token_id=2, pad_token_id=0, eos_token_id=3)
model = conjoin.EncoderDecoderModel(config=conjoin.EncoderDecoderConfig.from_encoder_decoder_configs(*halves, **ids))
source = torch.arange(4, 24).view(2, 10)

model.eval()
words = model.generate(source, num_beams=2, max_new_tokens=8, min_new_tokens=8)
assert words.shape == (2, 9)
decoding = names.copy()
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
losses = []
for _ in range(5):
    loss = model(input_ids=source, labels=source[:, :6]).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses
print(*sorted(decoding), "|", *sorted(names - decoding))
"""


def build(folder: Path, platform: str = "") -> Path:
    """Build a wheel; one without a platform carries no kernels."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "CONJOIN_WHEEL": platform}, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_a_wheel_without_kernels_is_for_any_platform(tmp_path: Path) -> None:
    wheel = build(tmp_path)
    assert wheel.name.endswith("-py3-none-any.whl")
    names = ZipFile(wheel).namelist()
    assert "conjoin/native/kernels.cpp" in names and not [name for name in names if "/native/lib/" in name]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="the wheel is for Linux, x86-64")
def test_a_linux_wheel_generates_and_trains_with_its_kernels_where_no_compiler_is(tmp_path: Path) -> None:
    pytest.importorskip("ziglang", reason="ziglang is not installed; `make wheels` installs it")
    wheel = build(tmp_path / "wheels", LINUX)
    assert wheel.name.endswith(f"-py3-none-{LINUX}.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    ZipFile(wheel).extractall(site)
    libraries = {file.name: file.read_bytes() for file in (site / "conjoin" / "native" / "lib").iterdir()}
    levels = [f"kernels-{level.name}.so" for level in levels_of("x86_64")]
    assert sorted(libraries) == sorted(["cpu-base.so", *levels])
    for code in libraries.values():
        versions = [tuple(map(int, found.split(b"."))) for found in re.findall(rb"GLIBC_([0-9.]+)", code)]
        assert max(versions, default=(0,)) <= (2, 28)
        assert not re.search(rb"lib(gomp|omp|iomp5|stdc\+\+|c\+\+)\.so", code)

    cache = tmp_path / "cache"
    environment = {"PATH": str(empty), "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(cache), "HOME": str(empty)}
    command = [sys.executable, "-c", WORK, str(site)]
    done = subprocess.run(command, check=False, cwd=empty, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    decoding, training = done.stdout.split("|")
    assert "conjoin_decode_f32" in decoding or "conjoin_pass_f32" in decoding
    assert {"conjoin_train_f32", "conjoin_train_backward_f32"} <= set(training.split())
    assert not list(cache.rglob("*.so"))
