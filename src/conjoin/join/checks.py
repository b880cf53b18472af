"""The doctor's checks of a model and a batch. Ids are checked here; what needs the model is measured by its backend."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from conjoin import spec
from conjoin.errors import ConfigError
from conjoin.families import PretrainedConfig
from conjoin.join.diagnosis import Diagnosis, Finding, failed, passed, skipped
from conjoin.join.plan import JoinReport, part_of
from conjoin.join.tokens import SpecialTokens, special_tokens

IGNORED = -100
"""Label of a position that is not counted, as in every backend's loss."""
ROUNDING = 16
"""Logits are equal if they differ by less than this many rounding errors of the largest logit."""
MOSTLY_PADDING = 0.75
"""Largest share of padding. Users with more got models that generate the same text for every source
(github.com/huggingface/transformers/issues/5489: 93 % padding)."""
FEW_LABELS = 0.1
TOO_GOOD = 0.1
"""If the loss of a fresh model is below this share of ln(vocabulary), the model sees the answer."""

Ids = NDArray[Any]
Mask = NDArray[np.bool_]
LogitChange = tuple[float, float]
"""Largest difference of logits, and the largest that rounding explains."""


class JoinedModel(Protocol):
    """The attributes of a joined model that the checks read."""

    config: PretrainedConfig
    join_report: JoinReport

    @property
    def spec(self) -> spec.PairSpec:
        """The model's spec."""
        ...


class Probe(Protocol):
    """A backend's measurements of a model on a batch: without dropout, and leaving the model unchanged."""

    def change_by_target(self, decoder_input_ids: Ids, cut: int) -> LogitChange:
        """Return how much other decoder inputs change the logits before position `cut`."""
        ...

    def change_by_source(self, input_ids: Ids | None) -> LogitChange:
        """Return how much another source changes the logits; None reverses the batch's input embeddings."""
        ...

    def loss(self) -> float:
        """Return the batch's loss."""
        ...

    def loss_without_source(self) -> float:
        """Return the decoder's loss if no source position may be read."""
        ...

    def with_gradient(self, names: Sequence[str]) -> set[str]:
        """Return those of the parameters whose gradient is not zero."""
        ...

    @property
    def gates(self) -> Mapping[str, bool]:
        """Cross-attention gates by name, and whether each is open at all."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model, a batch, and a probe that measures the model on it.

    Args:
        inputs: Ids and masks of the batch, without labels; inputs that are not ids (embeddings) have only their names
        here. decoder_ids: Decoder inputs, as training makes them from the labels.
        parameters: Name -> whether the parameter is trained; shared parameters appear once.
    """

    model: JoinedModel
    inputs: Mapping[str, Any]
    labels: Ids
    decoder_ids: Ids
    tokens: SpecialTokens
    parameters: Mapping[str, bool]
    probe: Probe


def diagnose(
    model: JoinedModel,
    inputs: Mapping[str, Any],
    labels: Ids,
    parameters: Mapping[str, bool],
    *,
    shifted: Callable[[], Ids],
    make_probe: Callable[[Ids], Probe],
) -> Diagnosis:
    """Run every check, except those that the failure of an earlier one makes meaningless.

    Args:
        inputs, labels, parameters: See Case.
        shifted: Makes decoder inputs from the labels, for a batch without decoder inputs.
        make_probe: Decoder inputs -> probe.
    """
    tokens = special_tokens(model.config)
    findings = [_check_ids(model, inputs, labels)]
    if findings[0].status == "failed":
        return Diagnosis(tuple(findings))
    findings += [_check_padding(model, inputs), _check_labels(inputs, labels, tokens)]
    try:
        decoder_ids = inputs.get("decoder_input_ids")
        decoder_ids = shifted() if decoder_ids is None else decoder_ids
    except ConfigError as error:
        return Diagnosis((*findings, failed("start", str(error).partition("\n")[0], error.hint or "")))
    case = Case(
        model=model,
        inputs=inputs,
        labels=labels,
        decoder_ids=decoder_ids,
        tokens=tokens,
        parameters=parameters,
        probe=make_probe(decoder_ids),
    )
    checks = (_check_start, _check_future, _check_source, _check_loss, _check_gradients)
    return Diagnosis((*findings, *(check(case) for check in checks)))


def _source_pad(model: JoinedModel) -> int | None:
    config: Any = model.config
    return getattr(config, "encoder", config).pad_token_id


def _check_ids(model: JoinedModel, inputs: Mapping[str, Any], labels: Ids) -> Finding:
    encoder, decoder = model.spec.encoder.vocab_size, model.spec.decoder.vocab_size
    wrong: list[str] = []
    ids = [(name, inputs[name]) for name in ("input_ids", "decoder_input_ids") if name in inputs]
    for name, value in (*ids, ("labels", np.where(labels == IGNORED, 0, labels))):
        size = encoder if name == "input_ids" else decoder
        if value.size and (int(value.max()) >= size or int(value.min()) < 0):
            low, high = int(value.min()), int(value.max())
            wrong.append(f"{name} has ids from {low} to {high}, the vocabulary has {size}")
    if wrong:
        fix = "use each half's own tokenizer; after adding tokens, model.resize_token_embeddings(encoder=, decoder=)"
        return failed("ids", "; ".join(wrong) + ".", fix)
    return passed("ids", "all ids are in their vocabularies.")


def _check_padding(model: JoinedModel, inputs: Mapping[str, Any]) -> Finding:
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if ids is None:
        return skipped("padding", "no input_ids.")
    fix = "pass attention_mask: tokenizer(texts, padding=True, return_tensors='pt') makes it."
    real: Mask = np.ones_like(ids, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    empty = int((~real.any(1)).sum())
    if empty:
        return failed("padding", f"{empty} of {len(ids)} sources have no real token.", "drop empty sources.")
    pad = _source_pad(model)
    read_pads = _padding_runs(ids, pad) & real if pad is not None else np.zeros_like(real)
    if read_pads.any():
        return failed("padding", f"{read_pads.mean():.0%} of the source is padding that is read as text.", fix)
    if (share := (~real).mean()) > MOSTLY_PADDING:
        fix = "pad to the longest of the batch (padding=True, not 'max_length') and batch sources of similar length."
        return failed("padding", f"{share:.0%} of the source is padding.", fix)
    return passed("padding", f"{share:.0%} of the source is padding.")


def _padding_runs(ids: Ids, pad: int) -> Mask:
    """Mark runs of two or more pads at either end of a row; a single one may be an end of text with the same id."""
    is_pad = (ids == pad).astype(np.int64)
    trailing, leading = is_pad[:, ::-1].cumprod(1)[:, ::-1], is_pad.cumprod(1)
    runs: list[Mask] = [(run > 0) & (run.sum(1, keepdims=True) > 1) for run in (trailing, leading)]
    return runs[0] | runs[1]


def _check_labels(inputs: Mapping[str, Any], labels: Ids, tokens: SpecialTokens) -> Finding:
    counted = labels != IGNORED
    share = counted.mean()
    if not counted.any(1).all():
        empty = int((~counted.any(1)).sum())
        return failed("labels", f"{empty} of {len(labels)} targets have no counted label.", "drop empty targets.")
    if tokens.pad is not None and (padded := _padding_runs(labels, tokens.pad)).any():
        detail = f"{padded.mean():.0%} of the labels are the pad id {tokens.pad} and count in the loss."
        return failed("labels", detail, f"labels[labels == {tokens.pad}] = -100  # after the end of each target")
    decoder_ids = inputs.get("decoder_input_ids")
    if decoder_ids is not None and decoder_ids.shape == labels.shape and (decoder_ids == labels)[counted].mean() > 0.5:
        detail = "decoder_input_ids equal the labels: every position sees the token that it must predict."
        return failed("labels", detail, "leave decoder_input_ids out; they are made from labels, shifted by one.")
    if tokens.eos and not np.isin(labels, tokens.eos).any():
        detail = f"no target ends in an end token ({', '.join(map(str, tokens.eos))}), so generation would never stop."
        return failed("labels", detail, "model.tokenizer(texts, text_target=targets) adds it, or append it yourself.")
    if share < FEW_LABELS:
        return failed("labels", f"only {share:.0%} of the labels are counted.", "batch targets of similar length.")
    return passed("labels", f"{share:.0%} of the labels are counted, the rest is -100.")


def _check_start(case: Case) -> Finding:
    training = sorted({int(first) for first in case.decoder_ids[:, 0]})
    settings = getattr(case.model, "generation_config", None)
    setting = getattr(settings, "decoder_start_token_id", None)
    generation = case.tokens.start if setting is None else setting
    fix = (
        "leave decoder_input_ids out of the batch, or set model.config.decoder_start_token_id to what they start with."
    )
    if generation is None:
        return failed("start", "decoder_start_token_id is not set, so generate cannot start.", fix)
    if training != [generation] and len(training) == 1:
        return failed("start", f"training starts with id {training[0]}, generation with {generation}.", fix)
    if len(training) > 1:
        return passed("start", "targets start with different ids.")
    return passed("start", f"training and generation start with id {generation}.")


def _check_future(case: Case) -> Finding:
    cut = case.decoder_ids.shape[1] // 2
    if cut == 0:
        return skipped("future", "targets have one position.")
    changed = case.decoder_ids.copy()
    changed[:, cut:] = _others(changed[:, cut:], case.model.spec.decoder.vocab_size, case.tokens.pad)
    change, rounding = case.probe.change_by_target(changed, cut)
    if change > rounding:
        detail = f"tokens from position {cut} on change logits before it by {change:.2g}: the decoder sees the future."
        return failed(
            "future", detail, "the decoder is not causal: this is a bug of conjoin, report it with the config.json."
        )
    return passed("future", "later target tokens do not change earlier logits.")


def _check_source(case: Case) -> Finding:
    model, ids = case.model, case.inputs.get("input_ids")
    if ids is None and "inputs_embeds" not in case.inputs:
        return skipped("source", "the batch has neither input_ids nor inputs_embeds.")
    changed = None if ids is None else _others(ids, model.spec.encoder.vocab_size, _source_pad(model))
    change, rounding = case.probe.change_by_source(changed)
    if change > rounding:
        return passed("source", f"another source changes the logits by up to {change:.2g}.")
    if _all_closed(case.probe):
        return passed("source", "not read yet: cross_attention_init='zero_gate' opens its gates in training.")
    detail = "another source does not change the logits: the decoder does not read the encoder."
    return failed(
        "source", detail, "check attention_mask and model.join_report; cross-attention must not be all zeros."
    )


def _others(ids: Ids, size: int, pad: int | None) -> Ids:
    """Return a different id at every position; pads stay pads, and no other id becomes the pad id."""
    other = (ids + 1) % size
    if pad is None:
        return other
    other = np.where(other == pad, (other + 1) % size, other)
    return np.where(ids == pad, ids, other)


def _all_closed(probe: Probe) -> bool:
    """True if there are gates and none is open."""
    gates = probe.gates
    return bool(gates) and not any(gates.values())


def _check_loss(case: Case) -> Finding:
    loss, alone = case.probe.loss(), case.probe.loss_without_source()
    chance = math.log(case.model.spec.decoder.vocab_size)
    detail = f"{loss:.2f}; chance, ln(vocabulary), is {chance:.2f}, and the decoder without a source has {alone:.2f}."
    if not math.isfinite(loss):
        return failed(
            "loss", detail, "look for NaN in the checkpoints, and use bfloat16 or float32 rather than float16."
        )
    if loss > 1.25 * max(chance, alone) + 0.5:
        fix = "the target's tokenizer is probably not the decoder's; see also the findings above."
        return failed("loss", f"{detail} That is worse than chance.", fix)
    if case.model.join_report.fresh and loss < TOO_GOOD * chance:
        fix = "do not shift labels yourself: labels[t] is what position t must predict."
        return failed("loss", f"{detail} That is too good for fresh parameters: the answer is visible.", fix)
    return passed("loss", detail)


def _check_gradients(case: Case) -> Finding:
    fresh = set(case.model.join_report.fresh)
    layers = _checked_layers(case.parameters, fresh, closed=_all_closed(case.probe))
    frozen = sorted(layer for layer, names in layers.items() if not any(case.parameters[name] for name in names))
    if frozen_fresh := [layer for layer in frozen if fresh & set(layers[layer])]:
        detail = f"fresh parameters are frozen: {_some(frozen_fresh)}."
        return failed("gradients", detail, "model.unfreeze('cross_attention')  # or the part that holds them")
    reached = case.probe.with_gradient([name for names in layers.values() for name in names if case.parameters[name]])
    unreached = [layer for layer, names in layers.items() if layer not in frozen and not reached & set(names)]
    if unreached:
        detail = f"no gradient reaches {_some(sorted(unreached))}."
        return failed(
            "gradients", detail, "check attention_mask and labels; a layer may have been detached or replaced."
        )
    parts = {part_of(name) for names in layers.values() for name in names}
    target = "fresh parameters" if fresh else "cross-attention"
    target = "the decoder's layers" if parts == {"decoder.layers"} else target
    return passed("gradients", f"reach {target} ({len(layers) - len(frozen)} layers).")


def _checked_layers(names: Collection[str], fresh: set[str], *, closed: bool) -> dict[str, list[str]]:
    """Return layer -> fresh parameters; if none is fresh, parameters of cross-attention, or of a decoder without any.

    Behind a closed gate, only the gate itself can receive a gradient.
    """
    groups: dict[str, list[str]] = {}
    crossing = any(part_of(name).endswith("cross_attention") for name in names)
    part = "decoder.cross_attention" if crossing else "decoder.layers"
    for name in names:
        chosen = name in fresh if fresh else part_of(name) == part
        if chosen and not (closed and _behind_gate(name)):
            groups.setdefault(".".join(name.split(".")[: 4 if ".blocks." in name else 2]), []).append(name)
    return groups


def _behind_gate(name: str) -> bool:
    part = part_of(name)
    return part.startswith("encoder") or (part.endswith("cross_attention") and not name.endswith(".gate"))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
