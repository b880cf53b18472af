"""`conjoin families`: list the checkpoint families."""

import json
from typing import Annotated

import typer

from conjoin.cli.streams import emit
from conjoin.families import Family, families

_ENCODER = {"native": "as trained", "bidirectional": "mask lifted", "half": "encoder half", None: "no"}
_DECODER = {"own": "as trained", "grafted": "cross-attention grafted in", "half": "decoder half", None: "no"}


def list_families(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the supported checkpoint families, and how each serves as encoder, as decoder or as a whole model."""
    rows = [_row(name, family) for name, family in families().items()]
    if as_json:
        emit(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model_type", "as encoder", "as decoder", "whole", box=None)
    for row in rows:
        table.add_row(row["model_type"], _ENCODER[row["encoder"]], _DECODER[row["decoder"]], row["whole"] or "")
    Console().print(table)


def _row(name: str, family: Family) -> dict[str, str | None]:
    whole = family.whole.architecture if family.whole else ""
    return {"model_type": name, "encoder": family.encoder, "decoder": family.decoder, "whole": whole}
