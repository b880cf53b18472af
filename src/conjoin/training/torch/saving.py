"""Saving and restoring our models in transformers' Trainer."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conjoin.errors import ConjoinError, TrainingError, listing
from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.torch.pair.pretrained import plain_state
from conjoin.training.torch.checkpoints import load_weights
from conjoin.training.torch.collate import decoder_inputs

CONFIG_FILE, ARGUMENTS_FILE = "config.json", "training_args.bin"
_WRAPPERS = re.compile(r"\b_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
"""Prefixes that torch.compile, FSDP and checkpointing insert into a parameter's name."""

if TYPE_CHECKING:

    class _Trainer:
        """The parts of transformers' Trainer that are used; this library does not import it."""

        model: Any
        accelerator: Any
        args: Any
        state: Any
        processing_class: Any
        data_collator: Any
        is_fsdp_enabled: bool
        is_deepspeed_enabled: bool
        label_smoother: Any
        compute_loss_func: Any

        def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None: ...
        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None: ...
        def _load_best_model(self) -> None: ...
        def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *more: Any, **keywords: Any) -> Any: ...

else:
    _Trainer = object


class SavesPretrained(_Trainer):
    """Makes a Trainer of transformers save what `EncoderDecoderModel.from_pretrained` loads, and restore it.

    Without it, that Trainer takes our model for any module and writes its bare state_dict: no config, no tokenizers,
    and nothing at all where parameters are shared. Others' models, and ours inside of peft's, are left to the Trainer.
    Where it takes the labels out of the batch, for label smoothing or a loss of the user's own, decoder inputs are made
    of them first.

    Example:
        class Trainer(conjoin.training.SavesPretrained, transformers.Seq2SeqTrainer): ...
    """

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write model, tokenizers and arguments, on the process that may write.

        Raises:
            TrainingError: a state_dict that was gathered from shards lacks parameters.
        """
        model = self._own_model()
        if model is None:
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            folder = Path(self.args.output_dir if output_dir is None else output_dir)
            model.save_pretrained(folder, state_dict=None if state_dict is None else _parameters(model, state_dict))
            torch.save(self.args, folder / ARGUMENTS_FILE)
            processor = self.processing_class or getattr(self.data_collator, "tokenizer", None)
            if processor is not None and not _has_tokenizer(model):
                processor.save_pretrained(str(folder))

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *more: Any, **keywords: Any) -> Any:
        """Return the loss of a batch, whose labels the Trainer may take out."""
        keeps = self.label_smoother is not None or getattr(self, "compute_loss_func", None) is not None
        return super().compute_loss(model, self._with_targets(inputs) if keeps else inputs, *more, **keywords)

    def _with_targets(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return a batch with decoder inputs, as forward derives them from labels."""
        given = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        model = given.get_base_model() if hasattr(given, "get_base_model") else given
        own = isinstance(model, EncoderDecoderModel) and inputs.get("labels") is not None
        if not own or any(inputs.get(name) is not None for name in ("decoder_input_ids", "decoder_inputs_embeds")):
            return inputs
        return {**decoder_inputs(model, inputs["labels"]), **inputs}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Restore the weights of the checkpoint that a run resumes from."""
        if not self._restored(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """Restore the weights of the best evaluation."""
        if not self._restored(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _restored(self, folder: str) -> bool:
        """Load the weights if the model is ours and whole, and the folder holds what `_save` writes."""
        model = self._own_model()
        if model is None or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return False
        if not (Path(folder) / CONFIG_FILE).is_file():
            return False
        load_weights(model, Path(folder))
        return True

    def _own_model(self) -> EncoderDecoderModel | None:
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return model if isinstance(model, EncoderDecoderModel) else None


def _parameters(model: EncoderDecoderModel, state_dict: dict[str, Any]) -> dict[str, Tensor]:
    """Return the parameters of a gathered state_dict by canonical name; it may hold shared ones under one name only.

    Raises:
        TrainingError: some are missing.
    """
    given = {_WRAPPERS.sub("", name): value for name, value in state_dict.items()}
    own = plain_state(model)
    shared = {id(own[name]): value for name, value in given.items() if name in own}
    if missing := [name for name, parameter in own.items() if id(parameter) not in shared]:
        raise TrainingError(
            f"The state_dict to be saved lacks {len(missing)} of {len(own)} parameters:\n{listing(missing)}",
            hint="with DeepSpeed's third stage, set stage3_gather_16bit_weights_on_model_save to true.",
        )
    return {name: shared[id(parameter)] for name, parameter in own.items()}


def _has_tokenizer(model: EncoderDecoderModel) -> bool:
    try:
        _ = model.tokenizer
    except ConjoinError:
        return False
    return True
