"""Adapters of peft on tensors that have several names: right before they are merged, after, and from the file."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from conjoin import ConfigError, EncoderDecoderModel
from lanes import thinned
from pairs import SOURCE, TARGET_LIKE_SOURCE, fresh, stir
from tiny_models import config

IDS = torch.tensor([[15, 16, 17, 18]])
LABELS = torch.tensor([[18, 19, 12]])
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("ignore:Input and output embeddings"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type"),
]


def lora(target: Any, **more: Any) -> peft.PeftConfig:
    return peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=target, **more)


ADAPTERS = {
    "words": lora(["words"]),
    "decoder's words": lora(r"decoder\.embed\.words"),
    "encoder's words": lora(r"encoder\.embed\.words"),
    "words, DoRA": lora(["words"], use_dora=True),
    "words in full": lora(["q"], modules_to_save=["words"]),
    "some words": lora(["q"], trainable_token_indices={"words": [15, 18, 19]}),
    "q and v": lora(["q", "v"]),
    "encoder's q": lora(r"encoder\..*\.q"),
    "mlp": lora(["up", "down"]),
    "IA3": peft.IA3Config(target_modules=["k", "v", "down"], feedforward_modules=["down"]),
    "norms": peft.LNTuningConfig(target_modules=["norm", "mlp_norm"]),
}


def made(kind: str) -> EncoderDecoderModel:
    if kind in ("none", "embeddings", "all"):
        return stir(fresh(SOURCE, TARGET_LIKE_SOURCE, share=kind))
    return stir(EncoderDecoderModel(config=config(kind)))


def scores(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, labels=LABELS).logits


def check(model: EncoderDecoderModel, adapter: peft.PeftConfig, folder: Path) -> EncoderDecoderModel:
    adapted = peft.get_peft_model(model, adapter).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    expected = scores(adapted)
    without = adapted(input_ids=IDS, labels=LABELS, output_logits=False).loss
    torch.testing.assert_close(without, adapted(input_ids=IDS, labels=LABELS).loss, **CLOSE)
    without.backward()
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
    merged = adapted.merge_and_unload().eval()
    torch.testing.assert_close(scores(merged), expected, **CLOSE)
    merged.save_pretrained(folder)
    again = EncoderDecoderModel.from_pretrained(folder)
    torch.testing.assert_close(scores(again), scores(merged), **CLOSE)
    again.save_pretrained(folder / "again")
    torch.testing.assert_close(scores(EncoderDecoderModel.from_pretrained(folder / "again")), scores(merged), **CLOSE)
    return again


@pytest.mark.parametrize(("share", "name"), thinned(2, ["none", "embeddings", "all"], ADAPTERS))
def test_what_is_merged_and_saved_is_what_the_adapter_computed(share: str, name: str, tmp_path: Path) -> None:
    check(made(share), ADAPTERS[name], tmp_path)


@pytest.mark.parametrize("target", [["q", "v"], ["words"], r"decoder\..*\.q"], ids=str)
@pytest.mark.parametrize("share", ["none", "embeddings", "all"])
@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "orthogonal", True], ids=str)
def test_an_adapter_starts_as_the_model(start: Any, share: str, target: Any) -> None:
    """PiSSA and OLoRA take a part out of the base weight, which the other half must not miss."""
    model = made(share).eval()
    before = scores(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, init_lora_weights=start, target_modules=target)).eval()
    torch.testing.assert_close(scores(adapted), before, **CLOSE)
    torch.testing.assert_close(scores(adapted.merge_and_unload()), before, **CLOSE)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_what_such_an_adapter_learnt_is_merged_and_saved(start: Any, tmp_path: Path) -> None:
    for number, target in enumerate((["q", "v"], r"decoder\..*\.q")):
        adapter = peft.LoraConfig(r=4, init_lora_weights=start, target_modules=target)
        check(made("all"), adapter, tmp_path / str(number))


@pytest.mark.parametrize("name", ["words", "decoder's words", "words in full", "some words", "q and v"])
@pytest.mark.parametrize("kind", ["t5", "mt5", "bart"])
def test_so_it_is_in_whole_models_whose_words_have_three_names(kind: str, name: str, tmp_path: Path) -> None:
    check(made(kind), ADAPTERS[name], tmp_path)


@pytest.mark.parametrize("key", ["albert", "electra", "gemma2", "gpt2", "opt"])
def test_so_it_is_where_the_word_table_is_narrow_or_scaled(key: str, tmp_path: Path) -> None:
    check(stir(fresh(SOURCE, config(key))), ADAPTERS["decoder's words"], tmp_path)


def test_halves_that_an_adapter_leaves_alone_stay_one_table(tmp_path: Path) -> None:
    again = check(made("all"), ADAPTERS["q and v"], tmp_path)
    assert again.config.share == "embeddings"
    assert again.encoder.embed.words.weight is again.decoder.embed.words.weight


@pytest.mark.parametrize("kind", ["embeddings", "all", "t5", "bart"])
@pytest.mark.parametrize("in_8_bits", [False, True])
def test_tables_that_somebody_untied_are_saved_untied(kind: str, in_8_bits: bool, tmp_path: Path) -> None:
    model = made(kind)
    words = model.decoder.embed.words
    words.weight = torch.nn.Parameter(torch.randn_like(words.weight))
    model = model.quantize("int8") if in_8_bits else model
    model.save_pretrained(tmp_path)
    again = EncoderDecoderModel.from_pretrained(tmp_path)
    assert torch.equal(scores(again), scores(model))
    assert again.encoder.embed.words.weight is not again.decoder.embed.words.weight


def test_a_table_that_was_untied_grows_on_its_own() -> None:
    model = made("embeddings")
    words = model.decoder.embed.words
    words.weight = torch.nn.Parameter(torch.randn_like(words.weight))
    model.resize_token_embeddings(encoder=70, decoder=65)
    assert (len(model.encoder.embed.words.weight), len(words.weight)) == (70, 65)
    assert model(input_ids=IDS, labels=LABELS).logits.shape[-1] == 65


@pytest.mark.parametrize("task", ["SEQ_2_SEQ_LM", "CAUSAL_LM"])
@pytest.mark.parametrize("given", [{}, {"num_layers": 2, "token_dim": 20, "num_attention_heads": 5}])
@pytest.mark.parametrize("kind", [peft.PromptTuningConfig, peft.PrefixTuningConfig, peft.PromptEncoderConfig])
def test_learnt_prompts_are_refused(kind: Any, given: dict[str, int], task: str) -> None:
    model = made("none")
    with pytest.raises(ConfigError, match=r"methods with learnt prompts are not supported.\n\nhint: use adapters"):
        peft.get_peft_model(model, kind(task_type=task, num_virtual_tokens=4, **given))
    assert all(parameter.requires_grad for parameter in model.encoder.blocks.parameters())
