"""LoRA and DoRA by flag: what is trained, what is saved, and that every way of loading computes the same."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from command_line import run_fixture  # noqa: F401  (a fixture)
from conjoin import ConfigError, EncoderDecoderModel, Seq2SeqTrainer, TrainingArguments, WeightError
from conjoin.checkpoint import fingerprints, refuse_adapter
from conjoin.join import part_of
from conjoin.torch.pair.lora import add_adapters, base_parameters, has_adapters, merge_adapters, merged_parameters
from training_toys import arguments, toy_model, toy_rows, weights, write_rows

IDS, LABELS = torch.tensor([[15, 16, 17, 3], [7, 8, 3, 0]]), torch.tensor([[18, 19, 3], [6, 3, -100]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
pytestmark = pytest.mark.filterwarnings("ignore:Model w.* `tie_word_embeddings=True`")


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, attention_mask=MASK, labels=LABELS).logits


def adapted(**settings: Any) -> EncoderDecoderModel:
    """A toy model whose adapters are not zero."""
    model = toy_model(seed=1)
    add_adapters(model, **{"rank": 3, **settings})
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(parameter, std=0.4, mean=1.0 if "magnitude" in name else 0.0)
    return model


def run_of(folder: Path, name: str = "run", **changes: Any) -> Seq2SeqTrainer:
    args = arguments(folder / name, **{"lora": 2, "save_steps": 2, "max_steps": 4, **changes})
    return Seq2SeqTrainer(toy_model(folder, dropout=0.1), args=args, train_dataset=toy_rows(32))


@pytest.mark.parametrize("dora", [False, True])
def test_an_untrained_adapter_changes_nothing(dora: bool) -> None:
    model = toy_model(seed=1)
    before = logits(model)
    add_adapters(model, rank=3, dora=dora)
    torch.testing.assert_close(logits(model), before, **CLOSE)


@pytest.mark.parametrize("dora", [False, True])
def test_what_is_merged_is_what_the_adapters_compute(dora: bool, tmp_path: Path) -> None:
    model = adapted(dora=dora)
    expected, names = logits(model), {*weights(toy_model())}
    assert not torch.allclose(expected, logits(toy_model(seed=1)), atol=0.1)
    merged = merged_parameters(model)
    torch.testing.assert_close(logits(model), expected)  # it stays as it was
    assert {*merged} == {*base_parameters(model)} >= names
    model.save_pretrained(tmp_path / "merged", state_dict=None)
    merge_adapters(model)
    assert not has_adapters(model) and {*weights(model)} == names
    torch.testing.assert_close(logits(model), expected, **CLOSE)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), merged[name])
        assert parameter.requires_grad


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_beside_the_weights_are_loaded_with_them(dora: bool, run: Any, tmp_path: Path) -> None:
    model = adapted(dora=dora)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(EncoderDecoderModel.from_pretrained(tmp_path)), expected, **CLOSE)
    without = EncoderDecoderModel.from_pretrained(tmp_path, merge_adapter=False)
    torch.testing.assert_close(logits(without), logits(toy_model(seed=1)), **CLOSE)
    by_peft = peft.PeftModel.from_pretrained(without, str(tmp_path))
    torch.testing.assert_close(logits(by_peft), expected, **CLOSE)
    with pytest.raises(ConfigError, match=r"holds an adapter .* which needs PyTorch"):
        refuse_adapter(tmp_path)
    for words in (("convert", tmp_path, "--to", "flax"), ("average", tmp_path, tmp_path, "--out", tmp_path / "mean")):
        told = run(*words)
        assert told.code == 1 and "holds an adapter" in told.err, told.err
    EncoderDecoderModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert not list(tmp_path.glob("adapter*"))
    torch.testing.assert_close(logits(EncoderDecoderModel.from_pretrained(tmp_path)), expected, **CLOSE)


def test_another_adapter_is_another_model(tmp_path: Path) -> None:
    adapted().save_pretrained(tmp_path)
    before = fingerprints(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path)
    assert fingerprints(tmp_path) != before
    save_file({name: tensor[:1] for name, tensor in tensors.items()}, path)
    with pytest.raises(WeightError, match="tensors of its adapter do not fit the model"):
        EncoderDecoderModel.from_pretrained(tmp_path)
    path.write_bytes(b"none")
    with pytest.raises(WeightError, match="cannot be read"):
        EncoderDecoderModel.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    with pytest.raises(ConfigError, match=r"peft_type = 'IA3'; expected LORA"):
        EncoderDecoderModel.from_pretrained(tmp_path)


def test_adapters_cross_attention_and_fresh_parameters_are_trained_and_nothing_else(tmp_path: Path) -> None:
    before = weights(toy_model())
    trainer = run_of(tmp_path, lora_targets="q, v", lora_merge=False)
    fresh = {*trainer.model.join_report.fresh}
    model = toy_model()
    model.join_report = trainer.model.join_report
    trainer.train()
    assert has_adapters(trainer.model)
    changed: set[str] = set()
    for name, parameter in base_parameters(trainer.model).items():
        if not torch.equal(parameter, before.get(name, parameter)):
            changed.add(name)
    assert {name for name in changed if part_of(name) != "decoder.cross_attention"} <= fresh
    cross = {name for name in before if part_of(name) == "decoder.cross_attention"}
    assert {name for name in cross if name.endswith("weight")} <= changed
    layers = {name.partition(".lora_")[0] for name, p in trainer.model.named_parameters() if ".lora_" in name}
    assert {name.rpartition(".")[2] for name in layers} == {"q", "v"}
    assert not any("cross_attn" in name for name in layers) and {name[:7] for name in layers} == {"encoder", "decoder"}


@pytest.mark.parametrize("changes", [{}, {"dora": True, "lora_dropout": 0.2, "lora_alpha": 1.5}, {"ema_decay": 0.5}])
def test_a_resumed_run_is_the_uninterrupted_one(changes: dict[str, Any], tmp_path: Path) -> None:
    same = {"lr_scheduler_type": "constant", **changes}
    whole = run_of(tmp_path, "whole", **same)
    whole.train()
    run_of(tmp_path, "parts", **same, max_steps=2).train()
    resumed = run_of(tmp_path, "parts", **same, resume_from_checkpoint="latest")
    resumed.train()
    pairs = zip(weights(whole.model).values(), weights(resumed.model).values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert {*weights(whole.model)} == {*weights(toy_model())}
    at_2, at_4 = (EncoderDecoderModel.from_pretrained(tmp_path / "whole" / f"checkpoint-{n}") for n in (2, 4))
    assert not torch.allclose(logits(at_2), logits(at_4), atol=1e-4)
    if "ema_decay" not in changes:  # which the final model has, and checkpoints keep beside the weights
        torch.testing.assert_close(logits(at_4), logits(whole.model), **CLOSE)


def test_the_best_checkpoint_comes_back_with_its_adapters(tmp_path: Path) -> None:
    settings = {"load_best_model_at_end": True, "greater_is_better": True, "eval_strategy": "steps", "eval_steps": 1}
    args = arguments(tmp_path / "run", lora=2, save_steps=1, max_steps=3, save_total_limit=None, **settings)
    trainer = Seq2SeqTrainer(
        toy_model(tmp_path), args=args, train_dataset=toy_rows(32), eval_dataset=toy_rows(8, seed=2)
    )
    trainer.train()

    def of_step(number: int) -> EncoderDecoderModel:
        return EncoderDecoderModel.from_pretrained(tmp_path / "run" / f"checkpoint-{number}")

    assert not torch.allclose(logits(trainer.model), logits(of_step(3)), atol=1e-3)
    torch.testing.assert_close(
        logits(EncoderDecoderModel.from_pretrained(tmp_path / "run")), logits(of_step(1)), **CLOSE
    )


def test_adapters_are_drawn_from_the_seed_of_the_run(tmp_path: Path) -> None:
    drawn: list[dict[str, Tensor]] = []
    for state, seed in ((1, 5), (2, 5), (1, 6)):
        model = toy_model(tmp_path)
        torch.manual_seed(state)
        before = torch.get_rng_state()
        Seq2SeqTrainer(model, args=arguments(tmp_path / "run", lora=2, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
        drawn.append({name: value for name, value in weights(model).items() if ".lora_A" in name})
    assert all(torch.equal(value, drawn[1][name]) for name, value in drawn[0].items())
    assert not any(torch.equal(value, drawn[2][name]) for name, value in drawn[0].items())


@pytest.mark.parametrize("merge", ["--lora-merge", "--no-lora-merge"])
def test_the_command_line_trains_adapters_and_generates_with_them(merge: str, run: Any, tmp_path: Path) -> None:
    toy_model(tmp_path / "tokenizers").save_pretrained(tmp_path / "start")
    data = write_rows(tmp_path / "train.jsonl", toy_rows(16))
    told = run(
        *("train", "--model", tmp_path / "start", "--train", data, "--out", tmp_path / "run", "--lora", "2", merge),
        *("--dora", "--lora-targets", "q,up", "--max-steps", "3", "--learning-rate", "0.05", "--use-cpu"),
        *("--no-doctor", "--report-to", "none", "--save-strategy", "no"),
    )
    assert told.code == 0, told.err
    assert (tmp_path / "run" / "adapter_config.json").is_file() == (merge == "--no-lora-merge")
    model = EncoderDecoderModel.from_pretrained(tmp_path / "run")
    assert not torch.allclose(logits(model), logits(EncoderDecoderModel.from_pretrained(tmp_path / "start")), atol=1e-3)
    told = run("generate", tmp_path / "run", "w1 w2", "--max-new-tokens", "5")
    assert told.code == 0, told.err
    ids = model.generate(**model.tokenizer(["w1 w2"], return_tensors="pt"), max_new_tokens=5)
    assert told.lines == model.tokenizer.batch_decode(ids, skip_special_tokens=True)


def test_a_checkpoint_without_adapters_does_not_resume_such_a_run(tmp_path: Path) -> None:
    run_of(tmp_path, max_steps=2, lora=None).train()
    with pytest.raises(Exception, match="holds no adapter, and the run trains one"):
        run_of(tmp_path, resume_from_checkpoint="latest").train()


def test_targets_that_are_not_there_are_named() -> None:
    with pytest.raises(ConfigError, match=r"lora_targets: gate, query; the model's .* are down, k, o, q, up, v"):
        add_adapters(toy_model(), rank=2, targets=["q", "gate", "query"])
    with pytest.raises(ConfigError, match="The model has adapters already"):
        add_adapters(adapted(), rank=2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dora": True}, "dora = True without lora; it has no effect"),
        ({"lora_merge": False}, "lora_merge = False without lora"),
        ({"lora": 0}, "lora = 0; expected 1 or more"),
        ({"lora": 4, "fsdp": "full"}, "fsdp = 'full' does not go with lora"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        TrainingArguments(**changes)
