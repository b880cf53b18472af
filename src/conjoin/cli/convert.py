"""`conjoin convert`: rewrite a checkpoint as the weight file of another framework."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from conjoin.checkpoint import SAFETENSORS, Framework, resolve
from conjoin.cli.options import MaxShardSize
from conjoin.cli.streams import emit


class FrameworkName(StrEnum):
    """Frameworks whose weight files can be read and written."""

    torch = "torch"
    tensorflow = "tensorflow"
    flax = "flax"


_SHORT: dict[FrameworkName, Framework] = {
    FrameworkName.torch: "pt",
    FrameworkName.tensorflow: "tf",
    FrameworkName.flax: "flax",
}


def convert_folder(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a pair, or of a single model.", show_default=False)],
    to: Annotated[
        FrameworkName, typer.Option("--to", help="Framework whose weight file to write.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Output folder, which gets copies of config and tokenizers; by default the model's folder."),
    ] = None,
    source: Annotated[
        FrameworkName | None,
        typer.Option("--from", help="Framework whose weights to read, if the folder has several."),
    ] = None,
    safetensors: Annotated[
        bool, typer.Option("--safetensors", help="Write model.safetensors, with the framework's tensor names.")
    ] = False,
    max_shard_size: MaxShardSize = "5GB",
) -> None:
    """Convert a checkpoint to PyTorch, TensorFlow or Flax weights. Needs none of the three frameworks."""
    from conjoin.join import convert_checkpoint

    framework = _SHORT[source] if source else None
    folder = resolve(model, framework=framework)
    if out is None and folder != Path(model).expanduser():
        raise typer.BadParameter(f"{model} is not a local folder: give an output folder.", param_hint="--out")
    written = convert_checkpoint(
        folder,
        _SHORT[to],
        out=out,
        source=framework,
        form=SAFETENSORS if safetensors else None,
        max_shard_size=max_shard_size,
    )
    for name in written:
        emit(str((out or folder) / name))
