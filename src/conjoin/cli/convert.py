"""`conjoin convert`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from conjoin.checkpoint import SAFETENSORS, Framework, resolve
from conjoin.cli._streams import emit


class FrameworkName(StrEnum):
    """Whose files."""

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
    to: Annotated[FrameworkName, typer.Option("--to", help="Whose weight file to write.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write, with config and tokenizers. Beside what is there by default.")
    ] = None,
    source: Annotated[
        FrameworkName | None, typer.Option("--from", help="Read the weights of this framework, if there are several.")
    ] = None,
    safetensors: Annotated[
        bool, typer.Option("--safetensors", help="Write model.safetensors in the framework's own names.")
    ] = False,
    max_shard_size: Annotated[str, typer.Option(help="Largest file; larger models come in shards.")] = "5GB",
) -> None:
    """Write a checkpoint's weights as PyTorch's, TensorFlow's or Flax's classes do; takes none of the frameworks."""
    from conjoin.join import convert_checkpoint

    framework = _SHORT[source] if source else None
    folder = resolve(model, framework=framework)
    if out is None and folder != Path(model).expanduser():
        raise typer.BadParameter(f"{model} is not a folder of yours: say where to write.", param_hint="--out")
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
