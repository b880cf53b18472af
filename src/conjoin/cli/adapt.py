"""`conjoin adapt`: train a pair on raw text first. Its flags are those of `conjoin train`, without those of pairs."""

import inspect
from typing import Annotated, Any

import typer

from conjoin.cli.train import flags, run_recipe, with_signature

_OF_PAIRS = (
    *("model", "text", "train", "validation", "dataset", "dataset_config", "train_split", "validation_split"),
    *("source_column", "target_column", "source_prefix", "drop_empty"),
)


def adapt_model(
    model: str | None = None,
    config: str | None = None,
    print_config: bool = False,
    resume: bool = False,
    **options: Any,
) -> None:
    """Warm a joined model on raw text, before it is fine-tuned on pairs.

    MODEL is a joined model; or give --encoder and --decoder to join two checkpoints. Of
    each text, a source and a target are made on the fly: --objective prefixlm cuts it in
    halves, denoise takes spans out, ul2 mixes both. --resume --out RUN continues a run.
    """
    if not (options.get("text") or resume or config):
        raise typer.BadParameter("give the raw text, as in --text corpus.txt.", param_hint="--text")
    run_recipe(config, print_config, resume, {"model": model, **options})


def _parameters() -> list[inspect.Parameter]:
    model = Annotated[str | None, typer.Argument(help="Folder or hub id of a joined model.", show_default=False)]
    text = Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            help="Raw text: plain text, .jsonl, .csv, .tsv (each also .gz) or .parquet; may be given several times.",
            show_default=False,
        ),
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [
        inspect.Parameter(name, keyword, default=None, annotation=kind)
        for name, kind in (("model", model), ("text", text))
    ]
    return [*own, *(each for each in flags() if each.name not in _OF_PAIRS)]


adapt_model = with_signature(adapt_model, _parameters())
