"""Open a checkpoint folder and read its tensors one at a time, memory-mapped, each checked against its header.

Read `open_checkpoint` first. Files stay open as long as the checkpoint, so a save that replaces the folder meanwhile
cannot mix its tensors with ours.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint import exchange
from conjoin.checkpoint.bins import BinFile
from conjoin.checkpoint.dialects import FRAMEWORKS, Framework, torch_names
from conjoin.checkpoint.dtypes import BY_NAME, nonfinite
from conjoin.checkpoint.files import reading, require_file
from conjoin.checkpoint.forms import Form, expected_files, replaces, search_order
from conjoin.checkpoint.ggufs import GgufFile
from conjoin.checkpoint.hdf5 import H5File
from conjoin.checkpoint.header import BadHeader, Header, TensorInfo, read_header
from conjoin.checkpoint.index import Index, read_index
from conjoin.checkpoint.mapping import map_bytes
from conjoin.checkpoint.msgpacks import MsgpackFile
from conjoin.checkpoint.parts import Part, Translated
from conjoin.errors import FileError, WeightError, listing


class SafetensorsFile:
    """One open safetensors file.

    Raises:
        BadHeader: with every problem of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = _opened(path)
        try:
            self._header: Header = read_header(self._fd, path)
        except BaseException:
            self.close()
            raise

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """The tensors of the file."""
        return {name: span.info for name, span in self._header.spans.items()}

    @property
    def metadata(self) -> dict[str, str]:
        """The file's `__metadata__`."""
        return self._header.metadata

    def array(self, name: str) -> NDArray[Any]:
        """Map one tensor."""
        span = self._header.spans[name]
        dtype = np.dtype(BY_NAME[span.info.dtype].storage)
        if span.length == 0:
            return _frozen(np.empty(span.info.shape, dtype))
        view = map_bytes(self._fd, span.start, span.length, file=self.path)
        array = np.frombuffer(view, dtype).reshape(span.info.shape)
        return array if array.flags.aligned else _frozen(array.copy())

    def close(self) -> None:
        """Close the file; arrays returned before remain valid."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Checkpoint(Mapping[str, TensorInfo]):
    """The tensors of a checkpoint: a mapping of names to shapes and dtypes, and `array` for the numbers.

    Names and layouts are PyTorch's, whichever framework wrote the files. Use it as a context manager; arrays remain
    valid after it is closed.

    Args:
        folder: The checkpoint's folder.
        files: The files that hold tensors, in order.
        metadata: The metadata of the files, merged.
    """

    def __init__(self, folder: Path, parts: Sequence[Part]) -> None:
        self.folder = folder
        self.files = tuple(part.path for part in parts)
        self.metadata = {key: value for part in parts for key, value in part.metadata.items()}
        self._parts = parts
        self._closed = False
        self._where = {name: part for part in parts for name in part.infos}
        self._infos = {name: part.infos[name] for name, part in self._where.items()}

    @property
    def format(self) -> Framework:
        """The framework that wrote the files."""
        return _framework(self._parts)

    def __getitem__(self, name: str) -> TensorInfo:
        return self._infos[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def names(self) -> list[str]:
        """Return the tensors' names, file by file in the order of the header."""
        return list(self._infos)

    def array(self, name: str) -> NDArray[Any]:
        """Map one tensor, read-only.

        Bytes are read on access and leave memory with the last view of the array, so copying tensor by tensor needs
        memory for the copy and one tensor only. bfloat16 is returned as uint16 bits and 8-bit floats as uint8 bits;
        `self[name].dtype` is their true dtype.

        Raises:
            WeightError: there is no tensor of that name.
            FileError: the checkpoint is closed.
        """
        if self._closed:
            raise FileError(f"{self.folder}: the checkpoint is closed; read arrays inside its `with`.")
        if name not in self._where:
            raise WeightError(f"{self.folder}: no tensor {name!r} in the checkpoint.")
        return self._where[name].array(name)

    def close(self) -> None:
        """Close the files."""
        self._closed = True
        for part in self._parts:
            part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_checkpoint(
    folder: str | os.PathLike[str], *, variant: str | None = None, framework: Framework | None = None
) -> Checkpoint:
    """Open the weights of a folder, or one weight file.

    Searches for model.safetensors (of any framework), pytorch_model.bin, tf_model.h5 and flax_model.msgpack in this
    order, each as a single file or in shards.

    Args:
        variant: As in `model.fp16.safetensors`.
        framework: Open only weights that this framework wrote; its own kind of file before a safetensors file.
    Raises:
        FileError: the folder does not exist or has no such weights.
        WeightError: files are truncated, inconsistent or unreadable; all problems of one kind at once.
        MissingBackend: the package that reads this kind of file is not installed.
    """
    folder = Path(folder)
    with reading(folder):
        return _opened_folder(folder, variant, framework)


def _opened_folder(folder: Path, variant: str | None, framework: Framework | None) -> Checkpoint:
    exchange.repair(folder)
    if folder.is_file():
        return _opened_parts(folder.parent, [folder])
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder.")
    others: list[str] = []
    for form in search_order(framework):
        if (path := form.find(folder, variant)) is None:
            continue
        checkpoint = _opened_weights(folder, path)
        if framework in (None, checkpoint.format):
            return checkpoint
        checkpoint.close()
        others.append(f"{path.name} is {FRAMEWORKS[checkpoint.format]}'s")
    raise _no_weights(folder, variant, framework, others)


def writers_replaced(folder: str | os.PathLike[str], form: Form) -> dict[str, Framework]:
    """Return the weight files (or index) that a file of this form would replace in a folder, and their frameworks.

    Raises:
        WeightError: such files are damaged.
    """
    writers: dict[str, Framework] = {}
    for replaced in replaces(form):
        if (path := replaced.find(Path(folder), None)) is None:
            continue
        writers[path.name] = replaced.frameworks[0]
        if len(replaced.frameworks) > 1:
            with _opened_weights(Path(folder), path) as checkpoint:
                writers[path.name] = checkpoint.format
    return writers


def check_finite(checkpoint: Checkpoint, names: Iterable[str] | None = None) -> None:
    """Check all tensors, or those in `names`, for NaN and infinite numbers.

    Raises:
        WeightError: some tensors have such numbers; names them, with the counts.
    """
    problems: list[str] = []
    for name in checkpoint.names() if names is None else names:
        array = checkpoint.array(name)
        if count := nonfinite(array, checkpoint[name].dtype):
            problems.append(f"{name}: {count} of {array.size}")
    if problems:
        raise WeightError(
            f"{checkpoint.folder}: these tensors hold NaN or infinite numbers:\n{listing(problems)}",
            hint="the training that wrote them diverged, or the file is damaged; use an earlier checkpoint",
        )


def _opened_weights(folder: Path, path: Path) -> Checkpoint:
    """Open a single file, or the shards of an index."""
    index = read_index(path) if path.suffix == ".json" else None
    return _opened_parts(folder, index.files if index else [path], index)


def _opened_parts(folder: Path, paths: list[Path], index: Index | None = None) -> Checkpoint:
    with contextlib.ExitStack() as on_error:
        parts: list[Part] = []
        problems: list[str] = []
        for path in paths:
            try:
                part = _opened_part(path)
            except BadHeader as bad:
                problems += bad.problems
                continue
            on_error.callback(part.close)
            parts.append(part)
        if not problems and index is not None:
            shards = {part.path: part.infos for part in parts}
            # Names in TensorFlow's shards lack the model's name, which is in its index.
            problems = index.miscounts(shards) if _framework(parts) == "tf" else index.disagreements(shards)
        if problems:
            raise WeightError(
                f"{folder}: the weight files are damaged or do not belong together.\n{listing(problems)}",
                hint="download or save the checkpoint again",
            )
        checkpoint = Checkpoint(folder, _translated(parts))
        on_error.pop_all()
        return checkpoint


def _opened_part(path: Path) -> Part:
    match path.suffix:
        case ".bin":
            return BinFile(path)
        case ".h5":
            return H5File(path)
        case ".msgpack":
            return MsgpackFile(path)
        case ".gguf":
            return GgufFile(path)
        case _:
            return SafetensorsFile(path)


def _framework(parts: Sequence[Part]) -> Framework:
    formats = {part.metadata.get("format") for part in parts}
    return "tf" if "tf" in formats else "flax" if "flax" in formats else "pt"


def _translated(parts: Sequence[Part]) -> Sequence[Part]:
    framework = _framework(parts)
    if framework == "pt":
        return parts
    names = torch_names([name for part in parts for name in part.infos], framework)
    return [Translated(part, names) for part in parts]


def _opened(path: Path) -> int:
    require_file(path)
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}.") from None


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


def _no_weights(folder: Path, variant: str | None, framework: Framework | None, others: list[str]) -> FileError:
    present = sorted(path.name for path in folder.iterdir() if path.is_file())
    expected = f"model.{variant}.safetensors" if variant else expected_files(framework)
    skipped = f"{', '.join(others)}. " if others else ""
    return FileError(
        f"{folder}: no weights: expected {expected}. {skipped}It holds: {', '.join(present) or 'no files'}.",
        hint=f"leave from_{framework}= (--from) out"
        if others
        else "if this is a part of a hub repository, load it once by its name while online",
    )
