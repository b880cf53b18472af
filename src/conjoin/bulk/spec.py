"""Which model a worker loads and what it does with it, in plain values that can be sent to it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from conjoin.errors import ConfigError, MissingBackend
from conjoin.evaluation.mbr import MBR
from conjoin.evaluation.texts import TextSettings
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
        kind: What sources are: texts, or requests of OpenAI's batch files.
    """

    model: ModelSpec
    settings: TextSettings = field(default_factory=TextSettings)
    keep_errors: bool = False
    share: int = 1
    number: int = 0
    kind: Literal["texts", "requests"] = "texts"

    def set_threads(self) -> None:
        """Compute with the worker's share of the cores from now on."""
        if self.share > 1:
            from conjoin.torch.cpu.threads import set_threads, usable_threads

            set_threads(max(1, usable_threads() // self.share))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "WorkerSpec":
        """Return what `to_dict` made JSON of."""
        plain = dict(values)
        model, settings = dict(plain.pop("model")), dict(plain.pop("settings"))
        model["languages"] = tuple(model["languages"])
        settings["mbr"] = None if settings["mbr"] is None else MBR(**settings["mbr"])
        return cls(model=ModelSpec(**model), settings=TextSettings(**settings), **plain)
