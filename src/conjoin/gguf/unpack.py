"""A GGUF file as an ordinary folder: config.json and tokenizer files, and a link to the file for its tensors."""

import atexit
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path

from conjoin.gguf.architectures import config_of
from conjoin.gguf.header import read_header
from conjoin.gguf.tokenizer import tokenizer_files

WEIGHTS = "model.gguf"
"""Name of the link, under which `open_checkpoint` finds it."""
_folders: dict[tuple[str, int, int], Path] = {}
_lock = threading.Lock()


def unpacked(file: Path) -> Path:
    """Return the folder of a GGUF file, which this process makes once and removes at its end.

    Raises:
        FileError, WeightError, ConfigError, TokenizerError: the file is damaged, or its model is not supported.
    """
    file = file.resolve()
    state = file.stat()
    key = (str(file), state.st_mtime_ns, state.st_size)
    with _lock:
        if key not in _folders or not _folders[key].is_dir():
            _folders[key] = _unpack(file)
        return _folders[key]


def _unpack(file: Path) -> Path:
    header = read_header(file)
    texts = {
        name: json.dumps(document, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)
        for name, document in {"config.json": config_of(header), **tokenizer_files(header)}.items()
    }
    folder = Path(tempfile.mkdtemp(prefix="conjoin-gguf-"))
    atexit.register(_remove, folder, os.getpid())
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    _link(file, folder / WEIGHTS)
    return folder


def _link(file: Path, link: Path) -> None:
    try:
        link.symlink_to(file)
    except OSError:  # Windows allows symbolic links to administrators only
        try:
            link.hardlink_to(file)
        except OSError:
            shutil.copyfile(file, link)


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
