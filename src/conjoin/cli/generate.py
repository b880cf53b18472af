"""`conjoin generate`: any number of texts through a joined model."""

import heapq
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from conjoin.checkpoint import fingerprints, resolve
from conjoin.cli import _options as options
from conjoin.cli._outputs import claim_file
from conjoin.cli._streams import emit
from conjoin.cli._talk import progress, say
from conjoin.errors import lone_surrogate
from conjoin.evaluation.journal import Journal
from conjoin.evaluation.texts import Generated, TextSettings, generate_stream, source_limit
from conjoin.texts.sources import JSON_SUFFIXES, STDIN, SourceFile

Row = dict[str, Any]


class Format(StrEnum):
    """How lines look."""

    text = "text"
    jsonl = "jsonl"


def generate_targets(
    model: options.Model,
    texts: Annotated[list[str] | None, typer.Argument(help="Sources; else --input, else stdin.")] = None,
    input: Annotated[
        str | None, typer.Option("--input", "-i", help="A file with one source a line; - for stdin.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file for the results; stdout by default.")
    ] = None,
    input_format: Annotated[Format | None, typer.Option(help="Of the input; told by its name by default.")] = None,
    format: Annotated[
        Format | None, typer.Option(help="Of the output; told by its name by default, else text.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    source_column: options.SourceColumn = "source",
    batch_size: options.BatchSize = 32,
    source_language: options.SourceLanguage = None,
    target_language: options.TargetLanguage = None,
    max_source_length: options.MaxSourceLength = None,
    num_beams: options.NumBeams = None,
    max_new_tokens: options.MaxNewTokens = None,
    num_return_sequences: Annotated[int | None, typer.Option(min=1, help="Results per source.")] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Draw tokens instead of taking the likeliest.")] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Below 1 sharpens what is drawn, above flattens it.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw among so many tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest tokens of this much in all.")] = None,
    seed: Annotated[int, typer.Option(help="Of --sample.")] = 0,
    set: options.Set = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there, finished or not.")] = False,
    dtype: options.DtypeOption = None,
    device: options.Device = None,
) -> None:
    """Write a target for every source.

    With --output, results are kept as they come: the same command goes on with a run that was cut off, and neither
    repeats nor loses a line.
    """
    named = {
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
        generation=options.generation_settings(set, **named),
        seed=seed,
    )
    rows, total = _input(texts, input, input_format, source_column)
    if total == 0:
        say(f"{input or 'stdin'} holds no sources: there is nothing to write.")
    languages = (source_language, target_language)
    written = Format.jsonl if as_json else format or _told_by(output)
    spell = json_line if written == Format.jsonl else text_line
    if output is None:
        loaded = options.load(model, dtype, device, languages)
        _to_stdout(_Run(loaded, settings, rows, total), spell)
        return
    claim_file(output, inputs=[input] if input not in (None, STDIN) else [], overwrite=overwrite)
    same = {
        "model": model,
        **fingerprints(resolve(model)),
        "dtype": dtype,
        "generation": settings.generation,
        "seed": seed,
        "max_source_length": max_source_length,
        **({"languages": languages} if any(languages) else {}),
    }
    with Journal(output, same, overwrite=overwrite) as journal:
        if journal.done:
            say(f"{len(journal.done):,} results are there already; going on with the others.")
        loaded = options.load(model, dtype, device, languages)
        _to_file(_Run(loaded, settings, rows, total), journal, spell)
    say(f"{output}: {len(journal.done):,} results.")


def _input(
    texts: list[str] | None, name: str | None, kind: Format | None, column: str
) -> tuple[Iterable[tuple[str, Row]], int | None]:
    """Sources with the objects that they stand in, and how many there are, where that is known."""
    if texts and name:
        raise typer.BadParameter("give sources as arguments or --input, not both", param_hint="TEXTS")
    if problems := [
        f"text {index} {problem}" for index, text in enumerate(texts or [], 1) if (problem := lone_surrogate(text))
    ]:
        raise typer.BadParameter("\n".join(problems), param_hint="TEXTS")
    if texts:
        return [(text, {"source": text}) for text in texts], len(texts)
    if name is None and sys.stdin.isatty():
        raise typer.BadParameter("give sources as arguments, --input FILE, or pipe them in", param_hint="TEXTS")
    file = SourceFile.of(name or STDIN, kind.value if kind else None, column)
    total = file.check() if file.can_be_read_twice else None
    return file.rows(), total


def _told_by(output: Path | None) -> Format:
    return Format.jsonl if output is not None and output.suffix in JSON_SUFFIXES else Format.text


class _Run:
    """Sources on their way through a model."""

    def __init__(self, model: Any, settings: TextSettings, rows: Iterable[tuple[str, Row]], total: int | None) -> None:
        self.model = model
        self.settings = settings
        self.total = total
        self._rows = rows
        self._waiting: dict[int, tuple[str, Row]] = {}
        self._cut = 0

    def results(
        self, rest: Callable[[Iterable[tuple[int, str]]], Iterable[tuple[int, str]]], done: int = 0
    ) -> Iterator[list[tuple[int, str, Row]]]:
        """Batches of (index, source, object to be written).

        Args:
            rest: Leaves out what has a result already.
            done: How many those are.
        """
        with progress("generating", self.total) as advance:
            advance(done)
            for batch in generate_stream(self.model, rest(self._texts()), self.settings):
                yield [self._finished(made) for made in batch]
                advance(len(batch))
        if self._cut:
            limit = source_limit(self.model, self.settings.max_source_length)
            say(f"{self._cut:,} sources were longer than {limit} tokens: their ends were not read.")

    def _texts(self) -> Iterator[tuple[int, str]]:
        """Sources by index; each object waits for its result, or goes when the next source is asked for."""
        for index, (text, row) in enumerate(self._rows):
            self._waiting[index] = (text, row)
            yield index, text

    def forget(self, index: int) -> None:
        """Let go of a source that has a result already."""
        self._waiting.pop(index, None)

    def _finished(self, made: Generated) -> tuple[int, str, Row]:
        text, row = self._waiting.pop(made.index)
        self._cut += made.cut
        many = {"prediction": made.texts[0]} if len(made.texts) == 1 else {"predictions": made.texts}
        return made.index, text, {**row, **many, **({"source_was_cut": True} if made.cut else {})}


def _to_file(run: _Run, journal: Journal, spell: Callable[[Row], str]) -> None:
    done = len(journal.done)

    def rest(texts: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        def seen() -> Iterator[tuple[int, str]]:
            for index, text in texts:
                if index in journal.done:
                    run.forget(index)
                yield index, text

        return journal.rest(seen())

    for batch in run.results(rest, done):
        journal.add(batch)
    journal.finish(spell)


def _to_stdout(run: _Run, spell: Callable[[Row], str]) -> None:
    """Print results in the order of their sources, each as soon as all before it are there."""
    waiting: list[tuple[int, str]] = []
    following = 0
    for batch in run.results(lambda texts: texts):
        for index, _, row in batch:
            heapq.heappush(waiting, (index, spell(row)))
        while waiting and waiting[0][0] == following:
            emit(heapq.heappop(waiting)[1])
            following += 1


def json_line(row: Row) -> str:
    """The whole object."""
    return json.dumps(row, ensure_ascii=False)


def text_line(row: Row) -> str:
    """The result alone, or several with tabs between them; line breaks inside become spaces."""
    texts = row.get("predictions") or [row["prediction"]]
    return "\t".join(" ".join(text.split()) if any(mark in text for mark in "\n\r\t") else text for text in texts)
