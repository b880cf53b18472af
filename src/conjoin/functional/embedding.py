"""The embedding, which maps ids to vectors, and the LM head, which maps vectors to logits."""

from jaxtyping import Float, Int

from conjoin import spec
from conjoin.functional.layers import activate, linear, norm, product
from conjoin.functional.ops import Array
from conjoin.functional.scope import Scope


def look_up(here: Scope, kind: spec.Embedding, input_ids: Int[Array, "R T"]) -> Float[Array, "R T C"]:
    """Return scaled token embeddings."""
    embeds = here.ops.take(here["words.weight"], input_ids)
    if kind.scale != 1.0:
        embeds = embeds * (
            here.ops.cast(here.ops.constant(kind.scale), embeds.dtype) if kind.round_scale else kind.scale
        )
    if kind.replaced is None:
        return embeds
    return here.ops.where((input_ids == kind.replaced)[..., None], here["replacement"], embeds)


def embed(
    here: Scope,
    kind: spec.Embedding,
    embeds: Float[Array, "R T C"],
    positions: Int[Array, "R T"],
    token_type_ids: Int[Array, "R T"] | None,
) -> Float[Array, "R T D"]:
    """Add positions and token types to token embeddings, and apply norm, dropout and projection.

    Args:
        positions: Rows of the position table; ignored if there is no table.
    """
    x, ops = embeds, here.ops
    if kind.type_rows:
        table = here["token_types.weight"]
        x = x + (table[0] if token_type_ids is None else ops.take(table, token_type_ids))
    elif token_type_ids is not None:
        kind.require_types()
        x = x + ops.take(here["words.weight"], token_type_ids)
    if kind.tasks:
        x = x + here["tasks.weight"][0]
    if kind.projection is not None and kind.projection.when == "words":
        x = linear(here / "projection", x)
    if kind.norm is not None and kind.norm_of == "words":
        x = norm(here / "norm", kind.norm, x)
    if kind.position_rows:
        x = x + ops.take(here["positions.weight"], positions)
    if kind.norm is not None and kind.norm_of == "sum":
        x = norm(here / "norm", kind.norm, x)
    x = here.dropout(x, kind.dropout, "sum")
    if kind.projection is not None and kind.projection.when == "sum":
        x = linear(here / "projection", x)
    return x


def score(here: Scope, kind: spec.Head, x: Float[Array, "*lead D"]) -> Float[Array, "*lead V"]:
    """Return the logits.

    Args:
        here: The decoder's scope, since a tied head uses its token embedding.
    """
    ops, head = here.ops, here / "head"
    if kind.projection:
        x = linear(head / "projection", x)
    if kind.transform is not None:
        x = activate(ops, kind.transform.activation, linear(head / "dense", x))
        x = norm(head / "norm", kind.transform.norm, x)
    if kind.scale != 1.0:
        x = x * kind.scale
    logits = product(here, "embed.words.weight", x) if kind.tied else product(head, "vocab.weight", x)
    bias = head.get("bias")
    logits = logits if bias is None else logits + bias
    return logits if kind.softcap is None else ops.tanh(logits / kind.softcap) * kind.softcap
