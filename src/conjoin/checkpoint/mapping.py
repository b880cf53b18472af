"""Read-only memory maps that need no file descriptor and are unmapped with the last array that views them."""

import ctypes
import errno
import mmap
import os
import weakref
from functools import cache
from pathlib import Path

from conjoin.errors import FileError

_MAP_FAILED = ctypes.c_void_p(-1).value
_MADV_PAGEOUT = 21  # Linux 5.4: drop clean pages, swap dirty ones; never destroys data


def map_bytes(fd: int, start: int, length: int, *, file: Path) -> memoryview:
    """Map bytes of an open file, read-only.

    Until 3.13 (`trackfd`), Python's own mmap duplicates the descriptor for every map, and a caller who keeps all
    tensors of a large model hits the usual limit of 1024 open files. So libc is called where there is one.

    Args:
        length: At least 1.
    Returns:
        A view; the map is removed when the view and everything built on it are gone.
    """
    skipped = start % mmap.ALLOCATIONGRANULARITY
    if os.name != "posix":
        whole = mmap.mmap(fd, length + skipped, access=mmap.ACCESS_READ, offset=start - skipped)
        return memoryview(whole)[skipped:]
    libc = _libc()
    address = libc.mmap(None, length + skipped, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, start - skipped)
    if address in (None, _MAP_FAILED):
        code = ctypes.get_errno()
        raise FileError(f"{file}: cannot map {length} bytes at {start}: {os.strerror(code)} ({errno.errorcode[code]}).")
    window = (ctypes.c_ubyte * length).from_address(address + skipped)
    weakref.finalize(window, libc.munmap, address, length + skipped).atexit = False
    return memoryview(window).cast("B").toreadonly()


def borrow_bytes(address: int, length: int, *, owner: object) -> memoryview:
    """Return a read-only view of memory that `owner` keeps mapped; when the view dies, its pages leave memory."""
    window = (ctypes.c_ubyte * length).from_address(address)
    weakref.finalize(window, _page_out, address, length, owner).atexit = False
    return memoryview(window).cast("B").toreadonly()


def _page_out(address: int, length: int, owner: object) -> None:
    """Advise the kernel to drop the pages. Best effort: an older kernel keeps them, and nothing else changes."""
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    whole_pages = (address + length - first) // mmap.PAGESIZE * mmap.PAGESIZE
    if os.name == "posix" and whole_pages > 0:
        _libc().madvise(first, whole_pages, _MADV_PAGEOUT)
    del owner


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
