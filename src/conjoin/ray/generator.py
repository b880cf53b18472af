"""Generator: a target for every source of a Ray data set."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.bulk.local import LocalModel
from conjoin.bulk.outputs import always_columns
from conjoin.bulk.rows import CUT, ERROR
from conjoin.bulk.spec import ModelSpec, WorkerSpec
from conjoin.errors import DataError, quoted, warn
from conjoin.evaluation.mbr import MBR
from conjoin.evaluation.texts import Failed, Generated, Outcome, TextSettings

Batch = dict[str, NDArray[Any]]


class Generator:
    """Generates a target for every row; loads its model once, in each actor.

    Example:
        ds = ray.data.read_parquet("articles.parquet")
        ds = ds.map_batches(
            Generator,
            fn_constructor_kwargs={"model": "run", "source_column": "article", "num_beams": 4},
            batch_size=64,
            concurrency=8,
            num_cpus=2,
        )
        ds.write_parquet("summaries")

    The words of a row do not depend on its batch, nor on the number of actors.

    Args:
        model: Folder or hub id, which every node must be able to read.
        source_column: Column of the texts.
        index_column: Column of whole numbers, different in every row, for sampling: rows with equal texts then draw
            differently, and draw what `conjoin generate` draws for the source of that number. Without it, what is drawn
            depends on the text.
        batch_size: Sources generated together; a batch of Ray's may hold more.
        seed: Random seed of sampling.
        scores: Add the scores by which beam search ranks results, or `mbr`.
        mbr: Generate candidates for every row, and choose among them.
        keep_errors: A source that fails gets no result, and its error in a column `error`; else the job fails.
        max_source_length: Longer sources are truncated to so many tokens; the model's limit by default.
        dtype: Data type of the parameters; that of the checkpoint by default.
        device: "cuda" or "cpu"; by default the GPU that Ray gives to the actor (num_gpus=1), if it gives one.
        source_language, target_language: Language codes; the tokenizer's by default.
        generation: Settings of `generate` by name: num_beams, max_new_tokens, num_return_sequences, do_sample ...

    Raises:
        ConjoinError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        source_column: str = "source",
        index_column: str | None = None,
        batch_size: int = 32,
        seed: int = 0,
        scores: bool = False,
        mbr: MBR | None = None,
        keep_errors: bool = False,
        max_source_length: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        **generation: Any,
    ) -> None:
        self._source_column, self._index_column = source_column, index_column
        self._settings = TextSettings(
            batch_size=batch_size,
            max_source_length=max_source_length,
            generation=generation,
            seed=seed,
            scores=scores,
            mbr=mbr,
        )
        self._keep_errors = keep_errors
        languages = (source_language, target_language)
        spec = ModelSpec(name=str(model), dtype=dtype, device=device, languages=languages)
        self._model = LocalModel.start(WorkerSpec(model=spec, settings=self._settings, keep_errors=keep_errors))

    def __call__(self, batch: Mapping[str, Any]) -> Batch:
        """Return a batch with its results.

        Added are `prediction`, or `predictions` if several results were asked for, `score` or `scores` if asked for,
        `source_was_cut`, and `error` if errors are kept.

        Args:
            batch: Columns, as arrays (batch_format="numpy", Ray's default).

        Raises:
            DataError: there is no such column, a source is no text, or an index is there twice.
            GenerationError: the settings cannot be honoured, or, unless errors are kept, a source has no result.
        """
        columns = {str(name): np.asarray(batch[name]) for name in batch}
        texts = self._texts(columns)
        indices = self._indices(columns, texts)
        pairs = dict(zip(indices, texts, strict=True))
        outcomes, warnings = self._model.generate(list(pairs.items()))
        for text in warnings:
            warn(text)
        found = {outcome.index: outcome for outcome in outcomes}
        return columns | self._results([found[index] for index in indices])

    def _texts(self, columns: Batch) -> list[str]:
        if self._source_column not in columns:
            raise DataError(
                f"The data set has no column {self._source_column!r}; it has {quoted(columns)}.",
                hint="name it with source_column=.",
            )
        texts = columns[self._source_column].tolist()
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise DataError(f"{self._source_column} holds a {type(wrong[0]).__name__}, expected text.")
        return texts

    def _indices(self, columns: Batch, texts: list[str]) -> list[int]:
        """Return what the seed of every source is made of; equal indices have equal texts."""
        if self._index_column is None:
            return [int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) for text in texts]
        if self._index_column not in columns:
            raise DataError(f"The data set has no column {self._index_column!r}; it has {quoted(columns)}.")
        indices = [int(index) for index in columns[self._index_column].tolist()]
        if len({*indices}) < len(indices):
            twice = next(index for index in indices if indices.count(index) > 1)
            raise DataError(f"{self._index_column} holds {twice} more than once; expected another number in every row.")
        return indices

    def _results(self, outcomes: list[Outcome]) -> Batch:
        rows = [{ERROR: each.error} if isinstance(each, Failed) else self._row(each) for each in outcomes]
        several = self._several
        names = always_columns(several=several, scores=self._settings.scores, keep_errors=self._keep_errors)
        return {name: _column([row.get(name) for row in rows]) for name in names}

    @property
    def _several(self) -> bool:
        return int(self._settings.generation.get("num_return_sequences") or 1) > 1

    def _row(self, made: Generated) -> dict[str, Any]:
        scores = made.scores or [None] * len(made.texts)  # an empty source has none
        if self._several:
            return {"predictions": made.texts, "scores": scores, CUT: made.cut}
        return {"prediction": made.texts[0], "score": scores[0], CUT: made.cut}


def _column(values: list[Any]) -> NDArray[Any]:
    """Return an array of one object per row, lists among them."""
    column = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        column[row] = value
    return column
