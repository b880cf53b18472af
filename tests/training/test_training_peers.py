"""A plain loop, accelerate, transformers' Seq2SeqTrainer and peft train our model as they train their own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle_training
from conjoin import EncoderDecoderModel, Seq2SeqTrainer
from conjoin.training.loop.schedules import schedule
from training_toys import arguments, toy_model, toy_rows, weights

STEPS, ROWS, RATE = 4, 8, 1e-2
SCHEDULES: list[tuple[Any, str, int, dict[str, Any]]] = [
    ("linear", "linear", 3, {}),
    ("linear", "linear", 0, {}),
    ("cosine", "cosine", 3, {}),
    ("constant", "constant_with_warmup", 3, {}),
    ("constant", "constant", 0, {}),
    ("inverse_sqrt", "inverse_sqrt", 3, {}),
    ("inverse_sqrt", "inverse_sqrt", 0, {}),
]


@pytest.fixture
def model(tmp_path: Path) -> EncoderDecoderModel:
    return toy_model(tmp_path)


def ids(model: EncoderDecoderModel, count: int) -> list[dict[str, list[int]]]:
    rows = toy_rows(count)
    made = model.tokenizer([row["source"] for row in rows], text_target=[row["target"] for row in rows])
    names = ("input_ids", "attention_mask", "labels")
    return [dict(zip(names, row, strict=True)) for row in zip(*(made[name] for name in names), strict=True)]


def batches(model: EncoderDecoderModel) -> list[dict[str, Tensor]]:
    rows = ids(model, STEPS * ROWS)
    collate = oracle_training.collator(model.tokenizer)
    return [collate(rows[at : at + ROWS]) for at in range(0, len(rows), ROWS)]


def sources(batch: dict[str, Tensor]) -> dict[str, Any]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def written(model: Any, batch: dict[str, Tensor], **settings: Any) -> Tensor:
    return model.generate(**sources(batch), max_new_tokens=6, **settings)


def stirred(adapted: Any) -> Any:
    """Adapters that change what the model says; peft starts them at zero."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return adapted.eval()


def plain_loop(model: EncoderDecoderModel) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    model.train()
    for number, batch in enumerate(batches(model)):
        optimizer.param_groups[0]["lr"] = RATE * (1 - number / STEPS)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def check_same(one: EncoderDecoderModel, other: EncoderDecoderModel) -> None:
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-4, atol=1e-6)


def test_our_trainer_does_what_a_plain_loop_does(model: EncoderDecoderModel, tmp_path: Path) -> None:
    by_hand = toy_model(tmp_path)
    plain_loop(by_hand)
    args = arguments(
        tmp_path / "run",
        max_steps=STEPS,
        per_device_train_batch_size=ROWS,
        train_sampling_strategy="sequential",
        learning_rate=RATE,
        max_grad_norm=0.0,
    )
    Seq2SeqTrainer(model, args=args, train_dataset=toy_rows(STEPS * ROWS)).train()
    check_same(model, by_hand)


def test_accelerate_trains_it(model: EncoderDecoderModel, tmp_path: Path) -> None:
    from accelerate import Accelerator

    by_hand = toy_model(tmp_path)
    plain_loop(by_hand)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1)
    prepared, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0))
    prepared.train()
    for number, batch in enumerate(batches(model)):
        with accelerator.accumulate(prepared):
            optimizer.param_groups[0]["lr"] = RATE * (1 - number / STEPS)
            accelerator.backward(prepared(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
    accelerator.unwrap_model(prepared).save_pretrained(tmp_path / "saved")
    check_same(EncoderDecoderModel.from_pretrained(tmp_path / "saved"), by_hand)


def test_transformers_trainer_trains_it_and_accumulation_changes_nothing(tmp_path: Path) -> None:
    trained: list[EncoderDecoderModel] = []
    for rows, accumulation in ((8, 1), (2, 4)):
        model = toy_model(tmp_path)
        settings = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation}
        data = ids(model, 16)
        sgd = {"optim": "sgd", "learning_rate": 1.0, "train_sampling_strategy": "sequential"}
        oracle_training.train(model, model.tokenizer, data, tmp_path / "hf", max_steps=2, **sgd, **settings)
        trained.append(model)
    check_same(*trained)


def test_transformers_trainer_evaluates_it_and_lets_it_generate(model: EncoderDecoderModel, tmp_path: Path) -> None:
    data = ids(model, 8)
    trainer = oracle_training.train(model, model.tokenizer, data, tmp_path, max_steps=1, predict_with_generate=True)
    with torch.no_grad():
        batch = oracle_training.collator(model.tokenizer)(data[:4])
        assert trainer.evaluate()["eval_loss"] == pytest.approx(model.eval()(**batch).loss.item(), rel=1e-5)
    assert trainer.predict(data[:4], max_new_tokens=5).predictions.shape[0] == 4


# peft compares the encoder's word table with the decoder's head, as it does with transformers' own pairs.
@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied")
def test_peft_trains_adapters_and_merges_them(model: EncoderDecoderModel, tmp_path: Path) -> None:
    before = weights(model)
    adapted = oracle_training.lora(model, r"decoder\.blocks\.\d+\.cross_attn\.(q|v)")
    adapted.train()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    for batch in batches(model):
        adapted(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    batch = batches(model)[0]
    with torch.no_grad():
        expected = adapted.eval()(**batch).logits
    merged = adapted.merge_and_unload()
    changed = {name for name, value in weights(merged).items() if not torch.equal(value, before[name])}
    assert changed == {f"decoder.blocks.{n}.cross_attn.{m}.weight" for n in (0, 1) for m in ("q", "v")}
    merged.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        found = EncoderDecoderModel.from_pretrained(tmp_path / "merged")(**batch).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# peft's warning is the same as above.
@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied")
@pytest.mark.parametrize("targets", [["q", "v"], "all-linear"])
def test_peft_with_a_task_type_generates_saves_loads_and_merges(
    targets: list[str] | str, model: EncoderDecoderModel, tmp_path: Path
) -> None:
    batch = batches(model)[0]
    plain = toy_model(tmp_path)
    adapted = stirred(oracle_training.lora(model, targets, task_type="SEQ_2_SEQ_LM"))
    ids = written(adapted, batch, num_beams=2)
    with torch.no_grad():
        logits = adapted(**batch).logits
        assert not torch.allclose(logits, plain.eval()(**batch).logits, atol=1e-2)
    with adapted.disable_adapter():
        unchanged = written(adapted, batch)
    assert torch.equal(unchanged, written(plain, batch))
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = oracle_training.with_adapter(plain, tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, logits, rtol=0, atol=0)
    merged = loaded.merge_and_unload()
    assert type(merged) is EncoderDecoderModel
    with torch.no_grad():
        torch.testing.assert_close(merged(**batch).logits, logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(written(merged, batch, num_beams=2), ids)


def test_adapters_are_in_every_step_that_generate_takes(model: EncoderDecoderModel) -> None:
    """Their layers are called Linear too: our kernels must not take them for layers of ours."""
    batch = sources(batches(model)[0])
    adapted = stirred(oracle_training.lora(model, ["q", "v", "up"], task_type="SEQ_2_SEQ_LM"))
    found = adapted.generate(**batch, max_new_tokens=6, return_dict_in_generate=True, output_logits=True)
    with torch.no_grad():
        expected = adapted(**batch, decoder_input_ids=found.sequences[:, :-1]).logits
    for step, logits in enumerate(found.logits):
        torch.testing.assert_close(logits, expected[:, step], rtol=1e-4, atol=1e-5)


def test_a_loop_of_ones_own_over_prepared_steps_writes_what_generate_writes(model: EncoderDecoderModel) -> None:
    batch = sources(batches(model)[0])
    model.config.eos_token_id = None
    ids = torch.full((ROWS, 1), 2)
    given: dict[str, Any] = {"attention_mask": batch["attention_mask"], "use_cache": True, "labels": None}
    given = model._prepare_encoder_decoder_kwargs_for_generation(batch["input_ids"], given)
    assert torch.equal(given["encoder_outputs"].last_hidden_state, model.encoder(**batch).last_hidden_state)
    lengths: list[int] = []
    for _ in range(6):
        inputs = model.prepare_inputs_for_generation(ids, **given)
        lengths.append(inputs["decoder_input_ids"].shape[1])
        with torch.no_grad():
            output = model(**inputs)
        given["past_key_values"] = output.past_key_values
        ids = torch.cat((ids, output.logits[:, -1:].argmax(-1)), 1)
    assert lengths == [1] * 6
    assert torch.equal(ids, written(model, batch))


def test_prepared_steps_cut_what_belongs_to_the_ids(model: EncoderDecoderModel) -> None:
    ids = torch.arange(12).view(2, 6)
    found = model.prepare_inputs_for_generation(
        ids,
        next_sequence_length=2,
        decoder_position_ids=ids,
        is_first_iteration=True,
        labels=ids,
        encoder_outputs=(ids,),
    )
    assert set(found) == {"decoder_input_ids", "decoder_position_ids", "encoder_outputs"}
    assert torch.equal(found["decoder_input_ids"], ids[:, -2:])
    assert torch.equal(found["decoder_position_ids"], ids[:, -2:])


@pytest.mark.parametrize(("ours", "theirs", "warmup", "keywords"), SCHEDULES)
def test_schedules_are_those_of_transformers(ours: Any, theirs: str, warmup: int, keywords: dict[str, Any]) -> None:
    factor = schedule(ours, warmup, 10)
    expected = oracle_training.rates(theirs, warmup, 10, **keywords)
    assert [factor(step) for step in range(1, 11)] == pytest.approx(expected)
