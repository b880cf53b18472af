"""Checks of a joined model on a user's own batch, before hours of training find out. Nothing is changed by them."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConfigError, ShapeError
from conjoin.join import SpecialTokens, part_of, special_tokens
from conjoin.join.diagnosis import Diagnosis, Finding, failed, passed, skipped
from conjoin.torch.loss import IGNORED, label_mask

if TYPE_CHECKING:
    from conjoin.torch.model import EncoderDecoderModel

ROUNDING = 16
"""Differences below this many rounding errors of the largest logit are none."""
MOSTLY_PADDING = 0.75
"""Users whose batches were padded beyond this got models that write the same text for every source
(github.com/huggingface/transformers/issues/5489: 93 % padding)."""
FEW_LABELS = 0.1
TOO_GOOD = 0.1
"""A fresh model with less than this share of ln(vocabulary) as its loss has seen the answer."""


class WithDoctor:
    """A model that can be checked on a batch."""

    def doctor(self, batch: Mapping[str, Any]) -> Diagnosis:
        """Check that this model can learn from this batch; run it on the first one.

        No target position looks at later ones; the source changes the logits; ids, padding and labels are sound;
        training and generation start alike; the loss is where a start is; fresh parameters receive gradient.
        Parameters, gradients, random state and mode stay as they are.

        Args:
            batch: What forward takes, with `labels`.

        Returns:
            Findings; print them. `.ok` says whether all is well, and each failed one has its `fix`.
        """
        return diagnose(cast("EncoderDecoderModel", self), batch)


@dataclass(frozen=True, slots=True)
class _Case:
    """A batch on the model's device, with decoder inputs as training makes them."""

    model: "EncoderDecoderModel"
    inputs: dict[str, Any]
    labels: Int[Tensor, "B T"]
    decoder_ids: Int[Tensor, "B T"]
    tokens: SpecialTokens

    def logits(self, **changes: Any) -> Float[Tensor, "B T V"]:
        """Scores with some inputs changed."""
        with torch.no_grad():
            return self.model(**{**self.inputs, **changes}, use_cache=False).logits


def diagnose(model: "EncoderDecoderModel", batch: Mapping[str, Any]) -> Diagnosis:
    """Run every check; those that the failure of an earlier one makes meaningless are left out."""
    given = {name: _to_device(value, model.device) for name, value in batch.items() if value is not None}
    if "labels" not in given:
        raise ShapeError("doctor: the batch has no labels.", hint="model.doctor({'input_ids': ..., 'labels': ...})")
    labels = given.pop("labels")
    tokens = special_tokens(model.config)
    findings = [_check_ids(model, given, labels)]
    if findings[0].status == "failed":
        return Diagnosis(tuple(findings))
    findings += [_check_padding(model, given), _check_labels(given, labels, tokens)]
    try:
        decoder_ids = given.get("decoder_input_ids")
        decoder_ids = model.prepare_decoder_input_ids_from_labels(labels) if decoder_ids is None else decoder_ids
    except ConfigError as error:
        fix = error.hint or ""
        return Diagnosis((*findings, failed("start", str(error).partition("\n")[0], fix)))
    with _evaluating(model):
        case = _Case(model, _as_training(model, given, labels, decoder_ids), labels, decoder_ids, tokens)
        checks = (_check_start, _check_future, _check_source, _check_loss, _check_gradients)
        findings += [check(case) for check in checks]
    return Diagnosis(tuple(findings))


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        value = torch.tensor(value)
    return value.to(device) if isinstance(value, Tensor) else value


def _as_training(
    model: "EncoderDecoderModel", given: dict[str, Any], labels: Tensor, decoder_ids: Tensor
) -> dict[str, Any]:
    """The inputs that forward makes from labels, spelt out so that they can be changed."""
    inputs = {**given, "decoder_input_ids": decoder_ids}
    made_here = "decoder_input_ids" not in given and isinstance(model.config, EncoderDecoderConfig)
    if made_here and "decoder_attention_mask" not in given:
        inputs["decoder_attention_mask"] = label_mask(labels, special_tokens(model.config))
    return inputs


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


def _check_ids(model: "EncoderDecoderModel", given: dict[str, Any], labels: Tensor) -> Finding:
    sizes = {"input_ids": model.spec.encoder.vocab_size, "decoder_input_ids": model.spec.decoder.vocab_size}
    wrong: list[str] = []
    ids = {name: given[name] for name in sizes if name in given} | {"labels": labels.masked_fill(labels == IGNORED, 0)}
    for name, value in ids.items():
        size = sizes.get(name, model.spec.decoder.vocab_size)
        if value.numel() and (int(value.max()) >= size or int(value.min()) < 0):
            low, high = int(value.min()), int(value.max())
            wrong.append(f"{name} has ids from {low} to {high}, the vocabulary has {size}")
    if wrong:
        fix = "use each half's own tokenizer; after adding tokens, model.resize_token_embeddings(encoder=, decoder=)"
        return failed("ids", "; ".join(wrong) + ".", fix)
    return passed("ids", "all ids are in their vocabularies.")


def _check_padding(model: "EncoderDecoderModel", given: dict[str, Any]) -> Finding:
    ids, mask = given.get("input_ids"), given.get("attention_mask")
    if ids is None:
        return skipped("padding", "no input_ids.")
    fix = "pass attention_mask: tokenizer(texts, padding=True, return_tensors='pt') makes it."
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    unread = int((~real.any(1)).sum())
    if unread:
        return failed("padding", f"{unread} of {len(ids)} sources have no real token.", "drop empty sources.")
    pad = model.encoder.config.pad_token_id
    read = _padding_runs(ids, pad) & real if pad is not None else torch.zeros_like(real)
    if bool(read.any()):
        return failed("padding", f"{_share(read)} of the source is padding that is read as text.", fix)
    if (share := (~real).float().mean().item()) > MOSTLY_PADDING:
        fix = "pad to the longest of the batch (padding=True, not 'max_length') and batch sources of like length."
        return failed("padding", f"{share:.0%} of the source is padding.", fix)
    return passed("padding", f"{share:.0%} of the source is padding.")


def _padding_runs(ids: Int[Tensor, "B S"], pad: int) -> Bool[Tensor, "B S"]:
    """Where two or more pads stand together at an end of a row; one alone may be an end of text with the same id."""
    is_pad = (ids == pad).long()
    behind, before = is_pad.flip(1).cumprod(1).flip(1), is_pad.cumprod(1)
    runs = torch.zeros_like(is_pad, dtype=torch.bool)
    for run in (behind, before):
        runs |= run.bool() & (run.sum(1, keepdim=True) > 1)
    return runs


def _share(where: Bool[Tensor, "B S"]) -> str:
    return f"{where.float().mean().item():.0%}"


def _check_labels(given: dict[str, Any], labels: Int[Tensor, "B T"], tokens: SpecialTokens) -> Finding:
    counted = labels != IGNORED
    share = counted.float().mean().item()
    if not bool(counted.any(1).all()):
        empty = int((~counted.any(1)).sum())
        return failed("labels", f"{empty} of {len(labels)} targets have no counted label.", "drop empty targets.")
    if tokens.pad is not None and bool((padded := _padding_runs(labels, tokens.pad)).any()):
        detail = f"{_share(padded)} of the labels are the pad id {tokens.pad}, and are counted by the loss."
        return failed("labels", detail, f"labels[labels == {tokens.pad}] = -100  # behind the end of each target")
    shown = given.get("decoder_input_ids")
    if shown is not None and shown.shape == labels.shape and bool((shown == labels)[counted].float().mean() > 0.5):
        detail = "decoder_input_ids equal the labels: every position is shown what it must predict."
        return failed("labels", detail, "leave decoder_input_ids out; they are made from labels, shifted by one.")
    ends = torch.tensor(tokens.eos or (-1,), device=labels.device)
    if tokens.eos and not bool(torch.isin(labels, ends).any()):
        detail = f"no target ends in an end token ({', '.join(map(str, tokens.eos))}), so generation would never stop."
        return failed("labels", detail, "model.tokenizer(texts, text_target=targets) adds it, or append it yourself.")
    if share < FEW_LABELS:
        return failed("labels", f"only {share:.0%} of the labels are counted.", "batch targets of like length.")
    return passed("labels", f"{share:.0%} of the labels are counted, the rest is -100.")


def _check_start(case: _Case) -> Finding:
    training = sorted({int(first) for first in case.decoder_ids[:, 0]})
    generation = case.tokens.start
    settings = getattr(case.model, "generation_config", None)
    said = getattr(settings, "decoder_start_token_id", None)
    generation = generation if said is None else said
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


def _check_future(case: _Case) -> Finding:
    cut = case.decoder_ids.shape[1] // 2
    if cut == 0:
        return skipped("future", "targets have one position.")
    changed = case.decoder_ids.clone()
    changed[:, cut:] = _others(changed[:, cut:], case.model.spec.decoder.vocab_size, case.tokens.pad)
    before, after = case.logits(), case.logits(decoder_input_ids=changed)
    moved = _difference(before[:, :cut], after[:, :cut])
    if moved > _rounding(before):
        detail = f"tokens from position {cut} on move logits before it by {moved:.2g}: the decoder sees the future."
        return failed(
            "future", detail, "the decoder is not causal; report it with its config.json, this is a bug of conjoin."
        )
    return passed("future", "later target tokens do not change earlier logits.")


def _check_source(case: _Case) -> Finding:
    model, ids, embeds = case.model, case.inputs.get("input_ids"), case.inputs.get("inputs_embeds")
    if ids is not None:
        changed = {"input_ids": _others(ids, model.spec.encoder.vocab_size, model.encoder.config.pad_token_id)}
    elif embeds is not None:
        changed = {"inputs_embeds": embeds.flip(-1)}
    else:
        return skipped("source", "the batch has neither input_ids nor inputs_embeds.")
    before = case.logits()
    moved = _difference(before, case.logits(**changed))
    if moved > _rounding(before):
        return passed("source", f"another source moves the logits by up to {moved:.2g}.")
    if _closed_gates(model):
        return passed("source", "not read yet: cross_attention_init='zero_gate' opens its gates in training.")
    detail = "another source does not change the logits: the decoder does not read the encoder."
    return failed(
        "source", detail, "check attention_mask and model.join_report; cross-attention must not be all zeros."
    )


def _others(ids: Int[Tensor, "B T"], size: int, pad: int | None) -> Int[Tensor, "B T"]:
    """Another id at every position; pads stay pads, and nothing becomes one."""
    other = (ids + 1) % size
    if pad is None:
        return other
    other = torch.where(other == pad, (other + 1) % size, other)
    return torch.where(ids == pad, ids, other)


def _difference(one: Tensor, other: Tensor) -> float:
    return (one.float() - other.float()).abs().max().item()


def _rounding(logits: Tensor) -> float:
    """The largest difference that rounding explains."""
    return ROUNDING * torch.finfo(logits.dtype).eps * logits.float().abs().max().item()


def _closed_gates(model: nn.Module) -> bool:
    gates = [parameter for name, parameter in model.named_parameters() if name.endswith("cross_attn.gate")]
    return bool(gates) and not any(bool(gate.any()) for gate in gates)


def _check_loss(case: _Case) -> Finding:
    loss, alone = _loss(case), _loss_alone(case)
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


def _loss(case: _Case) -> float:
    with torch.no_grad():
        return case.model(**case.inputs, labels=case.labels, use_cache=False, output_logits=False).loss.item()


def _loss_alone(case: _Case) -> float:
    """The loss of the decoder when no source position may be read."""
    inputs = dict(case.inputs)
    with torch.no_grad():
        encoded = inputs.pop("encoder_outputs", None)
        if encoded is None:
            own = {n: inputs.get(n) for n in ("attention_mask", "token_type_ids", "position_ids", "inputs_embeds")}
            encoded = case.model.encoder(inputs.get("input_ids"), **own)
        states = encoded[0]
        nothing = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device)
        blind = {
            **inputs,
            "input_ids": None,
            "inputs_embeds": None,
            "encoder_outputs": encoded,
            "attention_mask": nothing,
        }
        return case.model(**blind, labels=case.labels, use_cache=False, output_logits=False).loss.item()


def _check_gradients(case: _Case) -> Finding:
    model = case.model
    watched = _watched(model)
    frozen = sorted(group for group, each in watched.items() if not any(p.requires_grad for p in each.values()))
    fresh = set(model.join_report.fresh)
    if lost := [group for group in frozen if fresh & set(watched[group])]:
        detail = f"fresh parameters are frozen: {_some(lost)}."
        return failed("gradients", detail, "model.unfreeze('cross_attention')  # or the part that holds them")
    reached = _reached(case, {n: p for each in watched.values() for n, p in each.items() if p.requires_grad})
    dry = [group for group, each in watched.items() if group not in frozen and not reached & set(each)]
    if dry:
        detail = f"no gradient reaches {_some(sorted(dry))}."
        return failed(
            "gradients", detail, "check attention_mask and labels; a layer may have been detached or replaced."
        )
    what = "fresh parameters" if fresh else "cross-attention"
    return passed("gradients", f"reach {what} ({len(watched) - len(frozen)} layers).")


def _watched(model: "EncoderDecoderModel") -> dict[str, dict[str, nn.Parameter]]:
    """Fresh parameters, or those of cross-attention where none is, by the layer they are in.

    Behind a closed gate nothing but the gate can receive gradient.
    """
    fresh = set(model.join_report.fresh)
    closed = _closed_gates(model)
    groups: dict[str, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        chosen = name in fresh if fresh else part_of(name).endswith("cross_attention")
        if chosen and not (closed and _behind_gate(name)):
            groups.setdefault(".".join(name.split(".")[: 4 if ".blocks." in name else 2]), {})[name] = parameter
    return groups


def _behind_gate(name: str) -> bool:
    part = part_of(name)
    return part.startswith("encoder") or (part.endswith("cross_attention") and not name.endswith(".gate"))


def _reached(case: _Case, parameters: dict[str, nn.Parameter]) -> set[str]:
    """Names of parameters whose gradient is not zero; `.grad` is not touched."""
    if not parameters:
        return set()
    with torch.enable_grad():
        loss = case.model(**case.inputs, labels=case.labels, use_cache=False).loss
        if not loss.requires_grad:
            return set()
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name for name, g in zip(parameters, gradients, strict=True) if g is not None and bool(g.any())}


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
