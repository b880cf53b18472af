"""`conjoin generate`: generate a target for each of any number of sources."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from conjoin.bulk.batch_files import batch_input
from conjoin.bulk.http import checked_url
from conjoin.bulk.inputs import Input
from conjoin.bulk.outputs import OutputFile
from conjoin.bulk.shards import WHOLE, Shard
from conjoin.bulk.spec import ModelSpec, WorkerSpec
from conjoin.cli import options
from conjoin.cli.generating import Job, Where, tell_failed
from conjoin.errors import ConfigError, lone_surrogate
from conjoin.evaluation.texts import TextSettings
from conjoin.texts.lines import STDIN
from conjoin.texts.sources import SourceFile


class Format(StrEnum):
    """Formats of output."""

    text = "text"
    jsonl = "jsonl"
    csv = "csv"
    tsv = "tsv"
    parquet = "parquet"


class InputFormat(StrEnum):
    """Formats of input: those of output, and OpenAI's batch files."""

    text = "text"
    jsonl = "jsonl"
    csv = "csv"
    tsv = "tsv"
    parquet = "parquet"
    openai = "openai"


class OnError(StrEnum):
    """What to do about a source that fails."""

    stop = "stop"
    keep = "keep"


def generate_targets(
    model: options.Model,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Sources; by default they are read from --input or stdin.")
    ] = None,
    input: Annotated[
        str | None, typer.Option("--input", "-i", help="File of sources, also packed as .gz; - is stdin.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write the results to; stdout by default.")
    ] = None,
    input_format: Annotated[
        InputFormat | None,
        typer.Option(help="Format of the input; by default chosen by its file name. openai: a batch file."),
    ] = None,
    format: Annotated[
        Format | None, typer.Option(help="Format of the output; by default chosen by its file name, or text.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format jsonl.")] = False,
    source_column: options.SourceColumn = "source",
    batch_size: options.BatchSize = 32,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
    max_source_length: options.MaxSourceLength = None,
    num_beams: options.NumBeams = None,
    max_new_tokens: options.MaxNewTokens = None,
    num_return_sequences: Annotated[int | None, typer.Option(min=1, help="Number of results per source.")] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Also write the score by which beam search or --mbr ranks each result.")
    ] = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="Sample tokens instead of choosing the most likely one.")
    ] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature: below 1 sharpens the distribution, above 1 flattens it.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from the TOP_K most likely tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the most likely tokens whose probabilities add up to TOP_P.")
    ] = None,
    seed: options.Seed = 0,
    mbr: options.MbrCandidates = None,
    utility: options.UtilityOption = None,
    mbr_candidates: options.MbrKind = None,
    set: options.Set = None,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Processes on this machine, or actors of --ray, that share the work and the cores."),
    ] = 1,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL[,URL]", help="Running servers that generate instead; MODEL is the name that they serve."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Ray cluster whose actors generate: auto, an address, or local for one of its own."
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only every N-th source, into OUTPUT.I-of-N; `conjoin merge` joins them."),
    ] = None,
    on_error: Annotated[
        OnError | None,
        typer.Option(help="A source that fails ends the run (stop), or its error is kept in a column `error` (keep)."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing output, finished or not.")
    ] = False,
    dtype: options.DtypeOption = None,
    device: options.Device = None,
) -> None:
    """Generate a target for every source.

    With --output, results are saved as they are generated: the same command
    continues an interrupted run, without repeating or losing a line.
    """
    options_of_generate = {
        "num_beams": num_beams,
        "max_new_tokens": max_new_tokens,
        "num_return_sequences": num_return_sequences,
        "do_sample": True if sample else None,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
    }
    settings = TextSettings(
        batch_size=batch_size,
        max_source_length=max_source_length,
        generation=options.generation_settings(set, **options_of_generate),
        seed=seed,
        scores=scores,
        mbr=options.mbr_settings(mbr, utility, mbr_candidates),
    )
    is_batch = input_format is InputFormat.openai
    if is_batch and (
        settings.generation or settings.mbr or scores or max_source_length or source_language or target_language
    ):
        raise typer.BadParameter("each request of a batch file has its own settings", param_hint="--input-format")
    keep_errors = is_batch if on_error is None else on_error is OnError.keep
    kind = Format.jsonl if as_json or (is_batch and format is None) else format
    spec = ModelSpec(
        name=model,
        dtype=dtype.value if dtype else None,
        device=device,
        languages=(source_language, target_language),
    )
    worker = WorkerSpec(
        model=spec, settings=settings, keep_errors=keep_errors, kind="requests" if is_batch else "texts"
    )
    where = Where(workers=workers, ray=ray, servers=_servers(server, workers, ray, dtype, device))
    job = Job(
        _input(texts, input, input_format, source_column, keep_errors=keep_errors),
        worker,
        where,
        _shard(shard, output),
    )
    if output is None:
        job.print_results(kind.value if kind else "text")
    else:
        job.write_results(
            OutputFile.of(output, kind.value if kind else None),
            inputs=[input] if input not in (None, STDIN) else [],
            overwrite=overwrite,
        )
    tell_failed(job.num_failed)


def _input(
    texts: list[str] | None, name: str | None, kind: InputFormat | None, column: str, *, keep_errors: bool
) -> Input:
    if texts and name:
        raise typer.BadParameter("give sources as arguments or --input, not both", param_hint="TEXTS")
    if problems := [
        f"text {index} {problem}" for index, text in enumerate(texts or [], 1) if (problem := lone_surrogate(text))
    ]:
        raise typer.BadParameter("\n".join(problems), param_hint="TEXTS")
    if texts:
        if kind is InputFormat.openai:
            raise typer.BadParameter("a batch file is named with --input, or comes on stdin", param_hint="TEXTS")
        return Input.of_texts(texts)
    if name is None and sys.stdin.isatty():
        raise typer.BadParameter("give sources as arguments, with --input FILE or on stdin", param_hint="TEXTS")
    if kind is InputFormat.openai:
        return batch_input(name or STDIN, keep_errors=keep_errors)
    file = SourceFile.of(name or STDIN, kind.value if kind else None, column)
    return Input.of_file(file, keep_errors=keep_errors)


def _shard(text: str | None, output: Path | None) -> Shard:
    if text is None:
        return WHOLE
    if output is None:
        raise typer.BadParameter("a shard needs --output, whose name the parts have", param_hint="--shard")
    try:
        return Shard.parse(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--shard") from None


def _servers(text: str | None, workers: int, *given: object) -> tuple[str, ...]:
    if text is None:
        return ()
    for name, value in zip(("--workers", "--ray", "--dtype", "--device"), (workers, *given), strict=True):
        if value not in (None, 1):
            raise typer.BadParameter("the servers decide this; leave it out with --server", param_hint=name)
    try:
        return tuple(checked_url(url.strip()) for url in text.split(","))
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--server") from None
