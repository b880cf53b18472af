"""Check what unpickling a `.bin` file would do, by reading its operations before torch loads it.

torch.load(weights_only=True) runs no foreign code, but it trusts every number: with one call of bytearray, one storage
declared to be large, or one compressed member, a file of a kilobyte takes gigabytes. This check only builds names,
whole numbers and tuples of them.
"""

import mmap
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

_REBUILDS = "torch._utils _rebuild_"
_FROM_TYPE = "torch._tensor _rebuild_from_type_v2"  # calls its first argument
_QUANTIZED = "torch._utils _rebuild_qtensor"  # allocates the size in its third argument
_HARMLESS = (
    "collections OrderedDict",
    "torch.serialization _get_layout",
    "torch Size",
    "torch device",
    "torch.nn.parameter Parameter",
    "_codecs encode",
    "builtins set",
    "__builtin__ set",
    "builtins complex",
    "__builtin__ complex",
)
_FROM_TYPE_TAKES = 4
_LEGACY_PICKLES = 5  # a magic number, the protocol, the machine, the tensors, the keys of their storages


class Unsafe(Exception):
    """Loading the file would do something that no weight file needs; the message says what."""


@dataclass(frozen=True, slots=True)
class _Named:
    """The name of a global, which is not looked up."""

    name: str


def check_pickles(path: Path, *, zipped: bool) -> None:
    """Check the pickle operations of a file written by torch.save.

    Raises:
        Unsafe: the file calls functions that build no tensor, or claims more bytes than it has.
        ValueError, zipfile.BadZipFile and similar: the file is damaged.
    """
    size = path.stat().st_size
    if zipped:
        _Machine(size).run(_data(path, size))
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for _ in range(_LEGACY_PICKLES):
            if mapped.tell() == size:  # the file is a single pickle
                return
            _Machine(size).run(mapped)


def _data(path: Path, size: int) -> bytes:
    """Return the pickle of a zip file; its members must be uncompressed and not larger than the file."""
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        names = [member.filename for member in members]
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise Unsafe("it has compressed members, which torch.save does not write")
        if sum(member.file_size for member in members) > size or len(set(names)) < len(names):
            raise Unsafe("its members are larger than the file, or occur twice")
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise Unsafe(f"it has {len(pickles)} members data.pkl, expected one")
        return file.read(pickles[0])


class _Machine:
    """A pickle machine that only tracks which functions are called with which arguments."""

    def __init__(self, file_bytes: int) -> None:
        self._file_bytes = file_bytes
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickle: Any) -> None:
        """Check the operations of one pickle."""
        try:
            for operation, argument, _ in pickletools.genops(pickle):
                self._step(operation.name, argument)
        except IndexError:
            raise Unsafe("its pickle pops from an empty stack") from None

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "GLOBAL":
                stack.append(_Named(argument))
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE" | "INT" | "LONG":
                stack.append(argument)
            case "TUPLE":
                self._stack = [*self._marks.pop(), tuple(stack)]
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                self._marks.append(stack)
                self._stack = []
            case "REDUCE" | "NEWOBJ":
                arguments, called = stack.pop(), stack.pop()
                self._called(called, arguments)
                stack.append(None)
            case "BINPERSID":
                self._stored(stack.pop())
                stack.append(None)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo.get(argument))
            case _:
                self._simple(name)

    def _simple(self, name: str) -> None:
        """Track the stack for operations whose result does not matter here."""
        match name:
            case "APPENDS" | "SETITEMS":
                self._stack = self._marks.pop()
            case "APPEND" | "BUILD":
                self._stack.pop()
            case "SETITEM":
                del self._stack[-2:]
            case "PROTO" | "STOP" | "FRAME" | "MEMOIZE":
                pass
            case _:
                self._stack.append(None)

    def _called(self, called: Any, arguments: Any) -> None:
        name = called.name if isinstance(called, _Named) else "something without a name"
        args = _entries(arguments)
        if name == _FROM_TYPE:
            if len(args) < _FROM_TYPE_TAKES:
                raise Unsafe(f"it calls {name} with too few arguments")
            self._called(args[0], args[2])
        elif name == _QUANTIZED and len(args) > 2:
            self._require(args[2])
        elif not name.startswith(_REBUILDS) and name not in _HARMLESS:
            raise Unsafe(f"it calls {name.replace(' ', '.')}")

    def _stored(self, key: Any) -> None:
        """Check the persistent id of a storage: its kind, its location, and its number of elements."""
        match _entries(key):
            case ["storage", _, _, _, int(count), *_]:
                self._require((count,))
            case _:
                raise Unsafe("it refers to something that is not a storage")

    def _require(self, sizes: Any) -> None:
        """Raise unless this many elements fit into the file, at a byte or more each."""
        count = 1
        for size in _entries(sizes):
            if not isinstance(size, int) or size < 0:
                raise Unsafe("it has a tensor whose size is not a number")
            count *= size
        if not 0 <= count <= self._file_bytes:
            raise Unsafe(f"it claims {count:,} numbers, and has {self._file_bytes:,} bytes")


def _entries(value: Any) -> list[Any]:
    """Return the entries of a tuple; [] for anything else, whose contents are not tracked."""
    return list(cast(tuple[Any, ...], value)) if isinstance(value, tuple) else []
