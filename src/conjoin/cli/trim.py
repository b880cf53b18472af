"""`conjoin trim`: a model with the tokens that some texts need."""

import json
from pathlib import Path
from typing import Annotated

import typer

from conjoin.cli.options import AsJson, MaxShardSize, OverwriteModel, SourcePrefix
from conjoin.cli.outputs import claim_folder
from conjoin.cli.streams import emit
from conjoin.cli.talk import say


def trim_model(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder or hub id of a joined model, a whole one (BART, T5) or a single one.", show_default=False
        ),
    ],
    texts: Annotated[
        list[str],
        typer.Option(
            help="File of pairs (.jsonl, .csv, .tsv, .parquet), or with one text per line. May be repeated.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the smaller model to.", show_default=False)],
    source_column: Annotated[str, typer.Option(help="Column of the source texts.")] = "source",
    target_column: Annotated[str, typer.Option(help="Column of the target texts.")] = "target",
    source_prefix: SourcePrefix = "",
    min_count: Annotated[int, typer.Option(min=1, help="Drop tokens that occur less often than this.")] = 1,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Token or text to keep in any case, or a file with one per line. May be repeated."),
    ] = None,
    keep_size: Annotated[
        int | None, typer.Option(min=1, help="Number of tokens to keep of each vocabulary, the most frequent ones.")
    ] = None,
    pad_to_multiple_of: Annotated[
        int, typer.Option(min=1, help="Keep a few more tokens, so that their number is a multiple of this.")
    ] = 1,
    max_shard_size: MaxShardSize = "5GB",
    overwrite: OverwriteModel = False,
    as_json: AsJson = False,
) -> None:
    """Cut the vocabularies of a model to the tokens of some texts. Needs no framework.

    Special tokens stay, and bytes or characters, so that any other text can still be read.
    """
    claim_folder(out, inputs=[model, *texts], overwrite=overwrite)
    from conjoin.surgery import trim

    change = trim(
        model,
        out,
        texts,
        source_column=source_column,
        target_column=target_column,
        source_prefix=source_prefix,
        min_count=min_count,
        keep=_tokens(keep or []),
        keep_size=keep_size,
        pad_to_multiple_of=pad_to_multiple_of,
        max_shard_size=max_shard_size,
    )
    say(str(change))
    before, after = change.numbers
    emit(json.dumps({"folder": str(out), "parameters": {"before": before, "after": after}}) if as_json else str(out))


def _tokens(keep: list[str]) -> list[str]:
    """Return tokens and texts; a file stands for its lines."""
    from conjoin.texts.sources import SourceFile

    tokens: list[str] = []
    for each in keep:
        if Path(each).is_file():
            file = SourceFile.of(each, "text", "")
            file.check()
            tokens += [text for text, _ in file.rows() if text]
        else:
            tokens.append(each)
    return tokens
