"""forward takes and returns what transformers' does, and computes the same, gradients included."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle
from conjoin import ConfigError, ConjoinWarning, EncoderDecoderModel, ShapeError
from conjoin.families import MODULES
from conjoin.join import pair_names
from pairs import CLOSE, GPT, batch, fresh

PAIRS = [
    ("bert", "bert/small"),
    ("bert", "bert/untied"),
    ("roberta", "gpt2"),
    ("roberta", "gpt2/wide"),
    ("bert", "bart"),
    ("albert", "roberta/small"),
    ("distilbert", "electra"),
    ("modernbert", "xlm-roberta"),
    ("electra", "camembert"),
    ("camembert", "mbart"),
]
PAIRS = [pair for pair in PAIRS if all(oracle.model_type(key) in MODULES for key in pair)]
STATES = (
    "encoder_last_hidden_state",
    "encoder_hidden_states",
    "decoder_hidden_states",
    "encoder_attentions",
    "decoder_attentions",
    "cross_attentions",
)


def _gradients(model: EncoderDecoderModel) -> dict[str, Tensor]:
    """Gradients under the names of the file."""
    found = {n: p.grad for n, p in model.named_parameters(remove_duplicate=False) if p.grad is not None}
    undone = pair_names(model.config, model.spec).undo(found)
    return {undo.name: undo(*(found[name] for name in undo.canonical)) for undo in undone}


def _names_of_each(theirs: Any) -> dict[str, set[str]]:
    """Parameter -> every name that it has."""
    named = list(theirs.named_parameters(remove_duplicate=False))
    return {name: {other for other, q in named if q is p} for name, p in named}


def _check(name: str, ours: Any, theirs: Any) -> None:
    ours, theirs = (value if isinstance(value, tuple) else (value,) for value in (ours, theirs))
    assert len(ours) == len(theirs), name
    for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(one, other, **CLOSE, msg=lambda text, at=index: f"{name}[{at}]: {text}")


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_everything_that_transformers_computes_is_the_same(encoder: str, decoder: str, tmp_path: Path) -> None:
    theirs = oracle.save_pair(encoder, decoder, tmp_path)
    data = oracle.batch_for(encoder, decoder)
    expected = oracle.pair_outputs(theirs, data)
    model = EncoderDecoderModel.from_pretrained(tmp_path)
    ours = model(**data, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(ours.loss, expected.loss, **CLOSE)
    torch.testing.assert_close(ours.logits, expected.logits, **CLOSE)
    for name in STATES:
        _check(name, ours[name], getattr(expected, name))
    ours.loss.backward()
    gradients, same = _gradients(model), _names_of_each(theirs)
    assert not [name for name, g in expected.grads.items() if bool(g.any()) and not same[name] & set(gradients)]
    scale = max(float(g.abs().max()) for g in expected.grads.values())
    for name, gradient in expected.grads.items():
        for other in same[name] & set(gradients):
            _check(name, gradients[other] / scale, gradient / scale)


def test_labels_alone_make_the_same_decoder_inputs_as_in_transformers(tmp_path: Path) -> None:
    theirs = oracle.save_pair("bert", "bert/small", tmp_path)
    data = oracle.batch_for("bert", "bert/small")
    two = {name: data[name] for name in ("input_ids", "attention_mask", "labels")}
    model = EncoderDecoderModel.from_pretrained(tmp_path)
    assert torch.equal(model.prepare_decoder_input_ids_from_labels(data["labels"]), data["decoder_input_ids"])
    expected = oracle.pair_outputs(theirs, two)
    ours = model(**two)
    torch.testing.assert_close(ours.logits, expected.logits, **CLOSE)
    torch.testing.assert_close(ours.loss, expected.loss, **CLOSE)


def test_a_start_id_equal_to_the_pad_id_is_read_where_transformers_masks_it(tmp_path: Path) -> None:
    """GPT-2's usual setup, bos = eos = pad: transformers 5.23 hides position 0 in training, not in generation."""
    theirs = oracle.save_pair("bert", "gpt2", tmp_path, decoder_start_token_id=3)
    data = oracle.batch_for("bert", "gpt2")
    two = {name: data[name] for name in ("input_ids", "attention_mask", "labels")}
    explicit = {**data, "decoder_input_ids": data["decoder_input_ids"].clone()}
    explicit["decoder_input_ids"][:, 0] = 3
    model = EncoderDecoderModel.from_pretrained(tmp_path)
    ours = model(**two)
    right = oracle.pair_outputs(theirs, explicit)
    masked = oracle.pair_outputs(theirs, two)
    torch.testing.assert_close(ours.loss, right.loss, **CLOSE)
    assert not torch.allclose(right.logits, masked.logits, atol=1e-3)


@pytest.mark.parametrize("decoder", [None, GPT], ids=["bert", "gpt2"])
def test_a_cached_step_gives_what_the_full_pass_gives(decoder: Any) -> None:
    model = fresh(decoder=decoder) if decoder is not None else fresh()
    data = batch()
    ids = model.prepare_decoder_input_ids_from_labels(data["labels"])
    source = {name: data[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        full = model(**source, decoder_input_ids=ids)
        first = model(**source, decoder_input_ids=ids[:, :6])
        steps = [first.logits]
        for t in range(6, ids.shape[1]):
            step = model(
                attention_mask=data["attention_mask"],
                decoder_input_ids=ids[:, t : t + 1],
                past_key_values=first.past_key_values,
                encoder_outputs=(first.encoder_last_hidden_state,),
            )
            steps.append(step.logits)
    torch.testing.assert_close(torch.cat(steps, 1), full.logits, **CLOSE)


def test_the_result_is_read_by_attribute_key_and_place() -> None:
    output = fresh()(**batch(), output_hidden_states=True)
    assert output.loss is output["loss"] is output[0]
    assert output.logits is output["logits"] is output[1]
    loss, logits = output[:2]
    assert loss is output.loss and logits is output.logits
    assert list(output) == list(output.keys())
    assert "cross_attentions" not in output and output.cross_attentions is None
    assert len(output.to_tuple()) == len(output)
    again = pickle.loads(pickle.dumps(output))
    assert type(again) is type(output) and torch.equal(again.logits, output.logits)


def test_return_dict_false_gives_a_tuple_in_the_same_order() -> None:
    model, data = fresh(), batch()
    output, plain = model(**data), model(**data, return_dict=False)
    assert isinstance(plain, tuple)
    assert len(plain) == len(output.to_tuple())
    assert torch.equal(plain[1], output.logits)


def test_past_key_values_come_back_unless_training_or_asked_not_to() -> None:
    model, data = fresh(), batch()
    source = {"input_ids": data["input_ids"], "decoder_input_ids": torch.full((2, 3), 9)}
    assert model(**source).past_key_values.get_seq_length() == 3
    assert model(**source, use_cache=False).past_key_values is None
    assert model(**data).past_key_values is None
    assert model.train()(**source).past_key_values is None
    model.eval()
    model.decoder.config.use_cache = False
    assert model(**source).past_key_values is None


def test_what_is_asked_for_has_the_shapes_of_transformers() -> None:
    output = fresh()(**batch(), output_attentions=True, output_hidden_states=True)
    assert [tuple(t.shape) for t in output.encoder_attentions] == [(2, 5, 7, 7)] * 2
    assert [tuple(t.shape) for t in output.decoder_attentions] == [(2, 3, 11, 11)] * 2
    assert [tuple(t.shape) for t in output.cross_attentions] == [(2, 3, 11, 7)] * 2
    assert [tuple(t.shape) for t in output.encoder_hidden_states] == [(2, 7, 20)] * 3
    assert [tuple(t.shape) for t in output.decoder_hidden_states] == [(2, 11, 12)] * 3


@pytest.mark.parametrize("given", ["object", "tuple", "tensor"])
def test_an_earlier_encoding_takes_the_place_of_the_source(given: str) -> None:
    model, data = fresh(), batch()
    encoded = model.encoder(data["input_ids"], data["attention_mask"])
    forms = {"object": encoded, "tuple": encoded.to_tuple(), "tensor": encoded.last_hidden_state}
    rest = {name: data[name] for name in ("attention_mask", "labels")}
    assert torch.equal(model(encoder_outputs=forms[given], **rest).logits, model(**data).logits)


def test_embeddings_take_the_place_of_ids_on_both_sides() -> None:
    model, data = fresh(), batch()
    decoder_ids = model.prepare_decoder_input_ids_from_labels(data["labels"])
    mask = torch.ones_like(decoder_ids)
    by_ids = model(**data, decoder_input_ids=decoder_ids, decoder_attention_mask=mask)
    by_vectors = model(
        attention_mask=data["attention_mask"],
        inputs_embeds=model.encoder.embed.look_up(data["input_ids"]),
        decoder_inputs_embeds=model.decoder.embed.look_up(decoder_ids),
        decoder_attention_mask=mask,
        labels=data["labels"],
    )
    assert torch.equal(by_ids.logits, by_vectors.logits)
    assert torch.equal(by_ids.loss, by_vectors.loss)


def test_the_loss_is_the_mean_over_counted_labels() -> None:
    model, data = fresh(), batch()
    output = model(**data)
    each = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), data["labels"].flatten(), reduction="none")
    counted = data["labels"].flatten() != -100
    torch.testing.assert_close(output.loss, each[counted].mean())


def test_num_items_in_batch_makes_accumulation_exact() -> None:
    model, data = fresh(), batch()
    model(**data).loss.backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    items = int((data["labels"] != -100).sum())
    for row in range(2):
        piece = {name: value[row : row + 1] for name, value in data.items()}
        model(**piece, num_items_in_batch=items).loss.backward()
    for name, parameter in model.named_parameters():
        if name in whole:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-7)  # sums in another order


def test_label_smoothing_is_torch_s() -> None:
    model, data = fresh(), batch()
    output = model(**data, smoothing=0.2)
    expected = torch.nn.functional.cross_entropy(
        output.logits.flatten(0, 1), data["labels"].flatten(), label_smoothing=0.2
    )
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("more", [{}, {"smoothing": 0.1}, {"num_items_in_batch": 7}])
def test_logits_that_nobody_asks_for_are_not_kept(more: dict[str, Any]) -> None:
    model, data = fresh(), batch()
    lean, full = model(**data, output_logits=False, **more), model(**data, **more)
    assert lean.logits is None
    torch.testing.assert_close(lean.loss, full.loss)


@pytest.mark.parametrize("decoder", [None, GPT], ids=["bert", "gpt2"])
def test_gradient_checkpointing_gives_the_same_gradients(decoder: Any) -> None:
    model = (fresh(decoder=decoder) if decoder is not None else fresh()).train()
    data = batch()
    model(**data).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    model(**data).loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(found) == set(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_a_cache_asked_for_while_checkpointing_is_left_out_with_a_warning() -> None:
    model, data = fresh().train(), batch()
    model.gradient_checkpointing_enable()
    with pytest.warns(ConjoinWarning, match="use_cache=True has no effect"):
        output = model(**data, use_cache=True)
    assert output.past_key_values is None
    output.loss.backward()


def test_a_start_id_set_after_construction_is_honoured() -> None:
    model, data = fresh(), batch()
    model.config.decoder_start_token_id = 13
    assert model.prepare_decoder_input_ids_from_labels(data["labels"])[:, 0].tolist() == [13, 13]
    before = model(**data).loss
    model.config.decoder_start_token_id = 14
    assert not torch.equal(before, model(**data).loss)


def test_labels_without_a_start_id_say_what_to_write() -> None:
    model = fresh(bos_token_id=None)
    model.config.decoder_start_token_id = None
    with pytest.raises(ConfigError, match=r"model\.config\.decoder_start_token_id = tokenizer\.cls_token_id"):
        model(**batch())


def test_neither_labels_nor_decoder_inputs_is_an_error_that_names_both_uses() -> None:
    with pytest.raises(ShapeError, match=r"give labels=; to generate, call model\.generate"):
        fresh()(input_ids=batch()["input_ids"])


def test_a_copied_model_is_a_model_of_its_own() -> None:
    model, data = fresh(), batch()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.encoder.embed.words.weight.add_(1)
    assert not torch.equal(model(**data).logits, twin(**data).logits)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(**data).logits, model(**data).logits)
