"""Weights lie in large pages, side by side, each in storage of its own; what training frees is kept until it ends."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conjoin import EncoderDecoderModel
from conjoin.torch.pages import weight_memory
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
from conjoin.torch.pages import KeptMemory

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


GROWING = """
import sys, torch
from conjoin.torch.pages import KeptMemory, in_use_bytes, resident_bytes

memory = KeptMemory()
others, held, most, in_use = resident_bytes() - in_use_bytes(), [], 0, 0
for step in range(40):
    # What stays lies behind what is freed, so the next step's tensor, a little larger, does not fit there.
    freed = torch.ones((10 + step) * 250_000)
    held.append(torch.ones(100_000))
    memory.look()
    in_use = max(in_use, in_use_bytes())
    del freed
    if sys.argv[1] == "limited":
        memory.limit()
    most = max(most, resident_bytes() - others)
print(most / in_use)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is another's")
def test_memory_that_is_kept_stays_near_what_was_in_use() -> None:
    limited, unlimited = (
        float(subprocess.run([sys.executable, "-c", GROWING, how], capture_output=True, text=True, check=True).stdout)
        for how in ("limited", "unlimited")
    )
    assert limited < 1.5
    assert unlimited > 3
