"""A model's folder, read and written without a framework: tensors one by one, and the files beside them."""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from math import prod
from pathlib import Path

from conjoin.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    TARGET_FOLDER,
    Checkpoint,
    Staging,
    Tensor,
    parse_size,
    read_json,
    replacing_folder,
    resolve,
    write_tensors,
)
from conjoin.configuration import AutoConfig
from conjoin.errors import ConfigError, FileError
from conjoin.families import WRAPPERS, PretrainedConfig
from conjoin.join import require_plain_weights

_COMPANIONS = (
    *("generation_config.json", "*token*.json", "*vocab*", "merges.txt", "*.model", "*.spm", "bpe.codes"),
    *("chat_template.*", "additional_chat_templates/*.jinja"),
)
"""Files that loading reads beside config.json and the weights; others (a run's, a card) are about the old model."""
_REPLACED = (TARGET_FOLDER, ADAPTER_CONFIG, ADAPTER_WEIGHTS)


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a model.

    Args:
        folder: The new model's.
        numbers: Parameters that the files hold, before and after.
        lines: What was kept and what was dropped, for people.
    """

    folder: Path
    numbers: tuple[int, int]
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        before, after = self.numbers
        share = f"{100 * (after - before) / before:+.1f} %" if before else "-"
        return "\n".join([*self.lines, f"parameters: {before:,} -> {after:,} ({share})"])


def open_model(name: str | os.PathLike[str], doing: str) -> tuple[Path, PretrainedConfig]:
    """Return the folder of a model and its config.

    Args:
        doing: What shall be done to it, for errors.

    Raises:
        FileError, ConfigError: there is no such model, its config cannot be read, or it is quantised, has an adapter or
            is the text part of a multimodal one.
    """
    folder = resolve(name)
    config = AutoConfig.from_pretrained(folder)
    require_plain_weights(folder, config, doing)
    if (kind := read_json(folder / "config.json").get("model_type")) in WRAPPERS:
        raise ConfigError(
            f"{folder} holds a multimodal model ({kind}); {doing} works on text models.",
            hint="join its text part first: a saved pair holds that alone.",
        )
    return folder, config


def require_other_folder(out: str | os.PathLike[str], *inputs: Path) -> Path:
    """Return the output's path.

    Raises:
        FileError: it is one of the inputs.
    """
    out = Path(out).expanduser()
    for folder in inputs:
        if out.exists() and out.samefile(folder):
            raise FileError(f"{out} is the model that is read; nothing was changed.", hint="give another folder.")
    return out


def count_numbers(checkpoint: Checkpoint) -> int:
    """Return how many parameters a checkpoint holds."""
    return sum(prod(info.shape) for info in checkpoint.values())


def write_model(
    out: Path,
    config: PretrainedConfig,
    tensors: Iterable[Tensor],
    *,
    beside: Callable[[Staging], object],
    max_shard_size: int | str = "5GB",
) -> None:
    """Write a model's folder, atomically. Companions of an older model there are removed, other files are kept.

    Args:
        beside: Writes the files that loading reads beside config.json and the weights.
    """
    with replacing_folder(out) as staging:
        for name in staging.names():
            if name in _REPLACED or any(fnmatch(name, pattern) for pattern in _COMPANIONS):
                staging.remove(name)
        write_tensors(staging, tensors, max_shard_bytes=parse_size(max_shard_size))
        beside(staging)
        staging.path("config.json").write_text(config.to_json_string(), encoding="utf-8")


def copy_companions(folder: Path, staging: Staging) -> None:
    """Copy the files that loading reads beside config.json and the weights: tokenizers and generation settings."""
    for directory in (folder, folder / TARGET_FOLDER):
        for path in sorted({path for pattern in _COMPANIONS for path in directory.glob(pattern)}):
            if path.is_file():
                shutil.copyfile(path, staging.path(path.relative_to(folder).as_posix()))
