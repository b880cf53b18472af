"""JAX and TensorFlow read the source in self-attention as PyTorch does: logits, losses, searches and files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import oracle
from conjoin import FlaxEncoderDecoderModel, TFEncoderDecoderModel
from conjoin.torch.pair.model import EncoderDecoderModel
from lanes import lanes
from source_readers import SOURCES, TARGETS, ids_of, language_model

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
CASES = (
    "gemma2 layerwise", "roberta/untied layerwise", "opt layerwise", "gpt_neox layerwise", "albert layerwise",
    "modernbert layerwise", "t5 layerwise", "mistral merged", "qwen3 merged", "t5/gated merged",
)  # fmt: skip
FAST = ("gemma2 layerwise", "mistral merged")


@pytest.fixture(params=lanes(CASES, FAST.__contains__), scope="module")
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    key, init = request.param.split()
    folder = tmp_path_factory.mktemp("pair")
    if oracle.model_type(key) in oracle.WHOLE_FAMILIES:
        oracle.save_whole(key, folder / "lm")
    else:
        language_model(key, folder / "lm")
    pair = EncoderDecoderModel.from_encoder_decoder_pretrained(
        folder / "lm", folder / "lm", cross_attention_init=init, decoder_start_token_id=oracle.START_ID
    )
    pair.save_pretrained(folder / "pair")
    return key, folder / "pair"


@pytest.mark.parametrize("backend", [FlaxEncoderDecoderModel, TFEncoderDecoderModel])
def test_compiled_models_give_pytorchs_numbers(saved: tuple[str, Path], backend: type[Any]) -> None:
    key, folder = saved
    expected, model = EncoderDecoderModel.from_pretrained(folder), backend.from_pretrained(folder)
    assert model.spec == expected.spec
    (source, mask), (target, target_mask) = ids_of(key, SOURCES, side="left"), ids_of(key, TARGETS, 2)
    labels = target.masked_fill(target_mask == 0, -100)
    with torch.no_grad():
        whole = expected(input_ids=source, attention_mask=mask, labels=labels)
    arrays = [np.asarray(x, np.int32) for x in (source, mask, labels)]
    ours = model(arrays[0], attention_mask=arrays[1], labels=arrays[2])
    real = target_mask.bool().numpy()
    np.testing.assert_allclose(np.asarray(ours.logits)[real], whole.logits[target_mask.bool()].numpy(), **CLOSE)
    np.testing.assert_allclose(float(np.asarray(ours.loss)), float(whole.loss), **CLOSE)
    for beams in (1, 3):
        settings = {"num_beams": beams, "max_new_tokens": 5, "min_new_tokens": 5}
        written = model.generate(arrays[0], attention_mask=arrays[1], **settings)
        written = np.asarray(getattr(written, "sequences", written))
        assert written.tolist() == expected.generate(source, attention_mask=mask, **settings).tolist()


def test_a_join_in_jax_is_the_same(tmp_path: Path) -> None:
    language_model("llama/tied", tmp_path)
    settings = {"cross_attention_init": "layerwise", "share": "all", "decoder_start_token_id": oracle.START_ID}
    expected = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path, tmp_path, **settings)
    model = FlaxEncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path, tmp_path, **settings)
    assert model.spec == expected.spec
    assert not model.join_report.fresh
    source, _ = ids_of("llama/tied", (6, 6))
    target, _ = ids_of("llama/tied", (4, 4), 2)
    ours = model(np.asarray(source, np.int32), decoder_input_ids=np.asarray(target, np.int32)).logits
    theirs = expected(input_ids=source, decoder_input_ids=target).logits.detach()
    np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), **CLOSE)
    model.save_pretrained(tmp_path / "pair")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "pair")
    torch.testing.assert_close(again(input_ids=source, decoder_input_ids=target).logits.detach(), theirs)
