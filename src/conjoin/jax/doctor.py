"""A joined model on a user's own batch, measured for the checks of `join/checks.py`."""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from conjoin.errors import ShapeError
from conjoin.functional.programs import inputs_of_labels
from conjoin.generation.prompt import encoder_states
from conjoin.jax.calls import target_rules
from conjoin.jax.ops import OPS
from conjoin.jax.outputs import Seq2SeqLMOutput
from conjoin.jax.training import parameter_table
from conjoin.join.checks import ROUNDING, Ids, LogitChange, diagnose
from conjoin.join.diagnosis import Diagnosis


def examine(model: Any, batch: Mapping[str, Any], trained: Collection[str] | None) -> Diagnosis:
    """See FlaxEncoderDecoderModel.doctor."""
    given = {name: np.asarray(value) for name, value in batch.items() if value is not None}
    if "labels" not in given:
        raise ShapeError("doctor: the batch has no labels.", hint="model.doctor({'input_ids': ..., 'labels': ...})")
    labels = given.pop("labels")
    table = parameter_table(model)
    return diagnose(
        model,
        given,
        labels,
        {name: kind.trained if trained is None else name in trained for name, kind in table.items()},
        shifted=lambda: np.asarray(_targets(model, labels)["decoder_input_ids"]),
        make_probe=lambda decoder_ids: _Probe(model, given, labels, decoder_ids),
    )


def _targets(model: Any, labels: Ids) -> dict[str, jax.Array]:
    """Decoder inputs and their mask, as training makes them."""
    rules, given = target_rules(model.config, {"labels": labels}), jnp.asarray(labels, jnp.int32)
    assert rules is not None
    return inputs_of_labels(OPS, rules, model.spec.decoder, {"labels": given})


class _Probe:
    """A batch, with decoder inputs and their mask as training makes them."""

    def __init__(self, model: Any, given: dict[str, Any], labels: Ids, decoder_ids: Ids) -> None:
        self._model, self._labels = model, labels
        made = {} if "decoder_input_ids" in given else _targets(model, labels)
        self._inputs = {**made, **given, "decoder_input_ids": decoder_ids}

    @property
    def gates(self) -> dict[str, bool]:
        """Gates of cross-attention, and whether each is open at all."""
        params = self._model.flat_params
        return {name: bool(np.any(gate)) for name, gate in params.items() if name.endswith("cross_attn.gate")}

    @cached_property
    def _before(self) -> Seq2SeqLMOutput:
        return self._call()

    def _call(self, **changes: Any) -> Any:
        """Labels are always given, so that one program serves logits and losses."""
        return self._model(**{**self._inputs, "labels": self._labels, **changes})

    def change_by_target(self, decoder_input_ids: Ids, cut: int) -> LogitChange:
        """How far other decoder inputs move the logits before position `cut`."""
        return self._change(self._call(decoder_input_ids=decoder_input_ids), cut)

    def change_by_source(self, input_ids: Ids | None) -> LogitChange:
        """How far another source moves the logits."""
        if input_ids is None:
            return self._change(self._call(inputs_embeds=self._inputs["inputs_embeds"][..., ::-1]), None)
        return self._change(self._call(input_ids=input_ids), None)

    def _change(self, after: Seq2SeqLMOutput, cut: int | None) -> LogitChange:
        before = self._before.logits
        assert before is not None and after.logits is not None
        one, other = (np.asarray(logits[:, :cut], np.float32) for logits in (before, after.logits))
        largest = float(jnp.abs(before.astype(jnp.float32)).max())
        return float(np.abs(one - other).max()), ROUNDING * float(cast(Any, jnp.finfo(before.dtype)).eps) * largest

    def loss(self) -> float:
        """The batch's loss."""
        assert self._before.loss is not None
        return float(self._before.loss)

    def loss_without_source(self) -> float:
        """The loss of the decoder when no source position may be read."""
        inputs = dict(self._inputs)
        encoded = inputs.pop("encoder_outputs", None)
        source = ("input_ids", "inputs_embeds", "attention_mask", "token_type_ids", "position_ids")
        own = {name: inputs.pop(name) for name in source if name in inputs}
        states = encoder_states(self._model.encode(**own) if encoded is None else encoded)
        blind = {"encoder_outputs": states, "attention_mask": np.zeros(states.shape[:2], np.int32)}
        output = self._model(**inputs, **blind, labels=self._labels)
        return float(output.loss)

    def with_gradient(self, names: Sequence[str]) -> set[str]:
        """Which parameters receive gradient that is not zero."""
        held = self._model.flat_params

        def loss(chosen: dict[str, jax.Array]) -> jax.Array:
            output: Any = self._model(**self._inputs, labels=self._labels, params={**held, **chosen})
            return output.loss

        gradients: dict[str, Any] = cast(Any, jax.jit(jax.grad(loss)))({name: held[name] for name in names})
        return {name for name, gradient in gradients.items() if bool(np.any(gradient))}
