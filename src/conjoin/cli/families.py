"""`conjoin families`: list the checkpoint families."""

import json
import warnings
from typing import Annotated, Any

import typer

from conjoin.cli.streams import emit
from conjoin.errors import ConjoinWarning
from conjoin.families import Family, Role, families
from conjoin.spec import StackSpec
from conjoin.spec.native import reason_against

_ENCODER = {"native": "as trained", "bidirectional": "mask lifted", "half": "the encoder half", None: "no"}
_DECODER = {
    "own": "cross-attention as in transformers",
    "grafted": "cross-attention grafted in",
    "half": "the decoder half",
    None: "no",
}
COLUMNS = ("model_type", "as encoder", "as decoder", "whole", "kernels", "checkpoints known")


def list_families(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the supported checkpoint families.

    Of each: how it serves as encoder, as decoder and as a whole model, whether our CPU kernels compute it, and
    checkpoints that are known to be of it.
    """
    facts = [_facts(name, family) for name, family in families().items()]
    if as_json:
        emit(json.dumps(facts, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS, box=None)
    for row in rows():
        table.add_row(*row)
    Console().print(table)


def rows() -> list[tuple[str, ...]]:
    """Return the table, a cell for each of COLUMNS."""
    return [_row(_facts(name, family)) for name, family in families().items()]


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    roles = [role for role in ("encoder", "decoder") if facts[role]]
    computed = "yes" if facts["kernels"] == roles else ", ".join(facts["kernels"]) or "no"
    ways = _ENCODER[facts["encoder"]], _DECODER[facts["decoder"]]
    return facts["model_type"], *ways, facts["whole"], computed, ", ".join(facts["known"])


def _facts(name: str, family: Family) -> dict[str, Any]:
    """Describe a family; under "kernels" stand the roles that our kernels compute from the ids to the logits."""
    whole = family.whole.architecture if family.whole else ""
    return {
        "model_type": name,
        "encoder": family.encoder,
        "decoder": family.decoder,
        "whole": whole,
        "kernels": [role for role in _roles(family) if reason_against(_default_stack(family, role)) is None],
        "known": list(family.known),
    }


def _default_stack(family: Family, role: Role) -> StackSpec:
    """Return the stack of a config's defaults; what they would warn of is for those who have such a config."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConjoinWarning)
        return family.stack(family.config(), role)


def _roles(family: Family) -> list[Role]:
    """Return what a family can be."""
    roles: dict[Role, Any] = {"encoder": family.encoder, "decoder": family.decoder}
    return [role for role, how in roles.items() if how is not None]
