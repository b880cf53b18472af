"""`conjoin generate`: generate a target for each of any number of sources."""

import heapq
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from conjoin.checkpoint import fingerprints, resolve
from conjoin.cli import options
from conjoin.cli.outputs import claim_file
from conjoin.cli.streams import emit
from conjoin.cli.talk import progress, say
from conjoin.errors import lone_surrogate
from conjoin.evaluation.journal import Journal
from conjoin.evaluation.texts import Generated, TextSettings, generate_stream, source_limit
from conjoin.texts.sources import JSON_SUFFIXES, STDIN, SourceFile

Row = dict[str, Any]


class Format(StrEnum):
    """Formats of input and output lines."""

    text = "text"
    jsonl = "jsonl"


def generate_targets(
    model: options.Model,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Sources; by default they are read from --input or stdin.")
    ] = None,
    input: Annotated[
        str | None, typer.Option("--input", "-i", help="File with one source per line; - is stdin.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write the results to; stdout by default.")
    ] = None,
    input_format: Annotated[
        Format | None, typer.Option(help="Format of the input; by default chosen by its file name.")
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
    seed: Annotated[int, typer.Option(help="Random seed for --sample.")] = 0,
    set: options.Set = None,
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
    )
    rows, total = _input(texts, input, input_format, source_column)
    if total == 0:
        say(f"{input or 'stdin'} holds no sources: there is nothing to generate.")
    languages = (source_language, target_language)
    output_format = Format.jsonl if as_json else format or _format_of(output)
    to_line = json_line if output_format == Format.jsonl else text_line
    if output is None:
        loaded = options.load(model, dtype, device, languages)
        _to_stdout(_Run(loaded, settings, rows, total), to_line)
        return
    claim_file(output, inputs=[input] if input not in (None, STDIN) else [], overwrite=overwrite)
    run_key = {
        "model": model,
        **fingerprints(resolve(model)),
        "dtype": dtype,
        "generation": settings.generation,
        "seed": seed,
        "max_source_length": max_source_length,
        **({"languages": languages} if any(languages) else {}),
    }
    with Journal(output, run_key, overwrite=overwrite) as journal:
        if journal.done:
            say(f"{len(journal.done):,} results exist already; continuing with the others.")
        loaded = options.load(model, dtype, device, languages)
        _to_file(_Run(loaded, settings, rows, total), journal, to_line)
    say(f"{output}: {len(journal.done):,} results.")


def _input(
    texts: list[str] | None, name: str | None, kind: Format | None, column: str
) -> tuple[Iterable[tuple[str, Row]], int | None]:
    """Return the sources, each with the JSON object or row that holds it, and their number if it is known."""
    if texts and name:
        raise typer.BadParameter("give sources as arguments or --input, not both", param_hint="TEXTS")
    if problems := [
        f"text {index} {problem}" for index, text in enumerate(texts or [], 1) if (problem := lone_surrogate(text))
    ]:
        raise typer.BadParameter("\n".join(problems), param_hint="TEXTS")
    if texts:
        return [(text, {"source": text}) for text in texts], len(texts)
    if name is None and sys.stdin.isatty():
        raise typer.BadParameter("give sources as arguments, with --input FILE or on stdin", param_hint="TEXTS")
    file = SourceFile.of(name or STDIN, kind.value if kind else None, column)
    total = file.check() if file.can_be_read_twice else None
    return file.rows(), total


def _format_of(output: Path | None) -> Format:
    return Format.jsonl if output is not None and output.suffix in JSON_SUFFIXES else Format.text


class _Run:
    """Generates results for sources and joins each result with its source's row."""

    def __init__(self, model: Any, settings: TextSettings, rows: Iterable[tuple[str, Row]], total: int | None) -> None:
        self.model = model
        self.settings = settings
        self.total = total
        self._rows = rows
        self._pending: dict[int, tuple[str, Row]] = {}
        self._num_truncated = 0

    def results(
        self, rest: Callable[[Iterable[tuple[int, str]]], Iterable[tuple[int, str]]], done: int = 0
    ) -> Iterator[list[tuple[int, str, Row]]]:
        """Yield batches of (index, source, object to write).

        Args:
            rest: Filters out sources that have a result already.
            done: Number of those sources.
        """
        with progress("generating", self.total) as advance:
            advance(done)
            for batch in generate_stream(self.model, rest(self._texts()), self.settings):
                yield [self._finished(generated) for generated in batch]
                advance(len(batch))
        if self._num_truncated:
            limit = source_limit(self.model, self.settings.max_source_length)
            say(f"{self._num_truncated:,} sources were longer than {limit} tokens and were truncated.")

    def _texts(self) -> Iterator[tuple[int, str]]:
        """Yield the sources by index, and keep each row until its result is generated."""
        for index, (text, row) in enumerate(self._rows):
            self._pending[index] = (text, row)
            yield index, text

    def forget(self, index: int) -> None:
        """Drop a source that has a result already."""
        self._pending.pop(index, None)

    def _finished(self, generated: Generated) -> tuple[int, str, Row]:
        text, row = self._pending.pop(generated.index)
        self._num_truncated += generated.cut
        texts = generated.texts
        result = {"prediction": texts[0]} if len(texts) == 1 else {"predictions": texts}
        return generated.index, text, {**row, **result, **({"source_was_cut": True} if generated.cut else {})}


def _to_file(run: _Run, journal: Journal, to_line: Callable[[Row], str]) -> None:
    done = len(journal.done)

    def rest(texts: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        def forgetting_done() -> Iterator[tuple[int, str]]:
            for index, text in texts:
                if index in journal.done:
                    run.forget(index)
                yield index, text

        return journal.rest(forgetting_done())

    for batch in run.results(rest, done):
        journal.add(batch)
    journal.finish(to_line)


def _to_stdout(run: _Run, to_line: Callable[[Row], str]) -> None:
    """Print results in the order of their sources, each as soon as all before it are printed."""
    pending: list[tuple[int, str]] = []
    next_index = 0
    for batch in run.results(lambda texts: texts):
        for index, _, row in batch:
            heapq.heappush(pending, (index, to_line(row)))
        while pending and pending[0][0] == next_index:
            emit(heapq.heappop(pending)[1])
            next_index += 1


def json_line(row: Row) -> str:
    """Return the whole object as one line of JSON."""
    return json.dumps(row, ensure_ascii=False)


def text_line(row: Row) -> str:
    """Return the result, or several separated by tabs; line breaks and tabs inside a result become spaces."""
    texts = row.get("predictions") or [row["prediction"]]
    return "\t".join(" ".join(text.split()) if any(char in text for char in "\n\r\t") else text for text in texts)
