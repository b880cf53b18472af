"""A joined model on a user's own batch, measured for the checks of `join/checks.py`. Nothing is changed by them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ShapeError
from conjoin.join import special_tokens
from conjoin.join.checks import ROUNDING, Ids, LogitChange, diagnose
from conjoin.join.diagnosis import Diagnosis
from conjoin.torch.model.loss import label_mask
from conjoin.torch.pair.modules import PairModules


def examine(model: PairModules, batch: Mapping[str, Any]) -> Diagnosis:
    """See EncoderDecoderModel.doctor."""
    given = {name: _to_device(value, model.device) for name, value in batch.items() if value is not None}
    if "labels" not in given:
        raise ShapeError("doctor: the batch has no labels.", hint="model.doctor({'input_ids': ..., 'labels': ...})")
    labels = given.pop("labels")
    with _evaluating(model):
        return diagnose(
            model,
            {name: _ids(value) for name, value in given.items()},
            _ids(labels),
            {name: parameter.requires_grad for name, parameter in model.named_parameters()},
            shifted=lambda: _ids(model.prepare_decoder_input_ids_from_labels(labels)),
            make_probe=lambda decoder_ids: _Probe(model, given, labels, _to_device(decoder_ids, model.device)),
        )


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, list | np.ndarray):
        value = torch.tensor(value)
    return value.to(device) if isinstance(value, Tensor) else value


def _ids(value: Any) -> Any:
    """What is looked at as numbers: ids and masks."""
    whole = isinstance(value, Tensor) and not value.is_floating_point()
    return value.cpu().numpy() if whole else value


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, module by module back to what it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Probe:
    """A batch on the model's device, with decoder inputs and their mask as training makes them."""

    def __init__(
        self,
        model: PairModules,
        given: dict[str, Any],
        labels: Int[Tensor, "B T"],
        decoder_ids: Int[Tensor, "B T"],
    ) -> None:
        self._model, self._labels = model, labels
        self._inputs = {**given, "decoder_input_ids": decoder_ids}
        made_here = "decoder_input_ids" not in given and isinstance(model.config, EncoderDecoderConfig)
        if made_here and "decoder_attention_mask" not in given:
            self._inputs["decoder_attention_mask"] = label_mask(labels, special_tokens(model.config))

    @property
    def gates(self) -> dict[str, bool]:
        """Gates of cross-attention, and whether each is open at all."""
        parameters = self._model.named_parameters()
        return {name: bool(gate.any()) for name, gate in parameters if name.endswith("cross_attn.gate")}

    @cached_property
    def _before(self) -> Float[Tensor, "B T V"]:
        return self._logits()

    def _logits(self, **changes: Any) -> Float[Tensor, "B T V"]:
        with torch.no_grad():
            return self._model(**{**self._inputs, **changes}, use_cache=False).logits

    def change_by_target(self, decoder_input_ids: Ids, cut: int) -> LogitChange:
        """How far other decoder inputs move the logits before position `cut`."""
        changed = _to_device(decoder_input_ids, self._model.device)
        return self._change(self._logits(decoder_input_ids=changed), cut)

    def change_by_source(self, input_ids: Ids | None) -> LogitChange:
        """How far another source moves the logits."""
        if input_ids is None:
            return self._change(self._logits(inputs_embeds=self._inputs["inputs_embeds"].flip(-1)), None)
        return self._change(self._logits(input_ids=_to_device(input_ids, self._model.device)), None)

    def _change(self, after: Tensor, cut: int | None) -> LogitChange:
        before = self._before
        rounding = ROUNDING * torch.finfo(before.dtype).eps * before.float().abs().max().item()
        return (before[:, :cut].float() - after[:, :cut].float()).abs().max().item(), rounding

    def loss(self) -> float:
        """The batch's loss."""
        return self._loss(**self._inputs)

    def _loss(self, **inputs: Any) -> float:
        with torch.no_grad():
            return self._model(**inputs, labels=self._labels, use_cache=False, output_logits=False).loss.item()

    def loss_without_source(self) -> float:
        """The loss of the decoder when no source position may be read."""
        inputs = dict(self._inputs)
        with torch.no_grad():
            encoded = inputs.pop("encoder_outputs", None)
            if encoded is None:
                own = {n: inputs.get(n) for n in ("attention_mask", "token_type_ids", "position_ids", "inputs_embeds")}
                encoded = self._model.encoder(inputs.get("input_ids"), **own)
        states = encoded[0]
        nothing = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
        blind = {"input_ids": None, "inputs_embeds": None, "encoder_outputs": encoded, "attention_mask": nothing}
        return self._loss(**{**inputs, **blind})

    def with_gradient(self, names: Sequence[str]) -> set[str]:
        """Which parameters receive gradient that is not zero; `.grad` is not touched."""
        held = dict(self._model.named_parameters())
        if not names:
            return set()
        with torch.enable_grad():
            loss = self._model(**self._inputs, labels=self._labels, use_cache=False).loss
            if not loss.requires_grad:
                return set()
            gradients = torch.autograd.grad(loss, [held[name] for name in names], allow_unused=True)
        return {name for name, g in zip(names, gradients, strict=True) if g is not None and bool(g.any())}
