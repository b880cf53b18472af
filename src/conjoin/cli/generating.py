"""A run of `conjoin generate`: where it generates, what it writes, what it tells."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import typer

from conjoin.bulk.batch_files import BatchAnswers
from conjoin.bulk.batch_server import BatchServers
from conjoin.bulk.inputs import Input
from conjoin.bulk.journal import Journal, Write
from conjoin.bulk.outputs import Lines, OutputFile, always_columns
from conjoin.bulk.parts import Trailer, part_writer, schema_text
from conjoin.bulk.process import Processes
from conjoin.bulk.rows import Columns, Intake, Spelling
from conjoin.bulk.run import Run
from conjoin.bulk.server import Servers
from conjoin.bulk.shards import WHOLE, Shard
from conjoin.bulk.spec import DeviceNameError, WorkerSpec
from conjoin.bulk.starting import start_model
from conjoin.checkpoint import fingerprints, resolve
from conjoin.cli.outputs import claim_file
from conjoin.cli.streams import emit
from conjoin.cli.talk import progress, say
from conjoin.evaluation.texts import Outcome
from conjoin.texts.tables import Kind

SOME_FAILED = 3
"""Exit code of a run that is done, but for sources that failed."""
KEY = "CONJOIN_API_KEY"
"""Environment variable with the key for --server: a command line is no place for secrets."""


class Generator(Protocol):
    """Generates for sources; `limit` is the number of tokens of a source at most, if it is known."""

    limit: int | None

    def run(self, texts: Iterable[tuple[int, str]]) -> Iterator[Sequence[Outcome]]:
        """Yield outcomes batch by batch, in any order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where to generate: in this process, unless more workers, servers or a Ray cluster are named."""

    workers: int = 1
    ray: str | None = None
    servers: tuple[str, ...] = ()

    def generator(self, worker: WorkerSpec) -> Generator:
        """Return what generates.

        Raises:
            ConjoinError: the model cannot be loaded.
            BadParameter: there is no such device.
        """
        if self.servers and worker.kind == "requests":
            return BatchServers(self.servers, worker.model.name, worker.settings.seed, os.environ.get(KEY))
        if self.servers:
            return self._servers(worker)
        if self.ray is not None:
            from conjoin.ray.actors import Actors

            return Actors(worker, self.workers, self.ray)
        if self.workers > 1:
            return Processes(worker, self.workers)
        try:
            return start_model(worker)
        except DeviceNameError as error:
            raise typer.BadParameter(str(error), param_hint="--device") from None

    def identity(self, worker: WorkerSpec) -> dict[str, Any]:
        """Return what tells the model from another one of its name.

        Raises:
            ConjoinError: there is no such model, or the servers have different ones.
        """
        if self.servers:
            return {"served": self._servers(worker).fingerprint()}
        return fingerprints(resolve(worker.model.name))

    def _servers(self, worker: WorkerSpec) -> Servers:
        spec = worker.model
        return Servers(self.servers, spec.name, worker.settings, languages=spec.languages, key=os.environ.get(KEY))


class Job:
    """A run of the command.

    Attributes:
        num_failed: Sources that failed, once it is done.
    """

    def __init__(self, source: Input, worker: WorkerSpec, where: Where, shard: Shard) -> None:
        self.num_failed = 0
        self._source, self._worker, self._where, self._shard = source, worker, where, shard
        if source.total == 0:
            say(f"{source.name} holds no sources: there is nothing to generate.")
        several = worker.settings.generation.get("num_return_sequences") not in (None, 1)
        self._columns: list[str] = []
        spelling: Spelling = BatchAnswers()
        if worker.kind == "texts":
            spelling, scores = Columns(several=several), worker.settings.scores
            self._columns = always_columns(several=several, scores=scores, keep_errors=worker.keep_errors)
        self._intake = Intake(
            source.entries, name=source.name, shard=shard, keep_errors=worker.keep_errors, spelling=spelling
        )

    def print_results(self, kind: Kind) -> None:
        """Print results in the order of their sources."""
        lines = Lines(kind, self._columns)
        generator = self._where.generator(self._worker)
        with progress("generating", self._source.total) as advance:
            run = Run(self._intake, generator.run, advance)
            for each in run.in_order():
                emit(lines.of(each.row), end="")
        self._end(run, generator)

    def write_results(self, output: OutputFile, *, inputs: Sequence[str], overwrite: bool) -> None:
        """Write results into a file, or into a part of it."""
        path = self._shard.part(output.path)
        goes_on = path.with_name(f"{path.name}.partial").exists()  # then the journal knows whether path may be replaced
        claim_file(path, inputs=inputs, overwrite=overwrite or goes_on)
        run_key = self._run_key()
        shard = {} if self._shard == WHOLE else {"shard": str(self._shard)}
        with Journal(path, {**run_key, **shard}, overwrite=overwrite, shard=self._shard) as journal:
            if journal.done:
                say(f"{len(journal.done):,} results exist already; continuing with the others.")
            generator, total = self._where.generator(self._worker), self._source.total
            with progress("generating", None if total is None else self._shard.size(total)) as advance:
                run = Run(self._intake, generator.run, advance)
                run.to_journal(journal, self._write(output, path, run, run_key))
        self._end(run, generator)
        say(f"{path}: {len(journal.done):,} results.")

    def _write(self, output: OutputFile, path: Path, run: Run, run_key: dict[str, Any]) -> Write:
        if self._shard != WHOLE:
            return part_writer(path, self._shard, run_key, lambda: self._trailer(run))
        return lambda results: output.write(
            lambda: (result.output for result in results()), always=self._columns, schema=self._source.schema
        )

    def _end(self, run: Run, generator: Generator) -> None:
        self.num_failed = run.num_failed
        if self._intake.cut:
            most = "the model reads" if generator.limit is None else f"{generator.limit} tokens"
            say(f"{self._intake.cut:,} sources were longer than {most} and were truncated.")

    def _trailer(self, run: Run) -> Trailer:
        return Trailer(
            sources=self._intake.total,
            input=self._intake.digest,
            failed=run.num_failed,
            columns=self._columns,
            schema=schema_text(self._source.schema),
        )

    def _run_key(self) -> dict[str, Any]:
        """Return what must be the same when the run is resumed, and in all its shards."""
        spec, settings = self._worker.model, self._worker.settings
        return {
            "model": spec.name,
            **self._where.identity(self._worker),
            "dtype": spec.dtype,
            "generation": settings.generation,
            "seed": settings.seed,
            "max_source_length": settings.max_source_length,
            **({"languages": spec.languages} if any(spec.languages) else {}),
            **({"scores": True} if settings.scores else {}),
            **({"requests": True} if self._worker.kind == "requests" else {}),
            **({"draws": "by source"} if settings.generation.get("do_sample") else {}),
            **({"mbr": asdict(settings.mbr)} if settings.mbr else {}),
        }


def tell_failed(count: int) -> None:
    """Tell how many sources failed, and end with an exit code of its own if any did."""
    if count:
        say(f"{count:,} sources failed; their rows say why.")
        raise typer.Exit(SOME_FAILED)
