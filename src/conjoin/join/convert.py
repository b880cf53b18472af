"""Convert a checkpoint to the files of another framework, without importing any framework."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from conjoin.checkpoint import (
    FRAMEWORKS,
    H5,
    TARGET_FOLDER,
    Checkpoint,
    Form,
    Framework,
    Staging,
    Tensor,
    is_weight_file,
    open_checkpoint,
    own_form,
    parse_size,
    refuse_adapter,
    replacing_folder,
    write_dialect,
    writers_replaced,
)
from conjoin.configuration import AutoConfig
from conjoin.errors import ConfigError, FileError, warn
from conjoin.join.names import dialect, left_out


def convert_checkpoint(
    folder: Path,
    framework: Framework,
    *,
    out: Path | None = None,
    source: Framework | None = None,
    form: Form | None = None,
    max_shard_size: int | str = "5GB",
) -> list[str]:
    """Write the weights of a pair, or of a single model, as transformers' class for a framework does.

    Tensors that conjoin does not use (poolers, classifiers) are written too.

    Args:
        out: Output folder, which gets copies of the config and the tokenizers; by default the checkpoint's folder. Only
            weights of the same framework are ever replaced.
        source: Load the weights that this framework wrote, if the folder has several.
        form: File format; the framework's own by default.

    Returns:
        Names of the files written; the index last if there is one.

    Raises:
        FileError, WeightError, ConfigError: the checkpoint is missing or unusable, or is quantised and the framework is
            not PyTorch; or the file would replace another framework's weights.
        MissingBackend: TensorFlow's .h5 files need h5py.
    """
    refuse_adapter(folder)
    config, form = AutoConfig.from_pretrained(folder), form or own_form(framework)
    if framework != "pt" and getattr(config, "quantization_config", None):
        raise ConfigError(
            f"{folder} is quantised; {FRAMEWORKS[framework]}'s classes have no names for its weights.",
            hint="convert the float model that it was made from.",
        )
    _protect_other_weights(out or folder, framework, form)
    with open_checkpoint(folder, framework=source) as checkpoint, replacing_folder(out or folder) as staging:
        if form == H5 and any(info.dtype == "bfloat16" for info in checkpoint.values()):
            warn("HDF5 has no bfloat16: the weights are written as float32.")
        written = write_dialect(
            staging,
            _tensors(checkpoint, left_out(config, checkpoint)),
            dialect=dialect(framework, config, checkpoint),
            form=form,
            max_shard_bytes=parse_size(max_shard_size),
        )
        if out is not None:
            _copy_other_files(folder, staging)
    return [path.name for path in written]


def _protect_other_weights(folder: Path, framework: Framework, form: Form) -> None:
    """Raise if a file of this form would replace the weights of another framework."""
    replaced = writers_replaced(folder, form).items()
    if others := [f"{FRAMEWORKS[writer]}'s {name}" for name, writer in replaced if writer != framework]:
        own = own_form(framework)
        hint = "" if own == form else f", or write {own.file} beside it: leave --safetensors (form=) out"
        raise FileError(
            f"{folder} holds {' and '.join(others)}, which {FRAMEWORKS[framework]}'s {form.file} would replace.\n"
            "Nothing was changed.",
            hint=f"give another folder with --out (out=){hint}.",
        )


def _tensors(checkpoint: Checkpoint, unwanted: set[str]) -> Iterator[Tensor]:
    """Yield the tensors of a checkpoint, but the unwanted ones."""
    for name, info in checkpoint.items():
        if name not in unwanted:
            yield name, checkpoint.array(name), info.dtype


def _copy_other_files(folder: Path, staging: Staging) -> None:
    """Copy the files that are not weights: config and tokenizers."""
    paths = [path for path in folder.glob("*") if path.is_file() and not is_weight_file(path.name)]
    inner = (f"{TARGET_FOLDER}/*", "additional_chat_templates/*", f"{TARGET_FOLDER}/additional_chat_templates/*")
    paths += [path for pattern in inner for path in folder.glob(pattern) if path.is_file()]
    for path in paths:
        shutil.copyfile(path, staging.path(path.relative_to(folder).as_posix()))
