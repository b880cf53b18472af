"""Weights lie in large pages, side by side, each in storage of its own; what training frees is kept until it ends."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conjoin import EncoderDecoderModel
from conjoin.torch.cpu import pages
from conjoin.torch.cpu.pages import KeptMemory, weight_memory
from generate_models import models, sources


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_memory_is_of_that_shape_and_may_be_written(dtype: torch.dtype) -> None:
    for shape in ((3, 5), (700, 513)):
        made = weight_memory(shape, dtype)
        assert made.shape == shape and made.dtype == dtype and made.is_contiguous()
        assert made.untyped_storage().nbytes() == made.numel() * dtype.itemsize
        made.fill_(3)
        assert (made == 3).all()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux where memory lies")
def test_large_tensors_lie_in_memory_that_asked_for_large_pages() -> None:
    made = [weight_memory((768, 768), torch.float32) for _ in range(4)]
    assert all("hg" in _flags(tensor.data_ptr()) for tensor in made)
    first = made[0].data_ptr()
    del made[1:]
    assert "hg" in _flags(first) and made[0].zero_().sum() == 0


def test_a_loaded_model_outlives_what_it_was_loaded_with_and_is_saved_whole(tmp_path: Path) -> None:
    theirs = models("bart")[0]
    theirs.save_pretrained(tmp_path / "first")
    ours = EncoderDecoderModel.from_pretrained(tmp_path / "first")
    ids, mask = sources("bart")
    expected = theirs.generate(ids, attention_mask=mask, max_new_tokens=8)
    ours.save_pretrained(tmp_path / "second")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "second")
    torch.save(ours.state_dict(), tmp_path / "state.pt")
    del ours
    again.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert again.generate(ids, attention_mask=mask, max_new_tokens=8).equal(expected)
    words = again.decoder.embed.words.weight
    assert words.untyped_storage().nbytes() == words.numel() * 4


def _flags(address: int) -> list[str]:
    """VmFlags of the mapping that an address lies in (proc(5))."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head, _, rest = line.partition(" ")
        if "-" in head and ":" not in head:
            first, last = (int(part, 16) for part in head.split("-"))
            inside = first <= address < last
        elif inside and head == "VmFlags:":
            return rest.split()
    raise AssertionError(f"{address:x} is in no mapping")


KEEPING = """
import resource, torch
from conjoin.torch.cpu.pages import KeptMemory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(50_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

counts = [faults(), faults()]
memory = KeptMemory()
counts += [sum(faults() for _ in range(8))]
memory.give_back()
counts += [faults(), faults()]
print(*counts)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is another's")
def test_memory_that_training_frees_is_kept_until_it_ends() -> None:
    told = subprocess.run([sys.executable, "-c", KEEPING], capture_output=True, text=True, check=True)
    once, again, eight_times, after, at_last = (int(count) for count in told.stdout.split())
    least = 48_000  # pages of 4 KB under 200 MB
    assert min(once, again, after, at_last) > least
    # The first is new, and so is the second where something small has taken a corner of the first one's place.
    assert least < eight_times < 3 * least


HOLES = """
import torch
from conjoin.torch.cpu.pages import KeptMemory, resident_bytes

first = KeptMemory()
blocks = [torch.ones(250_000) for _ in range(400)]
full = resident_bytes()
del blocks[::2]
kept = resident_bytes()
first.give_back()
print(full - kept, full - resident_bytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is another's")
def test_memory_is_given_back_from_holes_too() -> None:
    told = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    at_once, in_the_end = (int(number) for number in told.stdout.split())
    assert at_once < 20_000_000
    assert in_the_end > 150_000_000


def test_memory_that_is_kept_stays_near_what_was_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"resident": 300, "in use": 100, "handed back": 0}

    def hand_back() -> None:
        now["handed back"] += 1
        now["resident"] = 200 + now["in use"]

    monkeypatch.setattr(pages, "resident_bytes", lambda: now["resident"])
    monkeypatch.setattr(pages, "in_use_bytes", lambda: now["in use"])
    monkeypatch.setattr(pages, "_trim", hand_back)
    monkeypatch.setattr(pages, "_set_malloc", lambda values: None)
    memory = KeptMemory()  # 200 are others'
    now |= {"in use": 1000, "resident": 1250}
    memory.look()
    for in_use, resident, times in ((100, 1590, 1), (100, 1610, 2), (100, 300, 2), (1200, 1870, 2), (100, 1890, 3)):
        now |= {"in use": in_use, "resident": resident}
        memory.limit()
        assert now["handed back"] == times
