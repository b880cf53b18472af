"""A model in this process that generates for lists of sources: alone, in a worker process, or in an actor of Ray."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from conjoin.bulk.spec import WorkerSpec
from conjoin.errors import ConjoinWarning
from conjoin.evaluation.texts import Outcome, TextSettings, evaluating, generate_outcomes, generate_stream, limit_of

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel


class LocalModel:
    """Generates with a model in this process.

    Attributes:
        limit: Tokens of a source at most; None if there is no limit.
    """

    def __init__(self, model: "EncoderDecoderModel", settings: TextSettings, *, keep_errors: bool = False) -> None:
        self._model, self._settings, self._keep_errors = model, settings, keep_errors
        self.limit = limit_of(model, settings)

    @classmethod
    def start(cls, spec: WorkerSpec) -> "LocalModel":
        """Load the model of a worker, with the worker's share of the cores.

        Raises:
            ConjoinError: as `ModelSpec.load`.
        """
        spec.set_threads()
        return cls(spec.model.load(spec.number), spec.settings, keep_errors=spec.keep_errors)

    def run(self, texts: Iterable[tuple[int, str]]) -> Iterator[Sequence[Outcome]]:
        """Generate for sources, read as needed, by index; results come batch by batch, not in order.

        Raises:
            GenerationError: the settings cannot be honoured, or, unless errors are kept, a source has no result.
        """
        with evaluating(self._model):
            yield from (generate_outcomes if self._keep_errors else generate_stream)(self._model, texts, self._settings)

    def generate(self, texts: Sequence[tuple[int, str]]) -> tuple[list[Outcome], list[str]]:
        """Return the outcomes of a few sources, and the warnings that were issued."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConjoinWarning)
            outcomes = [outcome for batch in self.run(texts) for outcome in batch]
        return outcomes, [str(each.message) for each in caught if issubclass(each.category, ConjoinWarning)]
