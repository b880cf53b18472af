"""Measurements of a joined model on a user's batch, for the checks of `join/checks.py`. They change nothing."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ShapeError
from conjoin.join import special_tokens
from conjoin.join.checks import ROUNDING, Ids, LogitChange, diagnose
from conjoin.join.diagnosis import Diagnosis
from conjoin.torch.model.loss import label_inputs
from conjoin.torch.pair.modules import PairModules


def examine(model: PairModules, batch: Mapping[str, Any]) -> Diagnosis:
    """See EncoderDecoderModel.doctor."""
    inputs = {name: _to_device(value, model.device) for name, value in batch.items() if value is not None}
    if "labels" not in inputs:
        raise ShapeError("doctor: the batch has no labels.", hint="model.doctor({'input_ids': ..., 'labels': ...})")
    labels = inputs.pop("labels")
    with _evaluating(model):
        return diagnose(
            model,
            {name: _ids(value) for name, value in inputs.items()},
            _ids(labels),
            {name: parameter.requires_grad for name, parameter in model.named_parameters()},
            shifted=lambda: _ids(model.prepare_decoder_input_ids_from_labels(labels)),
            make_probe=lambda decoder_ids: _Probe(model, inputs, labels, _to_device(decoder_ids, model.device)),
        )


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, list | np.ndarray):
        value = torch.tensor(value)
    return value.to(device) if isinstance(value, Tensor) else value


def _ids(value: Any) -> Any:
    """Return ids and masks as numpy arrays, other values as they are."""
    is_integer = isinstance(value, Tensor) and not value.is_floating_point()
    return value.cpu().numpy() if is_integer else value


@contextmanager
def _evaluating(model: nn.Module) -> Generator[None]:
    """Put a model into evaluation mode, and every module back into its own mode at the end."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Probe:
    """A batch on the model's device, with the decoder inputs and mask of training."""

    def __init__(
        self,
        model: PairModules,
        inputs: dict[str, Any],
        labels: Int[Tensor, "B T"],
        decoder_ids: Int[Tensor, "B T"],
    ) -> None:
        self._model, self._labels = model, labels
        self._inputs = {**inputs, "decoder_input_ids": decoder_ids}
        from_labels = "decoder_input_ids" not in inputs and isinstance(model.config, EncoderDecoderConfig)
        if from_labels and "decoder_attention_mask" not in inputs:
            implied = label_inputs(labels, special_tokens(model.config), model.decoder.spec)
            self._inputs = {**implied, **self._inputs}

    @property
    def gates(self) -> dict[str, bool]:
        """Name of every cross-attention gate -> True if it is not 0."""
        parameters = self._model.named_parameters()
        return {name: bool(gate.any()) for name, gate in parameters if name.endswith("cross_attn.gate")}

    @cached_property
    def _before(self) -> Float[Tensor, "B T V"]:
        return self._logits()

    def _logits(self, **changes: Any) -> Float[Tensor, "B T V"]:
        with torch.no_grad():
            return self._model(**{**self._inputs, **changes}, use_cache=False).logits

    def change_by_target(self, decoder_input_ids: Ids, cut: int) -> LogitChange:
        """Return how much other decoder inputs change the logits before position `cut`."""
        changed = _to_device(decoder_input_ids, self._model.device)
        return self._change(self._logits(decoder_input_ids=changed), cut)

    def change_by_source(self, input_ids: Ids | None) -> LogitChange:
        """Return how much another source changes the logits."""
        if input_ids is None:
            sources: Tensor = self._inputs["inputs_embeds"]
            others = sources.roll(1, 0)  # those of other pairs, unless all are alike
            others = sources.flip(-1) if others.equal(sources) else others
            return self._change(self._logits(inputs_embeds=others), None)
        return self._change(self._logits(input_ids=_to_device(input_ids, self._model.device)), None)

    def _change(self, after: Tensor, cut: int | None) -> LogitChange:
        before = self._before
        rounding = ROUNDING * torch.finfo(before.dtype).eps * before.float().abs().max().item()
        return (before[:, :cut].float() - after[:, :cut].float()).abs().max().item(), rounding

    def loss(self) -> float:
        """Return the loss of the batch."""
        return self._loss(**self._inputs)

    def _loss(self, **inputs: Any) -> float:
        with torch.no_grad():
            return self._model(**inputs, labels=self._labels, use_cache=False, output_logits=False).loss.item()

    def loss_without_source(self) -> float:
        """Return the loss if the decoder may read no source position."""
        inputs = dict(self._inputs)
        with torch.no_grad():
            encoded = inputs.pop("encoder_outputs", None)
            if encoded is None:
                own = {n: inputs.get(n) for n in ("attention_mask", "token_type_ids", "position_ids", "inputs_embeds")}
                encoded = self._model.encoder(inputs.get("input_ids"), **own)
        states = encoded[0]
        mask = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
        blind = {"input_ids": None, "inputs_embeds": None, "encoder_outputs": encoded, "attention_mask": mask}
        return self._loss(**{**inputs, **blind})

    def with_gradient(self, names: Sequence[str]) -> set[str]:
        """Return the names of parameters whose gradient is not zero, without changing `.grad`."""
        parameters = dict(self._model.named_parameters())
        if not names:
            return set()
        with torch.enable_grad():
            loss = self._model(**self._inputs, labels=self._labels, use_cache=False).loss
            if not loss.requires_grad:
                return set()
            chosen = [parameters[name] for name in names]
            gradients = cast("tuple[Tensor | None, ...]", torch.autograd.grad(loss, chosen, allow_unused=True))
        return {name for name, g in zip(names, gradients, strict=True) if g is not None and bool(g.any())}
