"""A causal language model joined to itself learns in one pass over source and target what it learns in two."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conjoin import EncoderDecoderModel, ShapeError, spec
from conjoin.torch.model import route
from conjoin.torch.pair import one_pass
from lanes import lanes_of_keys
from source_readers import KEYS, ids_of, language_model, layerwise

LONG, TARGETS = (50, 21, 33), (9, 14, 5)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def shared(folder: Path, **settings: Any) -> EncoderDecoderModel:
    return layerwise(folder, share="all", **settings).train()


def passes_of(pair: EncoderDecoderModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What runs from now on."""
    ran = list[str]()
    for name in ("encoder", "decoder"):
        half = getattr(pair, name)
        monkeypatch.setattr(half, "run", lambda inputs, run=half.run, name=name: ran.append(name) or run(inputs))
    return ran


def step(pair: EncoderDecoderModel, **inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradients of a training step."""
    pair.zero_grad()
    loss = pair(**inputs, output_logits=False).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in pair.named_parameters() if p.grad is not None}


def equal(first: tuple[Tensor, dict[str, Tensor]], second: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(first[0], second[0], **CLOSE)
    assert first[1].keys() == second[1].keys()
    for name, gradient in second[1].items():
        torch.testing.assert_close(first[1][name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: n + text)


def learns_the_same_in_one_pass(
    pair: EncoderDecoderModel, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = passes_of(pair, monkeypatch)
    one = step(pair, **inputs)
    assert ran == ["decoder"]
    monkeypatch.setattr(one_pass, "_learns_as_one", lambda _: False)
    equal(one, step(pair, **inputs))


def takes_two_passes(pair: EncoderDecoderModel, monkeypatch: pytest.MonkeyPatch) -> None:
    (source, mask), (labels, _) = ids_of("mistral", (7, 4, 6)), ids_of("mistral", (5, 5, 5), 2)
    ran = passes_of(pair, monkeypatch)
    pair(input_ids=source, attention_mask=mask, labels=labels, output_logits=False)
    assert ran == ["encoder", "decoder"]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("key", lanes_of_keys(KEYS))
def test_one_pass_learns_what_two_do(
    key: str, packs: bool, side: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model(key, tmp_path)
    pair = shared(tmp_path)
    limit = pair.decoder.spec.max_positions
    lengths = LONG if limit is None or limit >= sum(map(max, (LONG, TARGETS))) else (7, 4, 6)
    (source, mask), (target, real) = ids_of(key, lengths, side=side), ids_of(key, TARGETS, 2)
    inputs = {"input_ids": source, "attention_mask": mask, "labels": target.masked_fill(real == 0, -100)}
    if not packs:
        monkeypatch.setattr(route, "can_pack", lambda *_: False)
    ran = passes_of(pair, monkeypatch)
    one = step(pair, **inputs)
    skips = spec.skipped_pads(pair.decoder.spec.embedding.position) is not None
    assert ran == (["encoder", "decoder"] if skips else ["decoder"])
    monkeypatch.setattr(one_pass, "_learns_as_one", lambda _: False)
    equal(one, step(pair, **inputs))
    pair.eval()
    with torch.no_grad():  # other kernels
        torch.testing.assert_close(pair(**inputs).loss, one[0], rtol=1e-4, atol=1e-4)


def test_holes_in_the_mask_and_labels_that_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model("mistral", tmp_path)
    pair = shared(tmp_path)
    (source, mask), (target, _) = ids_of("mistral", LONG), ids_of("mistral", (9, 9, 9), 2)
    mask[0, 3:9] = 0
    mask[2, 0] = 0
    labels = target.clone()
    labels[0, 4:], labels[1, 2:] = -100, -100
    labels[2] = -100  # a row of which nothing counts
    inputs = {"input_ids": source, "attention_mask": mask, "labels": labels}
    learns_the_same_in_one_pass(pair, inputs, monkeypatch)


SETTINGS: dict[str, Any] = {
    "ids of the decoder": lambda ids, mask: {"decoder_input_ids": ids},
    "ids and mask of the decoder": lambda ids, mask: {"decoder_input_ids": ids, "decoder_attention_mask": mask},
    "smoothing": lambda ids, mask: {"smoothing": 0.1},
    "a divisor": lambda ids, mask: {"num_items_in_batch": 77},
    "int32": lambda ids, mask: {"decoder_input_ids": ids.int()},
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_one_pass_under_other_settings(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model("mistral", tmp_path)
    pair = shared(tmp_path)
    (source, mask), (target, real) = ids_of("mistral", LONG), ids_of("mistral", TARGETS, 2)
    inputs = {"input_ids": source, "attention_mask": mask, "labels": target.masked_fill(real == 0, -100)}
    inputs |= SETTINGS[kind](target, real)
    learns_the_same_in_one_pass(pair, inputs, monkeypatch)


def test_checkpointing_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model("mistral", tmp_path)
    pair = shared(tmp_path)
    (source, mask), (labels, _) = ids_of("mistral", LONG), ids_of("mistral", (5, 5, 5), 2)
    inputs = {"input_ids": source, "attention_mask": mask, "labels": labels}
    plain = step(pair, **inputs)
    pair.gradient_checkpointing_enable()
    ran = passes_of(pair, monkeypatch)
    equal(plain, step(pair, **inputs))
    assert ran == ["decoder"]


def test_as_long_as_the_positions_and_no_longer(tmp_path: Path) -> None:
    language_model("gpt2", tmp_path)
    pair = shared(tmp_path)
    limit = pair.decoder.spec.max_positions
    assert limit is not None
    source, labels = ids_of("gpt2", (limit - 5,))[0], ids_of("gpt2", (5,), 2)[0]
    assert bool(pair(input_ids=source, labels=labels, output_logits=False).loss > 0)
    with pytest.raises(ShapeError, match=str(limit)):
        pair(input_ids=torch.cat((source, source[:, :1]), 1), labels=labels, output_logits=False)


def labels_after_a_hole(labels: Tensor) -> dict[str, Tensor]:
    return {"labels": labels.index_fill(1, torch.tensor([2]), -100)}  # the input after it is hidden, and read


FORWARDS: dict[str, Any] = {
    "logits": lambda pair, labels: {"output_logits": True},
    "hidden states": lambda pair, labels: {"output_hidden_states": True},
    "attentions": lambda pair, labels: {"output_attentions": True},
    "a cache": lambda pair, labels: {"use_cache": True},
    "positions": lambda pair, labels: {"decoder_position_ids": torch.arange(labels.shape[1])[None]},
    "labels after a hole": lambda pair, labels: labels_after_a_hole(labels),
}


@pytest.mark.parametrize("kind", FORWARDS)
def test_two_passes_where_more_is_asked_for_than_a_loss(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model("mistral", tmp_path)
    pair = shared(tmp_path)
    (source, mask), (labels, _) = ids_of("mistral", (7, 4, 6)), ids_of("mistral", (5, 5, 5), 2)
    ran = passes_of(pair, monkeypatch)
    inputs = {"input_ids": source, "attention_mask": mask, "labels": labels, "output_logits": False}
    assert bool(pair(**{**inputs, **FORWARDS[kind](pair, labels)}).loss > 0)
    assert ran == ["encoder", "decoder"]


def hooked(pair: EncoderDecoderModel) -> None:
    pair.encoder.blocks[0].register_forward_hook(lambda *_: None)


def changed(pair: EncoderDecoderModel) -> None:
    linear = pair.encoder.blocks[1].mlp.up  # pyright: ignore
    linear.weight = torch.nn.Parameter(linear.weight * 2)  # pyright: ignore


def hooked_backwards(pair: EncoderDecoderModel) -> None:
    pair.encoder.blocks[0].register_full_backward_hook(lambda *_: None)


def replaced(pair: EncoderDecoderModel) -> None:
    pair.encoder.forward = lambda *given, own=pair.encoder.forward, **more: own(*given, **more)  # pyright: ignore


def without_parameters(pair: EncoderDecoderModel) -> None:
    """As the replicas of DataParallel are, with tensors that are no parameters."""
    for half in (pair.encoder, pair.decoder):
        for module in half.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    del module._parameters[name]
                    setattr(module, name, parameter.detach().clone())


def without_gradients(pair: EncoderDecoderModel) -> None:
    torch.set_grad_enabled(False)


@pytest.mark.parametrize("change", [hooked, hooked_backwards, replaced, changed, without_parameters, without_gradients])
def test_two_passes_where_the_halves_are_no_longer_one(
    change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model("mistral", tmp_path)
    pair = shared(tmp_path)
    with torch.enable_grad():
        change(pair)
        takes_two_passes(pair, monkeypatch)


@pytest.mark.parametrize("settings", [{"share": "none"}, {"share": "all", "encoder_attention": "bidirectional"}])
def test_halves_with_weights_or_masks_of_their_own_take_two_passes(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    language_model("mistral", tmp_path)
    takes_two_passes(layerwise(tmp_path, **settings).train(), monkeypatch)


def test_a_causal_encoder_computes_no_padding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language_model("mistral", tmp_path)
    pair = layerwise(tmp_path).train()
    source, mask = ids_of("mistral", LONG, side="left")
    widths, layer = list[int](), pair.encoder._layer
    monkeypatch.setattr(
        pair.encoder, "_layer", lambda block, x, context: widths.append(x.shape[1]) or layer(block, x, context)
    )
    states = pair.encoder(source, mask).last_hidden_state
    assert set(widths) == {112}  # 104 real tokens and filler; 150 with padding
    with torch.no_grad():
        monkeypatch.setattr(route, "can_pack", lambda *_: False)
        padded = pair.encoder.train()(source, mask).last_hidden_state
    assert states is not None and padded is not None
    torch.testing.assert_close(states[mask.bool()], padded[mask.bool()], **CLOSE)
