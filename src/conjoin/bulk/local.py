"""A model in this process that generates for lists of sources: alone, in a worker process, or in an actor of Ray."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from conjoin.errors import ConfigError, ConjoinWarning, MissingBackend
from conjoin.evaluation.texts import (
    Outcome,
    TextSettings,
    evaluating,
    generate_outcomes,
    generate_stream,
    source_limit,
)
from conjoin.join import set_languages

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel


class DeviceNameError(ConfigError):
    """There is no such device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Which model to load, and how.

    Args:
        name: Folder or hub id.
        dtype: Data type of the parameters; that of the checkpoint by default.
        device: "cpu", "cuda", "cuda:1"; by default a GPU if there is one.
        languages: Language codes of sources and of targets; None keeps the tokenizer's.
    """

    name: str
    dtype: str | None = None
    device: str | None = None
    languages: tuple[str | None, str | None] = (None, None)

    def load(self, worker: int = 0) -> "EncoderDecoderModel":
        """Load the model in evaluation mode.

        Args:
            worker: Number of this process among those that share a machine; each takes the next GPU.

        Raises:
            ConjoinError: the model cannot be loaded.
            DeviceNameError: there is no such device.
            MissingBackend: torch is not installed.
        """
        from conjoin import EncoderDecoderModel

        try:
            import torch
        except ImportError:
            raise MissingBackend("This command needs torch: pip install 'conjoin[torch]'") from None
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device == "cuda" and torch.cuda.device_count() > 1:
            device = f"cuda:{worker % torch.cuda.device_count()}"
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise DeviceNameError(f"{device!r}: {str(error).splitlines()[0]}") from None
        model = EncoderDecoderModel.from_pretrained(self.name, dtype=self.dtype, device=device)
        if self.languages != (None, None):
            set_languages(model, model.tokenizer, *self.languages)
        return model


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What a worker is to do, in plain values that can be sent to it.

    Args:
        model: Its model.
        settings: Settings of generating.
        keep_errors: A source that fails becomes a `Failed`, and the others go on.
        share: The worker computes with this fraction of the machine's cores: one in `share`.
        number: Of this worker among those of a machine, from 0.
    """

    model: ModelSpec
    settings: TextSettings = field(default_factory=TextSettings)
    keep_errors: bool = False
    share: int = 1
    number: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "WorkerSpec":
        """Return what `to_dict` made JSON of."""
        plain = dict(values)
        model, settings = dict(plain.pop("model")), plain.pop("settings")
        model["languages"] = tuple(model["languages"])
        return cls(model=ModelSpec(**model), settings=TextSettings(**settings), **plain)


class LocalModel:
    """Generates with a model in this process.

    Attributes:
        limit: Tokens of a source at most; None if there is no limit.
    """

    def __init__(self, model: "EncoderDecoderModel", settings: TextSettings, *, keep_errors: bool = False) -> None:
        self._model, self._settings, self._keep_errors = model, settings, keep_errors
        self.limit = source_limit(model, settings.max_source_length)

    @classmethod
    def start(cls, spec: WorkerSpec) -> "LocalModel":
        """Load the model of a worker, with the worker's share of the cores.

        Raises:
            ConjoinError: as `ModelSpec.load`.
        """
        if spec.share > 1:
            from conjoin.torch.cpu.threads import set_threads, usable_threads

            set_threads(max(1, usable_threads() // spec.share))
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
