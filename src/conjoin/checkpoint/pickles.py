"""What a `.bin` file would do to whoever unpickles it, found by reading its operations, before torch is let at it.

torch.load(weights_only=True) runs no foreign code, but it trusts every number: one call of bytearray, one storage said
to be large, one compressed member, and a file of a kilobyte takes gigabytes. Nothing is built here but names, whole
numbers and tuples of them.
"""

import mmap
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

_REBUILDS = "torch._utils _rebuild_"
_FROM_TYPE = "torch._tensor _rebuild_from_type_v2"  # calls what its first argument is
_QUANTIZED = "torch._utils _rebuild_qtensor"  # allocates the size that its third argument is
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
    """The file does what no file of weights does; the text says what."""


@dataclass(frozen=True, slots=True)
class _Named:
    """A global that is not looked up."""

    name: str


def check_pickles(path: Path, *, zipped: bool) -> None:
    """Read the operations of a file of torch.save's.

    Raises:
        Unsafe: it calls what builds no tensor, or claims more bytes than it has.
        ValueError, zipfile.BadZipFile and their like: it is damaged.
    """
    size = path.stat().st_size
    if zipped:
        _Machine(size).run(_data(path, size))
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for _ in range(_LEGACY_PICKLES):
            if mapped.tell() == size:  # one pickle alone
                return
            _Machine(size).run(mapped)


def _data(path: Path, size: int) -> bytes:
    """The pickle of a zip file, whose members lie in it as they are and fit."""
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        names = [member.filename for member in members]
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise Unsafe("it has compressed members, which torch.save does not write")
        if sum(member.file_size for member in members) > size or len(set(names)) < len(names):
            raise Unsafe("its members are larger than the file, or lie in it twice")
        found = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(found) != 1:
            raise Unsafe(f"it has {len(found)} members data.pkl, expected one")
        return file.read(found[0])


class _Machine:
    """Follows a pickle as far as it must to know what is called with what."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickle: Any) -> None:
        """Read up to the end of one pickle."""
        try:
            for operation, argument, _ in pickletools.genops(pickle):
                self._step(operation.name, argument)
        except IndexError:
            raise Unsafe("its pickle takes more from its stack than lies there") from None

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
        """Operations whose outcome does not matter here: what they take off the stack, and whether they leave one."""
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
        given = _entries(arguments)
        if name == _FROM_TYPE:
            if len(given) < _FROM_TYPE_TAKES:
                raise Unsafe(f"it calls {name} with other things than it takes")
            self._called(given[0], given[2])
        elif name == _QUANTIZED and len(given) > 2:
            self._require(given[2])
        elif not name.startswith(_REBUILDS) and name not in _HARMLESS:
            raise Unsafe(f"it calls {name.replace(' ', '.')}")

    def _stored(self, key: Any) -> None:
        """A storage: its kind, its place, and how many numbers it has."""
        match _entries(key):
            case ["storage", _, _, _, int(count), *_]:
                self._require((count,))
            case _:
                raise Unsafe("it refers to something that is no storage")

    def _require(self, sizes: Any) -> None:
        """A number takes a byte at least."""
        count = 1
        for size in _entries(sizes):
            if not isinstance(size, int) or size < 0:
                raise Unsafe("it has a tensor whose size is no number")
            count *= size
        if not 0 <= count <= self._most:
            raise Unsafe(f"it claims {count:,} numbers, and has {self._most:,} bytes")


def _entries(value: Any) -> list[Any]:
    """What a tuple holds; of anything else, nothing is known."""
    return list(cast(tuple[Any, ...], value)) if isinstance(value, tuple) else []
