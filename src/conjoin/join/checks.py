"""What a doctor checks of a model and a batch. Ids are looked at here; what takes a model, its backend measures."""

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
"""Label of a position that is not counted; as in every backend's loss."""
ROUNDING = 16
"""Differences below this many rounding errors of the largest logit are none."""
MOSTLY_PADDING = 0.75
"""Users whose batches were padded beyond this got models that write the same text for every source
(github.com/huggingface/transformers/issues/5489: 93 % padding)."""
FEW_LABELS = 0.1
TOO_GOOD = 0.1
"""A fresh model with less than this share of ln(vocabulary) as its loss has seen the answer."""

Ids = NDArray[Any]
Where = NDArray[np.bool_]
Moved = tuple[float, float]
"""Largest difference of logits, and the largest that rounding explains."""


class Patient(Protocol):
    """A joined model, as far as its words go."""

    config: PretrainedConfig
    join_report: JoinReport

    @property
    def spec(self) -> spec.PairSpec:
        """What the model is."""
        ...


class Ward(Protocol):
    """A model and a batch, as a backend measures them: without dropout, and with nothing changed behind."""

    def moved_by_target(self, decoder_input_ids: Ids, cut: int) -> Moved:
        """How far other decoder inputs move the logits before position `cut`."""
        ...

    def moved_by_source(self, input_ids: Ids | None) -> Moved:
        """How far another source moves the logits; None where embeddings are given, which are turned around."""
        ...

    def loss(self) -> float:
        """The batch's loss."""
        ...

    def loss_alone(self) -> float:
        """The loss of the decoder when no source position may be read."""
        ...

    def reached(self, names: Sequence[str]) -> set[str]:
        """Which of these parameters receive gradient that is not zero."""
        ...

    @property
    def gates(self) -> Mapping[str, bool]:
        """Gates of cross-attention by name, and whether each is open at all."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is known of a model and a batch.

    Args:
        given: Ids and masks of the batch, without labels; the names alone of what has no ids.
        decoder_ids: As training makes them of labels.
        parameters: Name -> whether it is trained, shared ones once.
    """

    model: Patient
    given: Mapping[str, Any]
    labels: Ids
    decoder_ids: Ids
    tokens: SpecialTokens
    parameters: Mapping[str, bool]
    ward: Ward


def diagnose(
    model: Patient,
    given: Mapping[str, Any],
    labels: Ids,
    parameters: Mapping[str, bool],
    *,
    shifted: Callable[[], Ids],
    admit: Callable[[Ids], Ward],
) -> Diagnosis:
    """Run every check; those that the failure of an earlier one makes meaningless are left out.

    Args:
        given, labels, parameters: See Case.
        shifted: Decoder inputs made of the labels, where none are given.
        admit: Decoder inputs -> what measures.
    """
    tokens = special_tokens(model.config)
    findings = [_check_ids(model, given, labels)]
    if findings[0].status == "failed":
        return Diagnosis(tuple(findings))
    findings += [_check_padding(model, given), _check_labels(given, labels, tokens)]
    try:
        shown = given.get("decoder_input_ids")
        decoder_ids = shifted() if shown is None else shown
    except ConfigError as error:
        return Diagnosis((*findings, failed("start", str(error).partition("\n")[0], error.hint or "")))
    case = Case(
        model=model,
        given=given,
        labels=labels,
        decoder_ids=decoder_ids,
        tokens=tokens,
        parameters=parameters,
        ward=admit(decoder_ids),
    )
    checks = (_check_start, _check_future, _check_source, _check_loss, _check_gradients)
    return Diagnosis((*findings, *(check(case) for check in checks)))


def _source_pad(model: Patient) -> int | None:
    config: Any = model.config
    return getattr(config, "encoder", config).pad_token_id


def _check_ids(model: Patient, given: Mapping[str, Any], labels: Ids) -> Finding:
    encoder, decoder = model.spec.encoder.vocab_size, model.spec.decoder.vocab_size
    wrong: list[str] = []
    ids = [(name, given[name]) for name in ("input_ids", "decoder_input_ids") if name in given]
    for name, value in (*ids, ("labels", np.where(labels == IGNORED, 0, labels))):
        size = encoder if name == "input_ids" else decoder
        if value.size and (int(value.max()) >= size or int(value.min()) < 0):
            low, high = int(value.min()), int(value.max())
            wrong.append(f"{name} has ids from {low} to {high}, the vocabulary has {size}")
    if wrong:
        fix = "use each half's own tokenizer; after adding tokens, model.resize_token_embeddings(encoder=, decoder=)"
        return failed("ids", "; ".join(wrong) + ".", fix)
    return passed("ids", "all ids are in their vocabularies.")


def _check_padding(model: Patient, given: Mapping[str, Any]) -> Finding:
    ids, mask = given.get("input_ids"), given.get("attention_mask")
    if ids is None:
        return skipped("padding", "no input_ids.")
    fix = "pass attention_mask: tokenizer(texts, padding=True, return_tensors='pt') makes it."
    real: Where = np.ones_like(ids, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    unread = int((~real.any(1)).sum())
    if unread:
        return failed("padding", f"{unread} of {len(ids)} sources have no real token.", "drop empty sources.")
    pad = _source_pad(model)
    read = _padding_runs(ids, pad) & real if pad is not None else np.zeros_like(real)
    if read.any():
        return failed("padding", f"{read.mean():.0%} of the source is padding that is read as text.", fix)
    if (share := (~real).mean()) > MOSTLY_PADDING:
        fix = "pad to the longest of the batch (padding=True, not 'max_length') and batch sources of like length."
        return failed("padding", f"{share:.0%} of the source is padding.", fix)
    return passed("padding", f"{share:.0%} of the source is padding.")


def _padding_runs(ids: Ids, pad: int) -> Where:
    """Where two or more pads stand together at an end of a row; one alone may be an end of text with the same id."""
    is_pad = (ids == pad).astype(np.int64)
    behind, before = is_pad[:, ::-1].cumprod(1)[:, ::-1], is_pad.cumprod(1)
    found: list[Where] = [(run > 0) & (run.sum(1, keepdims=True) > 1) for run in (behind, before)]
    return found[0] | found[1]


def _check_labels(given: Mapping[str, Any], labels: Ids, tokens: SpecialTokens) -> Finding:
    counted = labels != IGNORED
    share = counted.mean()
    if not counted.any(1).all():
        empty = int((~counted.any(1)).sum())
        return failed("labels", f"{empty} of {len(labels)} targets have no counted label.", "drop empty targets.")
    if tokens.pad is not None and (padded := _padding_runs(labels, tokens.pad)).any():
        detail = f"{padded.mean():.0%} of the labels are the pad id {tokens.pad}, and are counted by the loss."
        return failed("labels", detail, f"labels[labels == {tokens.pad}] = -100  # behind the end of each target")
    shown = given.get("decoder_input_ids")
    if shown is not None and shown.shape == labels.shape and (shown == labels)[counted].mean() > 0.5:
        detail = "decoder_input_ids equal the labels: every position is shown what it must predict."
        return failed("labels", detail, "leave decoder_input_ids out; they are made from labels, shifted by one.")
    if tokens.eos and not np.isin(labels, tokens.eos).any():
        detail = f"no target ends in an end token ({', '.join(map(str, tokens.eos))}), so generation would never stop."
        return failed("labels", detail, "model.tokenizer(texts, text_target=targets) adds it, or append it yourself.")
    if share < FEW_LABELS:
        return failed("labels", f"only {share:.0%} of the labels are counted.", "batch targets of like length.")
    return passed("labels", f"{share:.0%} of the labels are counted, the rest is -100.")


def _check_start(case: Case) -> Finding:
    training = sorted({int(first) for first in case.decoder_ids[:, 0]})
    settings = getattr(case.model, "generation_config", None)
    said = getattr(settings, "decoder_start_token_id", None)
    generation = case.tokens.start if said is None else said
    fix = (
        "leave decoder_input_ids out of the batch, or set model.config.decoder_start_token_id to what they start with."
    )
    if generation is None:
        return failed("start", "decoder_start_token_id is not set, so generate cannot start.", fix)
    if training != [generation] and len(training) == 1:
        return failed("start", f"training starts with id {training[0]}, generation with {generation}.", fix)
    if len(training) > 1:
        return passed("start", "targets start with ids of their own.")
    return passed("start", f"training and generation start with id {generation}.")


def _check_future(case: Case) -> Finding:
    cut = case.decoder_ids.shape[1] // 2
    if cut == 0:
        return skipped("future", "targets have one position.")
    changed = case.decoder_ids.copy()
    changed[:, cut:] = _others(changed[:, cut:], case.model.spec.decoder.vocab_size, case.tokens.pad)
    moved, rounding = case.ward.moved_by_target(changed, cut)
    if moved > rounding:
        detail = f"tokens from position {cut} on move logits before it by {moved:.2g}: the decoder sees the future."
        return failed(
            "future", detail, "the decoder is not causal; report it with its config.json, this is a bug of conjoin."
        )
    return passed("future", "later target tokens do not change earlier logits.")


def _check_source(case: Case) -> Finding:
    model, ids = case.model, case.given.get("input_ids")
    if ids is None and "inputs_embeds" not in case.given:
        return skipped("source", "the batch has neither input_ids nor inputs_embeds.")
    changed = None if ids is None else _others(ids, model.spec.encoder.vocab_size, _source_pad(model))
    moved, rounding = case.ward.moved_by_source(changed)
    if moved > rounding:
        return passed("source", f"another source moves the logits by up to {moved:.2g}.")
    if _closed(case.ward):
        return passed("source", "not read yet: cross_attention_init='zero_gate' opens its gates in training.")
    detail = "another source does not change the logits: the decoder does not read the encoder."
    return failed(
        "source", detail, "check attention_mask and model.join_report; cross-attention must not be all zeros."
    )


def _others(ids: Ids, size: int, pad: int | None) -> Ids:
    """Another id at every position; pads stay pads, and nothing becomes one."""
    other = (ids + 1) % size
    if pad is None:
        return other
    other = np.where(other == pad, (other + 1) % size, other)
    return np.where(ids == pad, ids, other)


def _closed(ward: Ward) -> bool:
    """Whether there are gates, and none is open."""
    gates = ward.gates
    return bool(gates) and not any(gates.values())


def _check_loss(case: Case) -> Finding:
    loss, alone = case.ward.loss(), case.ward.loss_alone()
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
    watched = _watched(case.parameters, fresh, closed=_closed(case.ward))
    frozen = sorted(layer for layer, names in watched.items() if not any(case.parameters[name] for name in names))
    if lost := [layer for layer in frozen if fresh & set(watched[layer])]:
        detail = f"fresh parameters are frozen: {_some(lost)}."
        return failed("gradients", detail, "model.unfreeze('cross_attention')  # or the part that holds them")
    reached = case.ward.reached([name for names in watched.values() for name in names if case.parameters[name]])
    dry = [layer for layer, names in watched.items() if layer not in frozen and not reached & set(names)]
    if dry:
        detail = f"no gradient reaches {_some(sorted(dry))}."
        return failed(
            "gradients", detail, "check attention_mask and labels; a layer may have been detached or replaced."
        )
    what = "fresh parameters" if fresh else "cross-attention"
    return passed("gradients", f"reach {what} ({len(watched) - len(frozen)} layers).")


def _watched(names: Collection[str], fresh: set[str], *, closed: bool) -> dict[str, list[str]]:
    """Fresh parameters, or those of cross-attention where none is, by the layer they are in.

    Behind a closed gate nothing but the gate can receive gradient.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        chosen = name in fresh if fresh else part_of(name).endswith("cross_attention")
        if chosen and not (closed and _behind_gate(name)):
            groups.setdefault(".".join(name.split(".")[: 4 if ".blocks." in name else 2]), []).append(name)
    return groups


def _behind_gate(name: str) -> bool:
    part = part_of(name)
    return part.startswith("encoder") or (part.endswith("cross_attention") and not name.endswith(".gate"))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
