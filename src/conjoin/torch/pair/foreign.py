"""An encoder that is no stack of ours (a vision, speech or graph model) joined to a decoder that is."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Self, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from conjoin import spec
from conjoin.checkpoint import Staging, open_checkpoint, parse_size, read_json, replacing_folder, resolve, write_tensors
from conjoin.configuration import FOREIGN, AutoConfig, EncoderDecoderConfig
from conjoin.errors import ConfigError, JoinError, ShapeError, WeightError, listing
from conjoin.families import PretrainedConfig, config_from_dict
from conjoin.join import JoinReport, OneFolder, pair_spec
from conjoin.join.diagnosis import Diagnosis
from conjoin.pretrained.sources import Source, open_join
from conjoin.torch.cpu.linear import Linear
from conjoin.torch.model.loss import IGNORED
from conjoin.torch.model.outputs import EncoderOutput
from conjoin.torch.model.sharing import mark_shared
from conjoin.torch.pair.foreign_encoder import ForeignEncoder, Mask, Reading
from conjoin.torch.pair.halves import Decoder
from conjoin.torch.pair.joining import adopt_parameters, materialise_rest, source_of
from conjoin.torch.pair.keywords import reject_saving_kwargs
from conjoin.torch.pair.loading import as_tensor, fill, to_dtype
from conjoin.torch.pair.lora import base_parameters, merge_saved_adapter, remove_adapter, write_adapter
from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.torch.pair.pretrained import Pretrained, plain_state
from conjoin.torch.pair.writing import dtype_name

_ENCODER = "encoder.module."


class ForeignPair(EncoderDecoderModel):
    """See EncoderDecoderModel: what it is where `encoder` is a module of the caller's.

    Attributes:
        reading: How the encoder is called.
    """

    encoder: Any
    reading: Reading
    reads_ids = False

    @property
    def main_input_name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Name of the encoder's input in batches."""
        return self.reading.input

    def __init__(
        self,
        config: None = None,
        encoder: nn.Module | None = None,
        decoder: Decoder | str | PathLike[str] | None = None,
        *,
        encoder_width: int | None = None,
        encoder_input: str = "pixel_values",
        encoder_mask: Mask | None = None,
        **values: Any,
    ) -> None:
        Pretrained.__init__(self)
        if config is not None or encoder is None or decoder is None or encoder_width is None:
            raise JoinError(
                f"EncoderDecoderModel: with a {type(encoder).__name__} as encoder, decoder= and encoder_width= are "
                "needed, and no config.",
                hint="EncoderDecoderModel(encoder=vit, decoder='openai-community/gpt2', encoder_width=768)",
            )
        self.reading = Reading(width=encoder_width, input=encoder_input, mask=encoder_mask)
        if isinstance(decoder, Decoder):
            half = source_of(decoder)
        else:
            folder = resolve(decoder)
            half = Source("decoder", AutoConfig.from_pretrained(folder), folder=folder)
            self._tokenizer_folders = OneFolder(folder)
        stand_in = _stand_in(encoder_width)
        names = dict.fromkeys(f"encoder.{name}" for name in spec.stack_parameters(_stack(stand_in)))
        ours = Source("encoder", stand_in, parameters=cast(Any, names))
        with open_join((ours, half), values) as (joined, pair, plan):
            self._build_around(joined, pair, encoder)
            adopt_parameters(self, (half,), plan)
            some = next(iter(half.parameters.values()), None)
            materialise_rest(
                self, torch.float32 if some is None else some.dtype, "cpu" if some is None else some.device
            )
            self.load_generation_config(None)
            self._fill(_without_encoder(plan))

    def _build_around(self, config: EncoderDecoderConfig, pair: spec.PairSpec, encoder: nn.Module) -> None:
        kind = replace(pair.encoder, family=type(encoder).__name__)
        self.config = config
        self.spec = replace(pair, encoder=kind)
        self.encoder = ForeignEncoder(encoder, kind, config.encoder)
        with torch.device("meta"):
            self.decoder = Decoder(config.decoder, pair.decoder)
            self.enc_to_dec_proj = Linear(kind.hidden_size, pair.decoder.hidden_size) if pair.projection else None

    def _fill(self, plan: JoinReport) -> None:
        fill(self, plan)
        mark_shared(self, replace(self.spec, share="none"))
        self.join_report = plan
        self.note_fresh(plain_state(self))
        self.eval()

    def forward(self, *unnamed: Any, **inputs: Any) -> Any:
        """See EncoderDecoderModel.forward; the encoder's input has the name that `encoder_input` says.

        Raises:
            ShapeError: arguments without names, or no input of the encoder.
        """
        if unnamed:
            raise ShapeError(f"{len(unnamed)} arguments without a name.", hint=f"model({self.reading.input}=...)")
        return super().forward(**self._read(inputs))

    def generate(self, inputs: Any = None, *settings: Any, **keywords: Any) -> Any:
        """See EncoderDecoderModel.generate; `inputs`, or what `encoder_input` names, is the encoder's input."""
        return super().generate(None, *settings, **self._generating(inputs, keywords))

    def generate_results(self, **inputs: Any) -> Any:
        """See EncoderDecoderModel.generate_results."""
        return super().generate_results(**self._generating(None, inputs))

    def generate_batches(self, batches: Iterable[tuple[Any, dict[str, Any]]]) -> Iterator[tuple[Any, Any]]:
        """See EncoderDecoderModel.generate_batches."""
        return super().generate_batches((name, self._generating(None, dict(inputs))) for name, inputs in batches)

    def _generating(self, inputs: Any, keywords: dict[str, Any]) -> dict[str, Any]:
        keywords.pop("labels", None)
        if inputs is not None:
            keywords[self.reading.input] = inputs
        with torch.no_grad():
            return self._read(keywords)

    def _read(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return arguments in which the encoder's output stands for its input."""
        given = [name for name in (self.reading.input, "inputs_embeds") if inputs.get(name) is not None]
        values = [inputs.pop(name, None) for name in (self.reading.input, "inputs_embeds")]
        if inputs.get("encoder_outputs") is not None or getattr(inputs.get("past_key_values"), "cross", None):
            return inputs
        if len(given) != 1 or inputs.get("input_ids") is not None:
            others = ", ".join(sorted(inputs)) or "nothing"
            raise ShapeError(
                f"{self.spec.encoder.family} reads {self.reading.input}; given: {others}.",
                hint=f"give {self.reading.input}=...",
            )
        value = next(value for value in values if value is not None)
        encoded = self.encoder(inputs_embeds=value)
        if self.reading.mask is not None and inputs.get("attention_mask") is None:
            inputs["attention_mask"] = self._mask(self.reading.mask(value, encoded.last_hidden_state), encoded)
        return {**inputs, "encoder_outputs": encoded}

    def _mask(self, mask: Bool[Tensor, "B S"], encoded: EncoderOutput) -> Tensor:
        states: Any = encoded.last_hidden_state
        if tuple(mask.shape) != tuple(states.shape[:2]):
            expected = tuple(states.shape[:2])
            raise ShapeError(
                f"encoder_mask returns shape {tuple(mask.shape)}; expected {expected}, an entry per state."
            )
        return mask

    def doctor(self, batch: Mapping[str, Any]) -> Diagnosis:
        """See EncoderDecoderModel.doctor; another source is another pair's, or the same with its last axis reversed."""
        names = {self.reading.input: "inputs_embeds"}
        return super().doctor({names.get(name, name): value for name, value in batch.items()})

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return a batch of rows that have the encoder's input and `labels`, for DataLoader(collate_fn=model.collate).

        Labels are padded with -100, inputs are stacked.

        Raises:
            ShapeError: inputs of different shapes.
        """
        values = [torch.as_tensor(row[self.reading.input]) for row in rows]
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) > 1:
            raise ShapeError(
                f"{self.reading.input}: a batch has shapes {', '.join(map(str, sorted(shapes)))}; expected one.",
                hint="resize or pad them first; encoder_mask= tells which states are real then.",
            )
        labels = [torch.as_tensor(row["labels"], dtype=torch.long) for row in rows]
        padded = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        return {self.reading.input: torch.stack(values), "labels": padded}

    def get_input_embeddings(self) -> nn.Module:
        """Return the decoder's token embedding: the encoder has none."""
        return self.decoder.get_input_embeddings()

    def quantize(self, method: str = "int8") -> Self:
        """Not possible: conjoin does not know the encoder's layers.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"quantize({method!r}): the encoder, a {self.spec.encoder.family}, is no stack of conjoin.",
            hint="model.decoder is one; its modules may be quantized with torch.ao.quantization.",
        )

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        *,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        untied: bool = False,
        **keywords: Any,
    ) -> None:
        """Write weights, config, generation settings and tokenizer, atomically.

        Of the encoder its state is written (parameters and buffers), and the name of its class, which nobody imports:
        `EncoderDecoderModel.from_pretrained(folder, encoder=module)` fills a module that the caller has built.
        """
        reject_saving_kwargs(keywords)
        if not is_main_process:
            return
        if state_dict is not None and (missing := sorted(_state(self).keys() - state_dict.keys())):
            raise WeightError(f"state_dict: parameters are missing:\n{listing(missing)}")
        with replacing_folder(Path(save_directory)) as staging:
            self.write(staging, state_dict, max_shard_size=max_shard_size)

    def write(
        self, staging: Staging, state: dict[str, Tensor] | None = None, *, max_shard_size: int | str = "5GB"
    ) -> None:
        """Write the model into a folder that will be a checkpoint, beside its other files.

        Args:
            state: Parameters by name in place of the model's own, with adapters merged; without them, adapters are
                written beside the weights. Buffers that it lacks are the model's.
        """
        if state is None:
            write_adapter(self, staging)
        else:
            remove_adapter(staging)
        tensors = _state(self) if state is None else {name: state.get(name, x) for name, x in _state(self).items()}
        values = self.config_to_save(dtype_name(self.decoder), plain_state(self)).to_dict()
        values |= {
            "model_type": FOREIGN,
            "encoder": {
                "class": _class(self.encoder.module),
                "width": self.reading.width,
                "input": self.reading.input,
                "has_mask": self.reading.mask is not None,
            },
        }
        values.pop("architectures", None)
        write_tensors(staging, map(_stored, tensors.items()), max_shard_bytes=parse_size(max_shard_size))
        self.save_tokenizers(staging)
        self.save_generation_config(staging)
        staging.path("config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls,
        name_or_path: str | PathLike[str],
        encoder: nn.Module,
        *,
        encoder_mask: Mask | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Load what `save_pretrained` wrote, the encoder's state into a module.

        Raises:
            ConfigError: the folder is of another kind, or its encoder of another class, or it had a mask.
            WeightError: the file and the modules have different tensors.
        """
        folder = resolve(name_or_path)
        values = read_json(folder / "config.json")
        if why := _unlike(folder, values, encoder, encoder_mask):
            raise ConfigError(why)
        said: Any = values["encoder"]
        model = cls.__new__(cls)
        Pretrained.__init__(model)
        model.reading = Reading(width=int(said["width"]), input=str(said["input"]), mask=encoder_mask)
        plain = {**values, "model_type": "conjoin", "encoder": _stand_in(model.reading.width)}
        config = EncoderDecoderConfig.from_dict(plain)
        model._build_around(config, pair_spec(config), encoder)
        model._tokenizer_folders = OneFolder(folder)
        materialise_rest(model, torch.float32, "cpu")
        mark_shared(model, replace(model.spec, share="none"))
        if why := model.unlike(folder):
            raise WeightError(why)
        model.read(folder)
        model.load_generation_config(folder)
        model.join_report = JoinReport({}, {})
        merge_saved_adapter(model, folder)
        return model.to(dtype=to_dtype(dtype) if dtype else None, device=device).eval()

    def unlike(self, folder: Path) -> str | None:
        """Say why a folder holds another model than this one: its encoder's class, or its tensors; None if it fits."""
        values = read_json(folder / "config.json")
        if why := _unlike(folder, values, self.encoder.module, self.reading.mask):
            return why
        own = {name: tuple(tensor.shape) for name, tensor in _state(self).items()}
        with open_checkpoint(folder) as checkpoint:
            saved = {name: checkpoint[name].shape for name in checkpoint}
        wrong = sorted(name for name in {*own, *saved} if own.get(name) != saved.get(name))
        return f"{folder}: tensors that do not fit the model:\n{listing(wrong)}" if wrong else None

    @torch.no_grad()
    def read(self, folder: Path) -> None:
        """Copy the weights of a folder into this model, the encoder's state included; nothing in it is executed.

        Raises:
            WeightError: the file cannot be read.
        """
        with open_checkpoint(folder) as checkpoint:
            for name, tensor in _state(self).items():
                tensor.copy_(as_tensor(checkpoint.array(name), checkpoint[name].dtype))


def _stand_in(width: int) -> PretrainedConfig:
    """A config of an encoder of this width without positions, which stands for what has no config."""
    sizes = {"d_model": width, "d_kv": 1, "d_ff": 1, "num_layers": 1, "num_heads": 1, "vocab_size": 1}
    return config_from_dict({"model_type": "t5", **sizes, "pad_token_id": None, "eos_token_id": None})


def _stack(config: PretrainedConfig) -> spec.StackSpec:
    from conjoin.join import half_spec

    return half_spec(config, "encoder")


def _without_encoder(plan: JoinReport) -> JoinReport:
    origins = {name: origin for name, origin in plan.origins.items() if not name.startswith("encoder.")}
    return replace(plan, origins=origins)


def _unlike(folder: Path, values: Mapping[str, Any], encoder: nn.Module, mask: Mask | None) -> str | None:
    """Say why a folder with this config was not saved with such an encoder; None if it was."""
    if values.get("model_type") != FOREIGN:
        return f"{folder} was not saved with an encoder of the caller's."
    said: Any = values["encoder"]
    if said["class"] == _class(encoder) and said["has_mask"] == (mask is not None):
        return None
    return (
        f"{folder} was saved with a {said['class']} as encoder, {'with' if said['has_mask'] else 'without'} "
        f"encoder_mask; given is a {_class(encoder)}, {'without' if mask is None else 'with'} one."
    )


def _state(model: ForeignPair) -> dict[str, Tensor]:
    """Return everything that a file holds: our parameters, shared ones once, and all of the encoder's state."""
    once: dict[int, tuple[str, Tensor]] = {}
    for name, parameter in base_parameters(model).items():
        once.setdefault(id(parameter), (name, parameter))
    ours = {name: parameter for name, parameter in once.values() if not name.startswith("encoder.")}
    return {**ours, **{_ENCODER + name: x for name, x in model.encoder.module.state_dict().items()}}


def _stored(entry: tuple[str, Tensor]) -> tuple[str, Any, str]:
    name, tensor = entry[0], entry[1].detach().cpu().contiguous()
    bits: Any = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    return name, bits.numpy(), str(tensor.dtype).removeprefix("torch.")


def _class(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
